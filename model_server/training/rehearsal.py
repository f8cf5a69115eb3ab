"""Cases against the engine itself, many at once: the gateway's turns and playout, without a gateway.

The caller's sound goes through G.711 (or Opus' band), is cut into chunks, and each reply is heard `LAG_S` after the
end of the turn that it answers, as over a gateway with a model server at ease. What a real call adds (jitter, the
way through pjsip and back) is in the figures of real calls only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from media.chunk import Chunk, Flags, VideoFrame
from media.ring import META
from media.timebase import MODEL_HZ, TURN_NS, TURN_SAMPLES
from model_server.batch import Batch, Said
from model_server.engine import Engine
from model_server.training.cases import Case
from model_server.training.channel import Codec, coded
from model_server.training.clip import PCM

LAG_SAMPLES = MODEL_HZ * 60 // 1000
"""From the end of a turn to the first sample of its reply: 50 ms of budget and a frame."""
LAG_S = LAG_SAMPLES / MODEL_HZ
AT_ONCE = 16


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What the caller of a case heard, on the case's own clock."""

    case: Case
    pcm: PCM
    """int16 [n], 16 kHz, as long as the case."""
    captions: tuple[tuple[int, str], ...] = ()
    """(turn, text) as the engine gave them; nothing of it comes over a telephone."""
    actions: tuple[tuple[int, str], ...] = ()


def rehearse(engine: Engine, cases: Sequence[Case], codec: Codec = Codec.MULAW) -> Iterator[Heard]:
    """Every case, `AT_ONCE` in a batch, in their order."""
    for start in range(0, len(cases), AT_ONCE):
        together = cases[start : start + AT_ONCE]
        rehearsal = Rehearsal(engine, together, codec)
        rehearsal.open()
        for turn in range(rehearsal.turns):
            rehearsal.step(turn)
        rehearsal.close()
        yield from rehearsal.heard()


class Rehearsal:
    """Some calls that begin at the same tick, or go on at it; the slot of a call is its number."""

    def __init__(
        self,
        engine: Engine,
        cases: Sequence[Case],
        codec: Codec = Codec.MULAW,
        *,
        first_slot: int = 0,
        first_turn: int = 0,
    ) -> None:
        """`first_slot` is that of the first call, `first_turn` the turn that their sound begins with."""
        self._engine, self._cases = engine, cases
        self._slots, self._first_turn = [first_slot + number for number in range(len(cases))], first_turn
        self.turns = max(case.turns for case in cases)
        self._callers = [coded(case.caller, codec) for case in cases]
        self._codec = codec
        # filled, not zeros: who measures memory finds it there from the beginning
        self._out = [np.full(len(case.caller) + 2 * TURN_SAMPLES, 0, np.int16) for case in cases]
        self._captions: list[list[tuple[int, str]]] = [[] for _ in cases]
        self._actions: list[list[tuple[int, str]]] = [[] for _ in cases]
        self._cut = [False] * len(cases)

    def open(self) -> None:
        """Their sequences."""
        for slot, case in zip(self._slots, self._cases, strict=True):
            self._engine.open(slot, case.persona)

    def step(self, turn: int) -> None:
        """This turn of their sound, from 0 on."""
        live = [number for number, case in enumerate(self._cases) if turn < case.turns]
        results = self._engine.step(self._batch(turn, live))
        for b, number in enumerate(live):
            self._play(number, turn, results.pcm_BS[b], results.said.get(b, Said()))

    def close(self) -> None:
        """They hang up."""
        for slot in self._slots:
            self._engine.close(slot)

    def heard(self) -> Iterator[Heard]:
        """What each of them heard, in their order."""
        for number, case in enumerate(self._cases):
            pcm = coded(self._out[number][: len(case.caller)], self._codec)
            yield Heard(case, pcm, tuple(self._captions[number]), tuple(self._actions[number]))

    def _batch(self, turn: int, live: Sequence[int]) -> Batch:
        meta = np.zeros(len(live), META)
        meta["turn"] = self._first_turn + turn
        meta["played"] = [self._played(number, turn) for number in live]
        samples = slice(turn * TURN_SAMPLES, (turn + 1) * TURN_SAMPLES)
        chunks = {}
        for b, number in enumerate(live):
            case = self._cases[number]
            pictures = case.pictures
            frame = pictures.picture(turn) if pictures and turn < len(pictures.scenes) else None
            if turn in case.typed or frame is not None:
                video = (VideoFrame(0, frame),) if frame is not None else ()
                pcm = self._callers[number][samples]
                chunks[b] = Chunk(
                    1, self._first_turn + turn, 0, pcm, text=case.typed.get(turn, ""), video=video
                )
        return Batch(
            turn * TURN_NS,
            np.array([self._slots[number] for number in live], np.intp),
            meta,
            np.stack([self._callers[number][samples] for number in live]),
            chunks,
        )

    def _played(self, number: int, turn: int) -> int:
        """Of our speech, since the chunk before: the end of one reply and the beginning of the next."""
        since = self._first_turn + turn
        if since == 0:
            return 0
        return TURN_SAMPLES - LAG_SAMPLES * (since == 1 or self._cut[number])

    def _play(self, number: int, turn: int, pcm: PCM, said: Said) -> None:
        at = (turn + 1) * TURN_SAMPLES
        self._cut[number] = Flags.FLUSH in said.flags
        if self._cut[number]:
            self._out[number][at : at + LAG_SAMPLES] = 0
        self._out[number][at + LAG_SAMPLES : at + LAG_SAMPLES + TURN_SAMPLES] = pcm[
            : max(0, len(self._out[number]) - at - LAG_SAMPLES)
        ]
        if said.text:
            self._captions[number].append((turn, said.text))
        self._actions[number] += [(turn, event) for event in said.events]
