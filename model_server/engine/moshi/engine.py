"""The engine `moshi`: a full-duplex model of that package, one sequence a slot, all of a tick stepped at once.

A turn brings each call two or three frames (frames.py); as many steps follow one another, each of all calls that
have a frame then (sequences.py). What the text stream says goes out as captions, what the codec says as sound.

A turn without a chunk leaves a sequence as it is. When its chunk comes after all, it is appended before the next
one and gets no reply; turns that never come are appended as silence, up to `GAP_TURNS` of them.

The language model looks back `context` frames. Of Moshi the rings come round: the oldest frame is forgotten with
every new one, and positions are told by their distance. Nothing begins anew, so nothing is heard of it. PersonaPlex
would forget who it is: before that, its prompt and the newest half of what is left are put in place of all that it
remembers, in one pass; the codec and what is said next stay as they are, so nothing is heard of that either. The
reply in which it happens says so for the call's record: `memory rolling N` once, `memory anew N` each time.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from media import heap
from media.chunk import MEMORY, PCM, Chunk, Flags
from media.timebase import TURN_SAMPLES
from model_server.batch import Batch, Results, Said
from model_server.engine.moshi.captions import Captions
from model_server.engine.moshi.frames import FRAME_HZ, FRAME_SAMPLES, MOST_FRAMES, Frames
from model_server.engine.moshi.prompts import Prompt, Prompts
from model_server.engine.moshi.sequences import Beginning, Frame, Networks, Sequences, dtype_of, silence
from model_server.engine.moshi.weights import PERSONAPLEX, Weights, check_fits, device

GAP_TURNS = 5
"""One second. What is missing beyond it is not told to the model."""
MOST_PROMPTS = 16
"""That are kept as they begin a call; of the published size 100 MB each."""


@dataclass(slots=True)
class Call:
    """What is kept of a call beside its row."""

    frames: Frames
    captions: Captions
    next_turn: int = -1
    positions: int = 0
    """That the language model has had since it began, or began anew."""
    prompt: Prompt | None = None
    newest: deque[npt.NDArray[np.int64]] = field(default_factory=deque)
    """Frames [Q] that it keeps when it begins anew."""


@dataclass(slots=True, eq=False)
class Due:
    """One turn of one call that is to be appended, and what came of it."""

    slot: int
    turn: int
    pcm: PCM
    chunk: Chunk | None = None
    text: str = ""
    events: list[str] = field(default_factory=list)

    @property
    def was_answered(self) -> bool:
        """It comes from a log: what is said in it, the caller had once."""
        return self.chunk is not None and Flags.ANSWERED in self.chunk.flags


class MoshiEngine:
    """One model's networks, and a row of their state for each slot."""

    name = "moshi"
    most_passes = MOST_FRAMES
    most_positions = 0
    """What a step costs does not depend on how full rings are: all of them are read."""

    def __init__(self, weights: Weights, persona: str = "", *, calls: int, products: str = "auto") -> None:
        """`ValueError` for a persona that cannot be had, or more calls than there is memory for."""
        heap.keep()
        on_gpu = torch.cuda.is_available()
        where = torch.device("cuda" if on_gpu else "cpu")
        if not on_gpu:
            torch.set_num_threads(1)
        dtype = dtype_of(products, where)
        check_fits(weights, device(), dtype.itemsize, calls)
        self.weights = weights
        self.sequences = Sequences(Networks.load(weights, dtype, where), calls, weights.generation)
        self._pieces = Captions.of(weights.tokenizer, self.sequences.silent_tokens)
        self._default, self._prompts = persona, self._prompts_of(weights)
        self._begun: OrderedDict[tuple[str, str], tuple[Prompt, Beginning]] = OrderedDict()
        self._beginning("")
        self._calls: dict[int, Call] = {}
        self._heard_RS = silence(calls)
        self._unread = self._unheard = self._rolling = 0

    @property
    def gauges(self) -> Mapping[str, int]:
        """Beside those of the model server."""
        return {
            "moshi_row_bytes": self.sequences.bytes_a_row,
            "moshi_context_frames": self.weights.context,
            "moshi_calls_beyond_context": sum(
                call.positions > self.weights.context for call in self._calls.values()
            ),
            "moshi_turns_unheard_total": self._unheard,
            "moshi_lines_unread_total": self._unread,
        }

    def pictures(self, slot: int) -> int:
        """None: it does not see."""
        return 0

    def open(self, slot: int, persona: str) -> None:
        """A new sequence; `ValueError` says which personas there are."""
        assert slot not in self._calls, f"slot {slot} is open"
        found = self._beginning(persona)
        if found is None:
            self.sequences.clear(slot)
            self._calls[slot] = Call(Frames(self.sequences.owed_frames), self._pieces.begun())
            return
        prompt, beginning = found
        self.sequences.begin(slot, beginning)
        newest = deque[npt.NDArray[np.int64]](maxlen=(self.weights.context - prompt.n) // 2)
        self._calls[slot] = Call(
            Frames(0), self._pieces.begun(), positions=prompt.n, prompt=prompt, newest=newest
        )

    def close(self, slot: int) -> None:
        """Forget it, in the rings, too."""
        del self._calls[slot]
        self.sequences.clear(slot)

    def warm(self, calls: int) -> None:
        """Twice a frame of no row: graphs are made of the second."""
        nobody = np.zeros(self.sequences.rows, np.bool_)
        for _ in range(3):
            self.sequences.step(self._heard_RS, nobody)

    def check(self) -> list[str]:
        """See `Engine.check`."""
        return [f"slot {slot}: {line}" for slot in self._calls for line in self.sequences.check(slot)]

    def step(self, batch: Batch) -> Results:
        """Late turns first, oldest first, then the newest turn of every row."""
        pcm_BS = np.zeros((len(batch), TURN_SAMPLES), np.int16)
        said: dict[int, Said] = {}
        row_of = {int(slot): b for b, slot in enumerate(batch.slots_B)}
        passes = 0
        for dues in _rounds([self._owed(batch, slot, row_of) for slot in {*row_of, *batch.earlier}]):
            for due in dues:
                self._hear(due)
            passes += self._run(dues)
            for due in dues:
                pcm = self._calls[due.slot].frames.reply()
                b = row_of.get(due.slot)
                if b is None or due.turn != int(batch.turns_B[b]):
                    self._unheard += not due.was_answered
                    continue
                pcm_BS[b] = pcm
                if due.text or due.events:
                    said[b] = Said(due.text, tuple(due.events))
        return Results(pcm_BS, said, passes)

    def _owed(self, batch: Batch, slot: int, row_of: Mapping[int, int]) -> list[Due]:
        """This call's turns in order, with those that never came."""
        due = [Due(slot, chunk.turn, chunk.pcm, chunk) for chunk in batch.earlier.get(slot, ())]
        if slot in row_of:
            b = row_of[slot]
            due.append(Due(slot, int(batch.turns_B[b]), batch.pcm_BS[b], batch.chunks.get(b)))
        call, found = self._calls[slot], list[Due]()
        for each in due:
            first = each.turn if call.next_turn < 0 else max(call.next_turn, each.turn - GAP_TURNS)
            found += [Due(slot, turn, np.zeros(TURN_SAMPLES, np.int16)) for turn in range(first, each.turn)]
            found.append(each)
            call.next_turn = each.turn + 1
        return found

    def _hear(self, due: Due) -> None:
        self._calls[due.slot].frames.hear(due.pcm)
        if due.chunk is not None:
            self._unread += bool(due.chunk.text) + len(due.chunk.events)

    def _run(self, dues: list[Due]) -> int:
        """Steps until none of these calls has a whole frame that waits; how many they were."""
        by_slot = {due.slot: due for due in dues}
        steps = 0
        while having := [slot for slot in by_slot if self._calls[slot].frames.waiting]:
            takes_part_R = np.zeros(self.sequences.rows, np.bool_)
            for slot in having:
                takes_part_R[slot] = True
                self._heard_RS[slot] = self._calls[slot].frames.take()
            frame = self.sequences.step(self._heard_RS, takes_part_R)
            for slot in having:
                call, due = self._calls[slot], by_slot[slot]
                if frame.spoken_R[slot]:
                    call.frames.speak(frame.pcm_RS[slot])
                    due.text += call.captions.read(int(frame.text_R[slot]))
                self._remember(slot, frame, due)
            steps += 1
        return steps

    def _remember(self, slot: int, frame: Frame, due: Due) -> None:
        """One more position; what is done where there is no room for the next."""
        call, context = self._calls[slot], self.weights.context
        call.positions += 1
        if call.prompt is None:
            if call.positions == context + 1:
                due.events.append(f"{MEMORY}rolling {_seconds(context)}")
            return
        call.newest.append(
            np.concatenate([frame.text_R[slot : slot + 1], frame.codes_RK[slot], frame.heard_RK[slot]])
        )
        if call.positions == context:
            newest_QF = torch.from_numpy(np.stack(call.newest, axis=1))
            self.sequences.shorten(slot, call.prompt, newest_QF)
            call.positions = call.prompt.n + len(call.newest)
            due.events.append(f"{MEMORY}anew {_seconds(len(call.newest))}")

    # -- personas

    def _prompts_of(self, weights: Weights) -> Prompts | None:
        if weights.kind != PERSONAPLEX:
            return None
        padding = int(self.sequences.lm.text_padding_token_id)
        return Prompts(weights, self._pieces.tokenizer, self.sequences.delays, padding)

    def _beginning(self, persona: str) -> tuple[Prompt, Beginning] | None:
        """Of a persona, empty is the server's own; `ValueError` says which there are."""
        persona = persona or self._default
        if self._prompts is None:
            if persona:
                raise ValueError(f"persona = {persona!r}: these weights have none; expected none")
            return None
        file, role = self._prompts.read(persona)
        key = str(file), role
        if key not in self._begun:
            prompt = self._prompts.prompt(self.sequences.voice(file), role)
            self._begun[key] = prompt, self.sequences.prepare(prompt)
            if len(self._begun) > MOST_PROMPTS:
                self._begun.popitem(last=False)
        self._begun.move_to_end(key)
        return self._begun[key]


def _seconds(frames: int) -> int:
    return frames * FRAME_SAMPLES // FRAME_HZ


def _rounds(of_calls: list[list[Due]]) -> Iterator[list[Due]]:
    """Turns that are appended together: the newest of all calls last, older ones before it."""
    for back in range(max(map(len, of_calls), default=0), 0, -1):
        yield [dues[-back] for dues in of_calls if len(dues) >= back]
