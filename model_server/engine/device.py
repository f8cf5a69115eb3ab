"""The engine `digits` on a device: the same engine, whose network is the step that a GPU repeats (`model/device`).

What a call brings and what becomes of the answer is that of `digits`, on the host. Slot s is row s of the step,
whose state is there from the start. The plain weights lie on the device, in bfloat16 on a GPU; on a CPU, for tests,
they stay float32, and the engine says what `digits` says. Not run on a GPU yet.

How far each sequence has come is counted here, so that a step asks the device for its tokens and sound alone;
`check` holds the count against the device's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from media.chunk import PCM
from model_server.engine import personas
from model_server.engine.digits import FLOW_STEPS, DigitsEngine
from model_server.engine.due import Due
from model_server.model.config import ModelConfig
from model_server.model.device.chosen import check_room, dtype_of_weights
from model_server.model.device.graphs import Tally
from model_server.model.device.state import session_bytes
from model_server.model.device.step import BUCKETS, CONTEXTS, EVERY_TURN, DeviceStep, bucket_of
from model_server.model.inputs import TurnInputs
from model_server.model.interaction import Interaction
from model_server.model.micro_turn import HEAR_POSITIONS, MEL_CHANNELS, TEXT_LIMIT, MicroTurn
from model_server.model.patches import patch_count
from model_server.model.router import Router


class DeviceEngine(DigitsEngine):
    """The network of one checkpoint on one device, and a session of it for each slot."""

    _add: Callable[[Tensor], Tensor] | None = None
    _tally: Tally | None = None
    """What `DeviceStep` is given of them: a rank has both."""

    def __init__(
        self,
        path: Path,
        persona: str = personas.DEFAULT,
        *,
        device: torch.device,
        calls: int,
        products: torch.dtype | None = None,
        passes: int | None = None,
        compact_after: int | None = None,
    ) -> None:
        """`ValueError` for a checkpoint or a persona that cannot be had, and for a device without room for it.

        `calls`: at once, at most: slots are 0 .. calls - 1. `products`: the dtype of the weights, too; None is
        bfloat16 on a GPU, float32 on a CPU. The others: see `DigitsEngine`. On a GPU `warm` captures all passes.
        """
        self.device, self.calls = device, calls
        if device.type == "cuda":
            torch.cuda.set_device(device)  # kernels and captures go to the one that is current
        super().__init__(path, persona, products=products, passes=passes, compact_after=compact_after)
        self.network = DeviceStep(
            self._model,
            self._flow_head.to(device),
            calls,
            buckets=buckets_for(calls),
            contexts=contexts_for(self.config),
            flow_steps=FLOW_STEPS,
            add=self._add,
            tally=self._tally,
        )
        self._positions: dict[int, int] = {}

    def _served(self, whole: Interaction, products: torch.dtype | None) -> Interaction:
        """On the device, as it was trained but for its dtype; balances of routers stay float32."""
        dtype = dtype_of_weights(self.device, products)
        weights = sum(value.numel() for value in whole.parameters())
        most = EVERY_TURN + contexts_for(self.config)[-1]
        check_room(self.device, whole.config, weights, self.calls, most, dtype)
        balances = [(module, module.balance) for module in whole.modules() if isinstance(module, Router)]
        model = whole.to(self.device, dtype)
        for router, balance in balances:
            router.balance = balance.to(self.device)
        return model

    @property
    def gauges(self) -> Mapping[str, int]:
        """Passes that are replayed; the others are called one kernel after another."""
        return {"graphs_captured": len(self.network.graphs)}

    @property
    def kept_bytes_a_call(self) -> int:
        """Of its sequence, which is there from the start, and its voice."""
        state = self.network.state
        item_bytes = state.layers[0].pages.keys.element_size()
        sequence = session_bytes(state.config, EVERY_TURN + self.network.contexts[-1], item_bytes)
        return sequence + self.network.voice_bytes

    def open(self, slot: int, persona: str) -> None:
        """See `DigitsEngine.open`; the slot is one of those that there are."""
        assert 0 <= slot < self.calls, f"slot {slot} of {self.calls}"
        super().open(slot, persona)
        self.network.open(slot)
        self._positions[slot] = 0

    def close(self, slot: int) -> None:
        """Its row waits for the next call."""
        del self._calls[slot], self._positions[slot]
        self.network.close(slot)

    @torch.inference_mode()
    def warm(self, calls: int) -> None:
        """All passes captured, on a GPU; then a turn with a picture and text, which are read outside of what is
        captured, in a row that is free."""
        self.network.capture()
        row = next((row for row in range(self.calls) if row not in self._calls), None)
        if row is None:
            return
        side, nothing = self.config.patch_side, np.zeros((HEAR_POSITIONS, MEL_CHANNELS), np.uint8)
        patches = np.zeros((patch_count(self.config), 2, side, side, 3), np.float32)
        turn = MicroTurn(nothing, nothing, np.zeros(HEAR_POSITIONS, np.uint8), patches, text=self._default)
        self.network.open(row)
        self.network.turn([row], TurnInputs.of([turn]), self._noise[0], self.most_passes - 1)
        self.network.close(row)

    @torch.inference_mode()
    def repeat(self, slot: int) -> None:
        """For measuring: every sequence becomes like that of `slot`."""
        for other in self._positions:
            if other != slot:
                self.network.copy(slot, other)
                self._positions[other] = self._positions[slot]

    @torch.inference_mode()
    def age(self, slot: int, positions: int) -> int:
        """See `DigitsEngine.age`."""
        further = self.network.state.age(slot, positions)
        self._positions[slot] += further
        return further

    @torch.inference_mode()
    def check(self) -> list[str]:
        """See `Engine.check`: what is kept are numbers, and each call is as far there as here."""
        state = self.network.state
        wrong = [f"slot {row}: a row without a call" for row in state.open_rows if row not in self._calls]
        come = state.positions.tolist()
        wrong += [
            f"slot {slot}: {come[slot]} positions on the device, {counted} were appended"
            for slot, counted in self._positions.items()
            if come[slot] != counted
        ]
        broken = state.broken()
        return wrong + [f"slot {slot}: layer {layer} keeps what is not a number" for slot, layer in broken]

    def _kept(self, slots: Iterable[int]) -> int:
        return sum(min(self.most_positions, self._positions[slot]) for slot in slots)

    def _position(self, slot: int) -> int:
        return self._positions[slot]

    def _forget(self, slot: int) -> None:
        """Its sequence begins anew, and its voice."""
        self.network.close(slot)
        self.network.open(slot)
        self._positions[slot] = 0

    def _turns(
        self, dues: Sequence[Due], *, sees: bool
    ) -> Iterator[tuple[list[Due], list[list[int]], list[PCM]]]:
        most = self.network.buckets[-1]
        for first in range(0, len(dues), most):
            ordered = list(dues[first : first + most])
            inputs = self._inputs(ordered, sees=sees)
            turned = self.network.turn(
                [due.slot for due in ordered], inputs, self._noise_of(ordered), self.most_passes - 1
            )
            self._passes += turned.passes
            for b, due in enumerate(ordered):
                context = len(inputs.text.get(b, ())) + len(inputs.patches.get(b, ()))
                self._positions[due.slot] += context + EVERY_TURN + len(turned.tokens[b])
            yield ordered, turned.tokens, list(turned.pcm.numpy().copy())


def buckets_for(calls: int) -> tuple[int, ...]:
    """As many as so many calls at once need; more go in several passes."""
    largest = bucket_of(min(calls, BUCKETS[-1]), BUCKETS)
    return tuple(size for size in BUCKETS if size <= largest)


def contexts_for(config: ModelConfig) -> tuple[int, ...]:
    """Room for what a turn may bring: a picture, and as much text as one turn takes."""
    most = patch_count(config) + TEXT_LIMIT
    return (*(room for room in CONTEXTS if room < most), most)
