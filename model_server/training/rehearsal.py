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
        yield from _Rehearsal(engine, together, codec).run()


class _Rehearsal:
    """Some calls that begin at the same tick; the slot of a call is its number."""

    def __init__(self, engine: Engine, cases: Sequence[Case], codec: Codec) -> None:
        self._engine, self._cases = engine, cases
        self._callers = [coded(case.caller, codec) for case in cases]
        self._codec = codec
        self._out = [np.zeros(len(case.caller) + 2 * TURN_SAMPLES, np.int16) for case in cases]
        self._captions: list[list[tuple[int, str]]] = [[] for _ in cases]
        self._actions: list[list[tuple[int, str]]] = [[] for _ in cases]
        self._cut = [False] * len(cases)

    def run(self) -> Iterator[Heard]:
        for slot, case in enumerate(self._cases):
            self._engine.open(slot, case.persona)
        for turn in range(max(case.turns for case in self._cases)):
            live = [slot for slot, case in enumerate(self._cases) if turn < case.turns]
            results = self._engine.step(self._batch(turn, live))
            for b, slot in enumerate(live):
                self._play(slot, turn, results.pcm_BS[b], results.said.get(b, Said()))
        for slot, case in enumerate(self._cases):
            self._engine.close(slot)
            pcm = coded(self._out[slot][: len(case.caller)], self._codec)
            yield Heard(case, pcm, tuple(self._captions[slot]), tuple(self._actions[slot]))

    def _batch(self, turn: int, live: Sequence[int]) -> Batch:
        meta = np.zeros(len(live), META)
        meta["turn"] = turn
        meta["played"] = [self._played(slot, turn) for slot in live]
        samples = slice(turn * TURN_SAMPLES, (turn + 1) * TURN_SAMPLES)
        chunks = {}
        for b, slot in enumerate(live):
            case = self._cases[slot]
            pictures = case.pictures
            frame = pictures.picture(turn) if pictures and turn < len(pictures.scenes) else None
            if turn in case.typed or frame is not None:
                video = (VideoFrame(0, frame),) if frame is not None else ()
                pcm = self._callers[slot][samples]
                chunks[b] = Chunk(1, turn, 0, pcm, text=case.typed.get(turn, ""), video=video)
        return Batch(
            turn * TURN_NS,
            np.array(live, np.intp),
            meta,
            np.stack([self._callers[slot][samples] for slot in live]),
            chunks,
        )

    def _played(self, slot: int, turn: int) -> int:
        """Of our speech, since the chunk before: the end of one reply and the beginning of the next."""
        if turn == 0:
            return 0
        return TURN_SAMPLES - LAG_SAMPLES * (turn == 1 or self._cut[slot])

    def _play(self, slot: int, turn: int, pcm: PCM, said: Said) -> None:
        at = (turn + 1) * TURN_SAMPLES
        self._cut[slot] = Flags.FLUSH in said.flags
        if self._cut[slot]:
            self._out[slot][at : at + LAG_SAMPLES] = 0
        self._out[slot][at + LAG_SAMPLES : at + LAG_SAMPLES + TURN_SAMPLES] = pcm[
            : max(0, len(self._out[slot]) - at - LAG_SAMPLES)
        ]
        if said.text:
            self._captions[slot].append((turn, said.text))
        self._actions[slot] += [(turn, event) for event in said.events]
