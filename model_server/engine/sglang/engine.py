"""The engine `sglang`: `digits`, with its network under SGLang.

What a call brings (dMel, own voice, patches, text) and what becomes of the answer (captions, flow head, vocoder) is
that of `digits`, in this process. In between stands one request a micro-turn to a streaming session.

A turn that SGLang does not answer is silence for that call; its next turn goes to a new session. The model keeps
the call's row beyond sessions, so nothing but that turn is missing. Other calls do not notice. With SGLang's own
trunk (`trunk.py`) a session is all that is kept of a call: with a new one it begins anew with its past words.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import structlog
import torch

from media.chunk import PCM
from media.timebase import TURN_SAMPLES
from model_server.engine import personas
from model_server.engine.digits import DigitsEngine
from model_server.engine.due import Due
from model_server.engine.sglang import folder
from model_server.engine.sglang.asking import Answer, Lost
from model_server.engine.sglang.host import Host
from model_server.engine.sglang.limits import (
    INKLING_SESSION_TOKENS,
    SESSION_TOKENS,
    Limits,
    most_of_turn,
)
from model_server.engine.sglang.rows import Rows
from model_server.engine.sglang.trunk import INKLING, OWN, choose
from model_server.engine.sglang.turn_item import TurnItem
from model_server.model import checkpoint
from model_server.model.interaction import Interaction

WARM_S = 30.0
"""For the first turns of all, before any call waits."""

log = structlog.get_logger()


class SglangEngine(DigitsEngine):
    """The network of one checkpoint, and a session for each open slot."""

    name = "sglang"

    def __init__(
        self,
        path: Path,
        persona: str = personas.DEFAULT,
        *,
        calls: int,
        products: torch.dtype | None = None,
        passes: int | None = None,
        limits: Limits | None = None,
        trunk: str = OWN,
    ) -> None:
        """`ValueError` for a checkpoint, persona, limits or trunk that cannot be had. `calls`: at once, at most."""
        trunk = choose(trunk)
        super().__init__(path, persona, products=products, passes=passes)
        tokens = INKLING_SESSION_TOKENS if trunk == INKLING else SESSION_TOKENS
        limits = limits or Limits(calls, most_of_turn(self.config), tokens)
        self.rows = Rows(limits)
        self._folder = tempfile.TemporaryDirectory(prefix="microturn-sglang-")
        at = Path(self._folder.name)
        loaded = checkpoint.load(path)
        folder.write(at, loaded, rows=limits.calls, context=limits.context, products=products, trunk=trunk)
        self.host = Host(at, limits, trunk)
        self._voice = self._vocoder.start(limits.calls)

    def _served(self, whole: Interaction, products: torch.dtype | None) -> Interaction:
        return whole  # it is the scheduler's process that serves one

    def shut_down(self) -> None:
        """End SGLang's processes; they end with this one, too."""
        self.host.close()
        self._folder.cleanup()

    @property
    def gauges(self) -> Mapping[str, int]:
        """What SGLang holds for calls, and what has become of sessions."""
        return {
            "sglang_sessions": self.rows.sessions,
            "sglang_tokens_held": self.rows.tokens_held,
            "sglang_tokens_limit": self.rows.limits.total_tokens,
            **{f"sglang_{name}": value for name, value in dataclasses.asdict(self.rows.counts).items()},
        }

    def open(self, slot: int, persona: str) -> None:
        """See `DigitsEngine.open`; `ValueError` also when all sessions are taken."""
        super().open(slot, persona)
        try:
            self.rows.open(slot)
        except ValueError:
            del self._calls[slot]
            raise
        self._voice.open(self.rows[slot].row)

    def close(self, slot: int) -> None:
        """Forget it; SGLang gets its tokens back now."""
        del self._calls[slot]
        self._leave([self.rows.close(slot)])

    def warm(self, calls: int) -> None:
        """A turn of one call, and of as many as may come at once."""
        for count in sorted({1, min(calls, self.rows.limits.calls)}):
            slots = range(-count, 0)
            for slot in slots:
                self.rows.open(slot)
            self._enter(slots)
            held = [self.rows[slot] for slot in slots]
            turns = [(TurnItem.silent(each.row, each.call), each.session) for each in held if each.session]
            self.host.turns(turns, WARM_S)
            self._leave([self.rows.close(slot) for slot in slots])

    def check(self) -> list[str]:
        """See `Engine.check`; what SGLang says of itself when no call asks it."""
        self.host.look()
        strangers = [slot for slot in self._calls if slot not in self.rows]
        return [f"slot {slot}: a call without a row" for slot in strangers] + self.rows.check()

    @property
    def kept_bytes_a_call(self) -> int:
        """Of its voice, here; its sequence lies in SGLang's process."""
        return self._voice.bytes_per_row

    def _kept(self, slots: Iterable[int]) -> int:
        return sum(min(self.most_positions, self.rows[slot].positions) for slot in slots)

    def _forget(self, slot: int) -> None:
        self.rows.begin_anew(slot)
        if self._is_kept_by_session:
            self._leave([self.rows.leave(slot)])
        self._voice.open(self.rows[slot].row)

    @property
    def _is_kept_by_session(self) -> bool:
        """What the model knows of a call; else its row."""
        return self.host.trunk == INKLING

    def _begin_with_past(self, due: Due) -> None:
        """The model knows nothing of the call any more."""
        due.call.text.extendleft(reversed((*due.call.persona, *due.call.past)))
        self._forget(due.slot)

    def _turns(
        self, dues: Sequence[Due], *, sees: bool
    ) -> Iterator[tuple[list[Due], list[list[int]], list[PCM]]]:
        ordered = list(dues)
        for due in ordered:
            left = self.rows.full(due.slot)
            self._leave([left])
            if left and self._is_kept_by_session:
                self._begin_with_past(due)
        inputs = self._inputs(ordered, sees=sees)
        self._enter([due.slot for due in ordered])
        held = [self.rows[due.slot] for due in ordered]
        items = [
            TurnItem.of(inputs, b, each.row, each.call, each.turn, self.most_passes - 1)
            for b, each in enumerate(held)
        ]
        having = [b for b, each in enumerate(held) if each.session]
        heard = self.host.turns([(items[b], held[b].session) for b in having])
        answers: list[Answer | Lost | None] = [None] * len(ordered)
        for b, answer in zip(having, heard, strict=True):
            answers[b] = answer
        told = zip(ordered, items, answers, strict=True)
        self._leave([self._book(due, item, answer) for due, item, answer in told])
        self._passes += max((answer.passes for answer in answers if isinstance(answer, Answer)), default=0)
        self._passes += bool(inputs.text or inputs.patches)
        tokens = [answer.tokens if isinstance(answer, Answer) else [] for answer in answers]
        yield ordered, tokens, self._sound(ordered, answers)

    def _book(self, due: Due, item: TurnItem, answer: Answer | Lost | None) -> str:
        """What became of a turn; the session that is to be closed, or nothing."""
        if isinstance(answer, Answer):
            self.rows.appended(due.slot, item.header.positions, len(answer.tokens))
            return ""
        left = self.rows.unanswered(due.slot)
        if isinstance(answer, Lost) or (self._is_kept_by_session and item.header.turn):
            log.error("a call's sequence is lost: it begins anew with its past words", slot=due.slot)
            self.rows.counts.sequences_lost_total += 1
            self._begin_with_past(due)
            return left
        due.call.text.extendleft(reversed(item.text))  # else its words would be lost with the turn
        if item.header.turn == 0:
            self._forget(due.slot)
        return left

    def _sound(self, dues: list[Due], answers: Sequence[Answer | Lost | None]) -> list[PCM]:
        """Of those that were answered; the others are silent."""
        sound: list[PCM] = [torch.zeros(TURN_SAMPLES, dtype=torch.int16).numpy() for _ in dues]
        said = {b: answer.hidden for b, answer in enumerate(answers) if isinstance(answer, Answer)}
        if said:
            hidden = torch.stack([torch.from_numpy(rows.copy()) for rows in said.values()])
            rows = [self.rows[dues[b].slot].row for b in said]
            for b, pcm in zip(
                said, self._speak(self._voice, rows, hidden, [dues[b] for b in said]), strict=True
            ):
                sound[b] = pcm
        return sound

    def _enter(self, slots: Sequence[int]) -> None:
        """A session for each that has none, if SGLang has one."""
        without = [slot for slot in slots if not self.rows[slot].session]
        for slot, session in zip(without, self.host.open_sessions(len(without)), strict=True):
            if session:
                self.rows.opened(slot, session)

    def _leave(self, sessions: Sequence[str]) -> None:
        self.host.close_sessions([session for session in sessions if session])
