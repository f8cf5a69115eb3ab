"""One call as its worker sees it: what was said in each turn, and the tasks that are open.

    reply  -> `replied`   text waits for its sound; `heard WORD` is the caller's; `delegate ...` begins a task
    news   -> `take_news` pieces of results wait for their turn
    turn   -> `turned`    lines whose sound is over are written down, one piece goes into the next chunk

It knows no Redis and never waits. What the main process does not confirm is told again; what does not come back by
its deadline has failed, and the model is told so whatever has become of the others.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import structlog

from gateway import control
from gateway.background import answers
from gateway.background.records import (
    CUT,
    MOST_CONVERSATION_BYTES,
    MOST_PIECES,
    MOST_REQUEST_BYTES,
    OPEN,
    READS,
    Reads,
    Spoken,
    cut_front,
    cut_text,
)
from media.chunk import MAX_TEXT_BYTES, Flags, Reply
from media.leg import Leg
from media.playout import MAX_AHEAD_TURNS
from media.timebase import FRAME_MS, FRAMES_PER_TURN, MODEL_HZ, TURN_MS, TURN_SAMPLES

FRAME_SAMPLES: Final = MODEL_HZ * FRAME_MS // 1000
MOST_OPEN: Final = 8
"""Whatever the gateway allows."""
MOST_INJECTED: Final = 2 * MOST_PIECES
MOST_LINE_BYTES: Final = MAX_TEXT_BYTES
"""A chunk or a reply never carries more; several of one turn may: they end with `CUT`, and are counted."""
WITHHELD: Final = CUT.strip()
"""In place of what the policy kept from being heard."""
LINES_AT_ONCE: Final = 8
"""In one control packet, whatever has to be escaped in them."""
TELL_TURNS: Final = 5
"""Lines are told once a second."""
AGAIN_TURNS: Final = 10
"""A task that the main process has not confirmed is told again so often."""
UNHEARD_TURNS: Final = 50
"""10 s without a main process: nobody will work at it in time."""

Tell = Callable[[control.WorkerMessage], None]
Show = Callable[..., None]
log = structlog.get_logger()

ACTIONS: Final = ("heard", "delegate", "withdraw")
"""Events of a reply that are dealt with here."""


@dataclass(slots=True)
class _Sounding:
    """Text of a reply whose sound is not over."""

    turn: int
    frame: int
    text: str
    skipped: int


@dataclass(slots=True)
class _Task:
    name: str
    request: str
    message: control.Delegated
    told_turn: int
    last_turn: int
    state: str = "asked"
    confirmed: bool = False
    number: int = 0
    """Of its newest news."""
    text: list[str] = field(default_factory=list)
    pieces: int = 0
    note: str = ""


class Conversation:
    """Of one call. `show` tells whoever watches it: `show("task", task=..., state=...)`."""

    def __init__(
        self,
        name: str,
        leg: Leg[Any],
        tell: Tell,
        show: Show | None = None,
        engine: str = "",
        has_camera: Callable[[], bool] = lambda: False,
    ) -> None:
        self.engine = engine
        self.tasks_begun = 0
        self._name, self._leg, self._tell, self._has_camera = name, leg, tell, has_camera
        self._show: Show = show if show is not None else lambda kind, **fields: None
        self._lines: deque[Spoken] = deque()
        self._line_bytes = 0
        self._untold: list[Spoken] = []
        self._sounding: deque[_Sounding] = deque(maxlen=MAX_AHEAD_TURNS + 3)
        self._tasks: dict[str, _Task] = {}
        self._injected: deque[str] = deque()
        self._not_given = 0
        self._lines_cut = 0
        self._told_turn = 0

    @property
    def open_tasks(self) -> int:
        """How many."""
        return len(self._tasks)

    def newest(self, most_bytes: int) -> str:
        """The end of the conversation as text, for whoever goes on with it."""
        return cut_front(written(in_order(self._lines)), most_bytes)

    # -- what is said

    def typed(self, text: str) -> None:
        """The caller's own line, typed for this turn."""
        self._say(Spoken(self._leg.turn, "caller", text))

    def replied(self, reply: Reply, taken: bool) -> tuple[str, ...]:
        """Text and events of a reply; gives the events that are none of ours."""
        if not reply.text and not reply.events and not reply.flags:
            return ()
        if reply.flags & Flags.FLUSH:
            self._cut()
        others = self._act(reply) if reply.events else ()
        if taken and reply.text:
            ledger = self._leg.playout.ledger
            frame = self._leg.playout.frame_of(reply.turn)
            self._sounding.append(_Sounding(reply.turn, frame, reply.text, ledger.flushed))
        return others

    def withhold(self, turn: int, since: int) -> None:
        """What was said from turn `since` on is not heard further, up to `turn` and its text, which nobody gets."""
        playout, before = self._leg.playout, self._sounding
        self._sounding = deque((s for s in before if s.turn < since), before.maxlen)
        for sounding in before:
            frames = playout.next_frame - sounding.frame
            if sounding.turn >= since and frames > 0:
                self._write_down(sounding, FRAME_SAMPLES * min(frames, FRAMES_PER_TURN))
        self._say(Spoken(turn, "model", WITHHELD))

    def turned(self) -> None:
        """Once a turn, when its chunk is published."""
        if self._sounding:
            self._settle()
        if self._injected:
            self._inject()
        if self._tasks:
            self._watch()
        if self._untold and self._leg.turn - self._told_turn >= TELL_TURNS:
            self._tell_lines()

    def end(self) -> None:
        """The call is over, and with it whatever it waits for."""
        self._cut()
        self._tell_lines(all_of_them=True)
        self._tasks.clear()
        if self.tasks_begun:
            self._tell(control.Withdrawn(self._name))
        if self._not_given:
            log.warning("more results than the model could be given", call=self._name, lines=self._not_given)
        if self._lines_cut:
            log.warning("more was said in a turn than a line holds", call=self._name, lines=self._lines_cut)

    # -- tasks

    def take_news(self, news: control.TaskNews) -> None:
        """What became of a task; what was heard before, or of a task that is over, is dropped."""
        task = self._tasks.get(news.task)
        if task is None:
            return
        if not news.number:
            task.confirmed = True
            if news.left_ms:
                task.last_turn = self._leg.turn + -(-news.left_ms // TURN_MS)
            if news.state not in OPEN:
                self._finish(task, news.state, news.note)
            return
        if news.number <= task.number:
            return
        task.confirmed, task.number, task.state, task.note = True, news.number, news.state, news.note
        if news.text:
            self._add(task, news.text)
        self._show("task", task=task.name, state=news.state, text=news.text, note=news.note)
        if news.state not in OPEN:
            self._finish(task, news.state, news.note, shown=True)

    def withdraw(self, name: str = "") -> None:
        """Nobody wants that task any more; without a name all of them."""
        for task in [t for t in self._tasks.values() if name in ("", t.name)]:
            del self._tasks[task.name]
            self._tell(control.Withdrawn(self._name, task.name))
            self._show("task", task=task.name, state="cancelled", text="", note="")

    def tell_again(self) -> None:
        """The main process is a new one: it is told of every open task when its turn comes."""
        for task in self._tasks.values():
            task.confirmed, task.told_turn = False, -AGAIN_TURNS

    def show_all(self) -> None:
        """To one who has just begun to watch."""
        for task in self._tasks.values():
            self._show(
                "task",
                task=task.name,
                state=task.state,
                text="".join(task.text),
                note=task.note,
                request=task.request,
            )

    # -- inside: words

    def _act(self, reply: Reply) -> tuple[str, ...]:
        others: list[str] = []
        words: list[str] = []
        for event in reply.events:
            action, _, value = event.partition(" ")
            if action == "heard":
                words.append(value)
            elif action == "delegate":
                self._say_heard(reply.turn, words)
                self._delegate(reply.turn, value)
            elif action == "withdraw":
                self.withdraw(value)
            else:
                others.append(event)
        self._say_heard(reply.turn, words)
        return tuple(others)

    def _say_heard(self, turn: int, words: list[str]) -> None:
        if words:
            text = " ".join(words)
            words.clear()
            self._say(Spoken(turn, "caller", text))
            self._show("heard", turn=turn, text=text)

    def _say(self, line: Spoken) -> None:
        line = msgspec.structs.replace(line, text=_cut(line.text))
        self._untold.append(line)
        self._lines.append(line)
        self._line_bytes += _size(line)
        while self._line_bytes > MOST_CONVERSATION_BYTES:
            self._line_bytes -= _size(self._lines.popleft())

    def _settle(self) -> None:
        """Those whose last frame is over."""
        playout = self._leg.playout
        while self._sounding and self._sounding[0].frame + FRAMES_PER_TURN <= playout.next_frame:
            sounding = self._sounding.popleft()
            unheard = (playout.ledger.flushed - sounding.skipped) * MODEL_HZ // playout.rate_hz
            self._write_down(sounding, max(0, TURN_SAMPLES - unheard))

    def _cut(self) -> None:
        """Nothing of what has not been heard yet ever will be."""
        for sounding in self._sounding:
            frames = self._leg.playout.next_frame - sounding.frame
            self._write_down(sounding, FRAME_SAMPLES * max(0, min(frames, FRAMES_PER_TURN)))
        self._sounding.clear()

    def _write_down(self, sounding: _Sounding, played_samples: int) -> None:
        self._say(Spoken(sounding.turn, "model", sounding.text, played_samples))

    def _tell_lines(self, *, all_of_them: bool = False) -> None:
        """In order, one of each of them a turn: what is told before another line of an earlier turn may still come
        is told later."""
        self._told_turn = self._leg.turn
        until = self._sounding[0].turn if self._sounding else self._leg.turn
        until = min(until, self._leg.turn - MAX_AHEAD_TURNS)
        ready = [line for line in self._untold if all_of_them or line.turn < until]
        self._untold = [line for line in self._untold if not all_of_them and line.turn >= until]
        told = in_order(ready)
        self._lines_cut += sum(line.text.endswith(CUT) for line in told)
        for start in range(0, len(told), LINES_AT_ONCE):
            self._tell(control.Said(self._name, tuple(told[start : start + LINES_AT_ONCE])))

    # -- inside: tasks

    def _delegate(self, turn: int, request: str) -> None:
        """A new task, with everything that was said before it."""
        self.tasks_begun += 1
        name = f"{self.tasks_begun}-{secrets.token_hex(6)}"
        request = cut_front(request, MOST_REQUEST_BYTES)
        self._show("task", task=name, state="asked", text="", note="", request=request)
        if len(self._tasks) >= MOST_OPEN:
            self._fail(name, "too many tasks at once")
            return
        reads: Reads = READS.get(self.engine, "text")
        message = control.Delegated(
            self._name, name, turn, request, tuple(in_order(self._lines)), reads, self._has_camera()
        )
        last_turn = self._leg.turn + UNHEARD_TURNS
        self._tasks[name] = _Task(name, request, message, self._leg.turn, last_turn)
        self._tell(message)

    def _add(self, task: _Task, text: str) -> None:
        """A piece of a result: for those who read text at once, else when it is whole."""
        task.pieces += 1
        if task.pieces > MOST_PIECES:
            self._not_given += 1
            return
        task.text.append(text)
        if task.message.reads == "text":
            self._give(*answers.lines_of(text))

    def _finish(self, task: _Task, state: str, note: str, *, shown: bool = False) -> None:
        del self._tasks[task.name]
        if not shown:
            self._show("task", task=task.name, state=state, text="", note=note)
        if state == "done" and task.message.reads == "numbers":
            self._give(answers.number_line("".join(task.text)))
        elif state == "failed":
            self._give(answers.FAILED)

    def _fail(self, name: str, note: str) -> None:
        self._show("task", task=name, state="failed", text="", note=note)
        self._give(answers.FAILED)

    def _give(self, *lines: str) -> None:
        """They wait for their turns; what does not fit is counted, and reported when the call is over."""
        room = MOST_INJECTED - len(self._injected)
        self._injected.extend(lines[:room])
        self._not_given += len(lines[room:])

    def _inject(self) -> None:
        """One line a turn, so that typed ones have room as well."""
        if self._leg.receive_text(self._injected[0]):
            self._injected.popleft()

    def _watch(self) -> None:
        """Those that were not confirmed, and those whose time is over."""
        turn = self._leg.turn
        for task in list(self._tasks.values()):
            if turn >= task.last_turn:
                self._tell(control.Withdrawn(self._name, task.name))
                self._finish(task, "failed", "out of time" if task.confirmed else "no gateway took it")
            elif not task.confirmed and turn - task.told_turn >= AGAIN_TURNS:
                task.told_turn = turn
                self._tell(task.message)


def _cut(text: str) -> str:
    """As much as a line holds; what is left out shows."""
    if len(text.encode(errors="replace")) <= MOST_LINE_BYTES:
        return text
    return cut_text(text.removesuffix(CUT), MOST_LINE_BYTES - len(CUT)) + CUT


def _size(line: Spoken) -> int:
    return len(msgspec.json.encode(line)) + 1


def in_order(lines: Iterable[Spoken]) -> list[Spoken]:
    """Turn by turn, the caller's before the model's; what one of them said in one turn in one line."""
    joined: dict[tuple[int, str], Spoken] = {}
    for line in lines:
        place = (line.turn, line.speaker)
        if before := joined.get(place):
            line = msgspec.structs.replace(before, text=_cut(f"{before.text}\n{line.text}"))
        joined[place] = line
    return [joined[place] for place in sorted(joined)]


def written(lines: Sequence[Spoken]) -> str:
    """A conversation as text, a line for each change of speaker: `caller: 3 plus`. What was not heard says so."""
    parts: list[str] = []
    last = ""
    for line in lines:
        words = line.text.strip()
        if line.speaker == "model" and line.played_samples < TURN_SAMPLES // 2 and words != WITHHELD:
            words = f"[not heard: {words}]"
        parts.append(f" {words}" if line.speaker == last else f"\n{line.speaker}: {words}")
        last = line.speaker
    return cut_text("".join(parts).strip(), MOST_CONVERSATION_BYTES)
