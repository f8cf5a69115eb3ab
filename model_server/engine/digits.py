"""The engine `digits`: the interaction model, many calls in one batch, on one thread of a CPU.

A step appends one turn to the sequence of every call that has a chunk, in the order of `micro_turn.TABLE`:

    chunk    samples       -> dMel levels, with 800 samples carried from the chunk before
             played        -> dMel levels of our own speech, as it was heard
             concealed     -> how much of each 50 ms was made up
             text, events  -> tokens; the persona is the first of them
             picture       -> patches, for the persona that counts
    tokens   said, done    -> caption and actions of the reply
    hidden   flow head, vocoder -> its 200 ms of sound

A turn without a chunk leaves a sequence as it is. When its chunk comes after all, it is appended before the next
one and gets no reply; turns that never come are appended as silence that we made up, up to `GAP_TURNS` of them.

Nothing here decides when to speak: the likeliest token is taken, and the noise of the flow head is the same for the
same turn of every call. One rule: a call's reply depends on that call alone.

Shapes: B calls of a pass, S = 3,200 samples.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from media import heap
from media.chunk import PCM, Flags
from media.timebase import TURN_SAMPLES
from model_server.batch import Batch, Results, Said
from model_server.engine import personas, words
from model_server.engine.due import ANSWER_TURNS, Call, Due, answered, owed, rounds, taken
from model_server.engine.sequences import Sequences
from model_server.engine.words import Talk
from model_server.model import checkpoint
from model_server.model.dmel import CARRIED_SAMPLES, FULL_SCALE, levels_of_samples
from model_server.model.flow_head import OUTPUTS, FlowHead
from model_server.model.inputs import TurnInputs
from model_server.model.interaction import Interaction
from model_server.model.micro_turn import HEAR_POSITIONS, SPEAK_POSITIONS, TEXT_LIMIT, truth_of
from model_server.model.patches import patches_of
from model_server.model.served.layer import serve, warm
from model_server.model.vocabulary import IDS
from model_server.model.vocoder import Vocoder, VocoderState, is_heard
from model_server.shedding import Shed

NOISE_TURNS = 64
NOISE_SEED = 20_261_121
FLOW_STEPS = 1
LOUD_END = 400.0
"""RMS of the last 25 ms of a turn in the middle of a word; the end of a word is below 150."""
LOUD_END_SAMPLES = 400
TAIL_SAMPLES = 600
"""What the vocoder still gives of the turn before, at most."""
QUIET_PEAK = 150
"""Largest sample of a turn that says nothing."""
PERSONA_LINE = "persona "
MOST_NOTICE = 200
"""Letters of an answer to a typed line that names no persona."""
_EYES, _DELEGATE = IDS[personas.COUNT], IDS["<delegate>"]
_WORDS = frozenset(token for name, token in IDS.items() if name.startswith(("say:", "heard:")))


class DigitsEngine:
    """The network of one checkpoint, and a sequence for each open slot."""

    name = "digits"

    def __init__(
        self,
        path: Path,
        persona: str = personas.DEFAULT,
        *,
        products: torch.dtype | None = None,
        passes: int | None = None,
        compact_after: int | None = None,
    ) -> None:
        """`ValueError` for a checkpoint or a persona that cannot be had.

        `products`: what the trunk's matrices are multiplied in; None is what this CPU is fastest in. `passes`: see
        `ModelServerConfig`; None is as many as the network was trained with. `compact_after`: positions after which
        a call that is silent begins anew, with its persona and its past words as text; None is never: rings are
        bounded without it, and the shipped network was not taught to read its past.
        """
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        heap.keep()
        self._default = personas.tokens_of(persona)
        loaded = checkpoint.load(path)
        self.config = loaded.config
        whole, self._flow_head = Interaction(loaded.config), FlowHead(loaded.config.hidden)
        loaded.into("interaction", whole)
        loaded.into("flow_head", self._flow_head)
        for module in (whole, self._flow_head):
            module.eval().requires_grad_(False)
        self._model = self._served(whole, products)
        self._vocoder = Vocoder()
        generator = torch.Generator().manual_seed(NOISE_SEED)
        self._noise = torch.randn(NOISE_TURNS, SPEAK_POSITIONS, OUTPUTS, generator=generator)
        trained = 1 + self.config.say_limit
        self.most_passes = trained if passes is None else min(passes, trained)
        self.most_positions = self.config.global_first + self.config.global_budget
        """Of a call, in the layers that keep the most."""
        self._compact_after = compact_after
        self._calls: dict[int, Call] = {}
        self._groups: list[Sequences] = []

    def _served(self, whole: Interaction, products: torch.dtype | None) -> Interaction:
        """In the form that it answers calls in; a rank keeps a part of it."""
        serve(whole.trunk, products)
        return whole

    def open(self, slot: int, persona: str) -> None:
        """A new sequence; an empty persona is the server's own. `ValueError` says which there are."""
        assert slot not in self._calls, f"slot {slot} is open"
        tokens = personas.tokens_of(persona) if persona else self._default
        self._calls[slot] = Call(deque(tokens, maxlen=4 * TEXT_LIMIT), _EYES in tokens, persona=tokens)

    def pictures(self, slot: int) -> int:
        """One where the persona has eyes: of two it would see the newest."""
        return int(self._calls[slot].sees)

    @torch.inference_mode()
    def close(self, slot: int) -> None:
        """Forget it."""
        del self._calls[slot]
        self._forget(slot)

    @property
    def gauges(self) -> Mapping[str, int]:
        """Whether what lies between a layer's products is compiled; else it is computed in torch."""
        return {"layers_compiled": int(self._model.trunk.keys_by_channel)}

    @property
    def kept_bytes_a_call(self) -> int:
        """Of its sequence and its voice, which are there from its first turn on; 0 before any call came."""
        return self._groups[0].bytes_per_row if self._groups else 0

    @torch.inference_mode()
    def repeat(self, slot: int) -> None:
        """For measuring: every sequence of the slot's group becomes like that of `slot`."""
        group = next(group for group in self._groups if slot in group)
        row, rows = group.row(slot), slice(0, len(group))
        for layer in group.trunk.layers:
            for buffer in layer.buffers():
                buffer[rows] = buffer[row].clone()
        group.trunk.positions[rows] = int(group.trunk.positions[row])

    @torch.inference_mode()
    def age(self, slot: int, positions: int) -> int:
        """For measuring: as if the sequence had come at least so many positions further, saying the same again.

        Returns by how many: whole rounds of all rings, so that each position lies where it would.
        """
        group = next(group for group in self._groups if slot in group)
        round_trip = math.lcm(*(places.ring for places, _ in group.trunk.kinds))
        further = -(-positions // round_trip) * round_trip
        group.trunk.positions[group.row(slot)] += further
        return further

    @torch.inference_mode()
    def step(self, batch: Batch) -> Results:
        """Late turns first, oldest first, then the newest turn of every row."""
        pcm_BS = np.zeros((len(batch), TURN_SAMPLES), np.int16)
        said: dict[int, Said] = {}
        row_of = {int(slot): b for b, slot in enumerate(batch.slots_B)}
        self._passes = 0
        for dues in rounds(owed(self._calls, batch, row_of)):
            for due, pcm, reply in self._append(dues, batch.shed):
                b = row_of.get(due.slot)
                if b is None or due.turn != int(batch.turns_B[b]):
                    if due.was_answered:  # by a server before us, with the same
                        due.call.own.send(pcm, Flags.FLUSH in reply.flags)
                        due.call.actions = ()
                    else:
                        due.call.actions += reply.events
                    continue
                pcm_BS[b] = pcm
                due.call.own.send(pcm, Flags.FLUSH in reply.flags)
                if due.call.actions:
                    reply = Said(reply.text, due.call.actions + reply.events, reply.flags)
                    due.call.actions = ()
                if reply.text or reply.events or reply.flags:
                    said[b] = reply
        return Results(pcm_BS, said, self._passes, self._kept(row_of))

    def _kept(self, slots: Iterable[int]) -> int:
        """Positions, of these calls together."""
        most, kept = self.most_positions, 0
        for group in self._groups:
            positions = group.trunk.positions[group.rows([slot for slot in slots if slot in group])]
            kept += int(positions.clamp(max=most).sum())
        return kept

    @torch.inference_mode()
    def warm(self, calls: int) -> None:
        """See `Engine.warm`."""
        warm(self._model.trunk, calls * (HEAR_POSITIONS + SPEAK_POSITIONS))

    @torch.inference_mode()
    def check(self) -> list[str]:
        """What is not whole in the sequences and their books; see `Engine.check`."""
        wrong = [
            f"slot {slot}: a sequence without a call" for slot in self._held() if slot not in self._calls
        ]
        return wrong + [line for group in self._groups for line in group.check()]

    def _held(self) -> Iterator[int]:
        for group in self._groups:
            yield from group.slots

    # -- where sequences lie

    def _position(self, slot: int) -> int:
        """How far the sequence of `slot`, which has one, has come."""
        group = next(group for group in self._groups if slot in group)
        return int(group.trunk.positions[group.row(slot)])

    def _sequences_of(self, slots: Sequence[int]) -> Iterator[tuple[Sequences, list[int]]]:
        """Slots that step together are kept together: a new one goes where the others of this pass are."""
        held: dict[int, list[int]] = {}
        new = []
        for slot in slots:
            place = next((at for at, group in enumerate(self._groups) if slot in group), None)
            if place is None:
                new.append(slot)
            else:
                held.setdefault(place, []).append(slot)
        if new:
            place = max(held, key=lambda at: len(held[at])) if held else self._empty_group()
            for slot in new:
                self._groups[place].open(slot)
            held.setdefault(place, []).extend(new)
        for place, together in held.items():
            group = self._groups[place]
            yield group, sorted(together, key=group.row)

    def _empty_group(self) -> int:
        for at, group in enumerate(self._groups):
            if not len(group):
                return at
        self._groups.append(Sequences(self._model, self._vocoder))
        return len(self._groups) - 1

    def _forget(self, slot: int) -> None:
        for group in self._groups:
            if slot in group:
                group.close(slot)

    # -- one turn of some calls

    def _append(self, dues: Sequence[Due], shed: Shed) -> Iterator[tuple[Due, PCM, Said]]:
        """Every turn, its sound and what else the reply to it has.

        Tokens are not shed: it was taught to write what a turn asks for in that turn, and forgets the rest.
        """
        for due in dues:
            self._read(due)
        for ordered, tokens, sound in self._turns(dues, sees=shed < Shed.VIDEO):
            for due, pcm, written in zip(ordered, sound, tokens, strict=True):
                due.call.past.extend(token for token in written if token in _WORDS)
                if _DELEGATE in written:
                    due.call.asked = due.call.turns
                yield due, pcm, self._reply(due.call, pcm, written)
            if self._compact_after is not None:
                self._compact(ordered)

    def _turns(
        self, dues: Sequence[Due], *, sees: bool
    ) -> Iterator[tuple[list[Due], list[list[int]], list[PCM]]]:
        """Through the network: calls that step together, the tokens of each and its sound."""
        by_slot = {due.slot: due for due in dues}
        for group, slots in self._sequences_of(list(by_slot)):
            ordered = [by_slot[slot] for slot in slots]
            rows = group.rows(slots)
            inputs = self._inputs(ordered, sees=sees)
            spoken = self._model.turn(group.trunk, rows, inputs, say_limit=self.most_passes - 1)
            self._passes += spoken.passes
            yield ordered, spoken.tokens, self._speak(group.voice, rows, spoken.hidden, ordered)

    def _compact(self, dues: Sequence[Due]) -> None:
        """Of calls that have come far and say nothing: older turns to text, which their next turn re-enters."""
        for due in dues:
            far = self._position(due.slot) >= (self._compact_after or 0)
            if far and not due.call.sounding and not due.call.text:
                self._forget(due.slot)
                due.call.text.extend((*due.call.persona, *due.call.past))

    def _read(self, due: Due) -> None:
        """Typed lines and events, into the call's text; a line that names a persona begins anew."""
        if due.chunk is None:
            answered(due.call, ())
            return
        for line in due.chunk.text.splitlines():
            if line.startswith(PERSONA_LINE):
                self._begin_anew(due, line.removeprefix(PERSONA_LINE))
        answered(due.call, words.read(due.chunk.text, due.chunk.events))

    def _begin_anew(self, due: Due, persona: str) -> None:
        call = due.call
        try:
            tokens = personas.tokens_of(persona)
        except ValueError as wrong:
            call.notice = f"[{str(wrong)[:MOST_NOTICE]}] "
            return
        self._forget(due.slot)
        call.text.clear()
        call.text.extend(tokens)
        call.early.clear()
        call.asked = -ANSWER_TURNS
        call.persona = tokens
        call.past.clear()
        call.sees, call.picture, call.turns, call.talk = _EYES in tokens, None, 0, Talk()

    def _inputs(self, dues: Sequence[Due], *, sees: bool = True) -> TurnInputs:
        """Everything that these calls bring, [B, ...]."""
        heard, own = [], []
        for due in dues:
            call = due.call
            heard.append(np.concatenate([call.heard_before, due.pcm]))
            own.append(np.concatenate([call.own_before, call.own.heard(due.played_samples)]))
            call.heard_before, call.own_before = heard[-1][-CARRIED_SAMPLES:], own[-1][-CARRIED_SAMPLES:]
        samples = torch.from_numpy(np.stack([*heard, *own]).astype(np.float32) / FULL_SCALE)
        levels = levels_of_samples(samples)
        return TurnInputs(
            levels[: len(dues)],
            levels[len(dues) :],
            torch.from_numpy(truth_of(np.array([due.concealed for due in dues]))),
            text={b: taken(due.call.text) for b, due in enumerate(dues) if due.call.text},
            patches={b: seen for b, due in enumerate(dues) if sees and (seen := self._seen(due)) is not None},
        )

    def _seen(self, due: Due) -> Tensor | None:
        """Patches of the newest picture and of the one before it."""
        if not due.call.sees or due.chunk is None or not due.chunk.video:
            return None
        picture = due.chunk.video[-1].copied()
        if picture is None:
            return None
        before, due.call.picture = due.call.picture, picture.rgb
        return patches_of(before, picture.rgb, self.config)

    def _noise_of(self, dues: Sequence[Due]) -> Tensor:
        """Of the flow head, float32 [B * 4, X]: by the number of the turn alone."""
        turns = torch.tensor([due.turn for due in dues])
        return self._noise.index_select(0, turns % NOISE_TURNS).flatten(0, 1)

    def _speak(self, voice: VocoderState, rows: list[int], hidden: Tensor, dues: Sequence[Due]) -> list[PCM]:
        """Hidden rows [B, 4, d] to int16 [3200] each. What the vocoder would make nothing of is not given to it."""
        vectors = self._flow_head.sample(hidden.flatten(0, 1), self._noise_of(dues), FLOW_STEPS)
        features = vectors.unflatten(0, (len(rows), -1)).flatten(1, 2)
        state = voice.select(torch.tensor(rows))
        audible = is_heard(features, state.tail)
        pcm = torch.zeros(len(rows), TURN_SAMPLES, dtype=torch.int16)
        if at := audible.nonzero()[:, 0].tolist():
            pcm[at], after = self._vocoder(features[at], state.select(torch.tensor(at)))
            voice.put(torch.tensor([rows[b] for b in at]), after)
        return list(pcm.numpy())

    def _reply(self, call: Call, pcm: PCM, tokens: Sequence[int]) -> Said:
        """Caption, actions, and whether what is still queued is to be cut: silence in the middle of a word."""
        call.turns += 1
        text, events = call.talk.write(tokens)
        sounds = bool(pcm.any())
        silent = not text and not (sounds and _peak(pcm[TAIL_SAMPLES:]) >= QUIET_PEAK)
        cuts = silent and call.sounding
        if cuts:
            pcm[:TAIL_SAMPLES] = 0
        call.sounding = sounds and _rms(pcm[-LOUD_END_SAMPLES:]) > LOUD_END
        notice, call.notice = call.notice, ""
        return Said(notice + text, events, Flags.FLUSH if cuts else Flags.NONE)


def _peak(pcm: PCM) -> int:
    return max(int(pcm.max()), -int(pcm.min()))


def _rms(pcm: PCM) -> float:
    samples = pcm.astype(np.float32)
    return float(np.sqrt(np.mean(samples * samples)))
