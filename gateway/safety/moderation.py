"""An endpoint elsewhere is asked about what the model has said: OpenAI's moderation, in the background.

    lines that were heard -> queue (`MOST_WAITING`)
                          -> POST {"model", "input"} -> {"results": [{"flagged", "categories"}]}

No call waits for it: its answer comes a second or more after the words. A line that finds no room in the queue, and
one that is not answered in time or by what is none, passes and is counted, or counts as flagged (`closed`). Nothing
is asked twice. Its one rule: what was said goes to the endpoint and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import msgspec
import structlog

from gateway.background.records import Spoken
from gateway.reading import reader

log = structlog.get_logger()

MOST_WAITING: Final = 256
"""Texts; each is what a call has said in a second."""
AT_ONCE: Final = 4
MOST_ANSWER_BYTES: Final = 1 << 16
MOST_BEFORE: Final = 400
"""Letters of what the call said before, so that a sentence over several seconds is seen whole."""
MOST_CATEGORIES: Final = 8
MOST_CALLS: Final = 4_096
"""Of which something said before is kept; the oldest go."""
UNCHECKED: Final = "unchecked"
"""In place of categories, where nobody answered."""


@dataclass(frozen=True, slots=True)
class ModerationOptions:
    """Whom to ask, and how long."""

    url: str
    key: str = field(default="", repr=False)
    model: str = ""
    answer_s: float = 2.0
    closed: bool = False
    """What was not answered counts as flagged."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the model of a call was heard to say, up to a turn."""

    worker: str
    inside: str
    """The call's name in that worker."""
    turn: int
    text: str


@dataclass(slots=True)
class ModerationCounters:
    """Since the start of this process."""

    asked: int = 0
    flagged: int = 0
    failed: int = 0
    """Answered too late, with another status than 200, or with what is no answer."""
    unasked: int = 0
    """There was no room in the queue."""


Flagged = Callable[[Heard, tuple[str, ...]], None]
"""Told of what was flagged, and as what."""


class _Result(msgspec.Struct):
    flagged: bool
    categories: dict[str, bool | None] = {}


class _Answer(msgspec.Struct):
    results: list[_Result]


_decode = reader(msgspec.json.Decoder(_Answer).decode)


class Moderator:
    """Its `run` is to run."""

    def __init__(self, options: ModerationOptions, flagged: Flagged) -> None:
        self.counters = ModerationCounters()
        self._options, self._flagged = options, flagged
        self._waiting: asyncio.Queue[Heard] = asyncio.Queue(MOST_WAITING)  # full: not asked, counted
        self._before: dict[tuple[str, str], str] = {}
        self._fails = False

    def said(self, worker: str, inside: str, lines: Sequence[Spoken]) -> None:
        """Lines of a call's transcript; what the caller said, and what was not heard, is not asked about."""
        own = [line for line in lines if line.speaker == "model" and line.played_samples]
        if not own:
            return
        place, text = (worker, inside), "".join(line.text for line in own)
        heard = Heard(worker, inside, own[-1].turn, (self._before.pop(place, "") + text).strip())
        self._before[place] = heard.text[-MOST_BEFORE:] + text[len(text.rstrip()) :]
        if len(self._before) > MOST_CALLS:
            del self._before[next(iter(self._before))]
        if not heard.text:
            return
        try:
            self._waiting.put_nowait(heard)
        except asyncio.QueueFull:
            self.counters.unasked += 1
            self._unanswered(heard)

    def over(self, worker: str, inside: str) -> None:
        """The call has ended."""
        self._before.pop((worker, inside), None)

    async def run(self) -> None:
        """Until cancelled."""
        key, timeout = self._options.key, aiohttp.ClientTimeout(total=self._options.answer_s)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as http,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(AT_ONCE):
                group.create_task(self._ask_on(http))

    async def _ask_on(self, http: aiohttp.ClientSession) -> None:
        while True:
            heard = await self._waiting.get()
            self.counters.asked += 1
            try:
                categories = await self._ask(http, heard.text)
            except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError, ValueError) as wrong:
                self.counters.failed += 1
                self._say_that_it_fails(f"{type(wrong).__name__} {wrong}"[:120])
                self._unanswered(heard)
                continue
            self._say_that_it_fails("")
            if categories is not None:
                self.counters.flagged += 1
                self._before.pop((heard.worker, heard.inside), None)  # it is told once
                self._flagged(heard, categories)

    async def _ask(self, http: aiohttp.ClientSession, text: str) -> tuple[str, ...] | None:
        """The categories of what was flagged; None for what was not."""
        wish = {"input": text} | ({"model": self._options.model} if self._options.model else {})
        async with http.post(
            self._options.url, data=msgspec.json.encode(wish), allow_redirects=False
        ) as answer:
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
            body = b""
            async for piece in answer.content.iter_chunked(1 << 14):
                body += piece
                if len(body) > MOST_ANSWER_BYTES:
                    raise ValueError("an answer without end")
        results = _decode(body).results
        if not results:
            raise ValueError("no results")
        if not any(result.flagged for result in results):
            return None
        names = sorted(
            {name[:40] for result in results for name, is_so in result.categories.items() if is_so}
        )
        return tuple(names[:MOST_CATEGORIES])

    def _say_that_it_fails(self, why: str) -> None:
        """At the first failure and when it is over; in between they are counted."""
        if why and not self._fails:
            log.warning("moderation does not answer", why=why, failed=self.counters.failed)
        elif self._fails and not why:
            log.info("moderation answers again", failed=self.counters.failed)
        self._fails = bool(why)

    def _unanswered(self, heard: Heard) -> None:
        if self._options.closed:
            self._flagged(heard, (UNCHECKED,))
