"""A turn of a batch of sessions in passes of fixed shapes: one prefill, up to k passes of a token, one of sound.

    prefill   what comes in (pictures, text, 50 ms each of sound) and the `speak` positions, of all rows at once;
              chooses each row's first token
    token     the token that a row wrote and the `speak` positions again; a row that wrote none waits
    sound     the `speak` positions' hidden rows to 200 ms of samples

As in `Interaction.turn`, the `speak` positions go with every pass as if nothing more were written. The host copies
inputs in, starts the passes and copies the reply out; between passes it may look whether anybody still writes.

    B   rows of the bucket      C   room for rows of pictures and text      T   positions, C + 8      d   hidden
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from media.timebase import TURN_SAMPLES
from model_server.model.device.graphs import Graphs, Tally
from model_server.model.device.layer import DeviceLayer
from model_server.model.device.passes import Pass, finish_pass, make_pass
from model_server.model.device.sound import DeviceSound
from model_server.model.device.state import DeviceState
from model_server.model.flow_head import OUTPUTS, FlowHead
from model_server.model.inputs import TurnInputs
from model_server.model.interaction import Interaction
from model_server.model.layer import Layer
from model_server.model.micro_turn import HEAR_POSITIONS, MEL_CHANNELS, SPEAK_POSITIONS
from model_server.model.vocabulary import END
from turn_kernels.forms import Form

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
"""Rows of a pass."""
CONTEXTS = (0, 8, 24, 56, 120)
"""Room for rows of pictures and text in a prefill."""
EVERY_TURN = HEAR_POSITIONS + SPEAK_POSITIONS


@dataclass(frozen=True, slots=True, eq=False)
class Turned:
    """What the rows of a turn gave."""

    tokens: list[list[int]]
    """Written by each, without `END`."""
    hidden: Tensor
    """[B, 4, d] on the device: the rows of the `speak` positions; until the next turn."""
    pcm: Tensor
    """int16 [B, 3200] on the host; until the next turn."""
    passes: int
    """Through the trunk."""


class DeviceStep:
    """One model, its sessions, and the buffers of its passes."""

    def __init__(
        self,
        model: Interaction,
        head: FlowHead,
        sessions: int,
        *,
        buckets: Sequence[int] = BUCKETS,
        contexts: Sequence[int] = CONTEXTS,
        flow_steps: int = 1,
        form: Form | None = None,
        add: Callable[[Tensor], Tensor] | None = None,
        tally: Tally | None = None,
    ) -> None:
        """On the device and in the dtype of the model's weights, which may change no more.

        `form`: of the ops. `add`: of the model of one rank, the sum over ranks of a tensor, which it may overwrite;
        `tally`: counts them.
        """
        self.buckets, self.contexts = tuple(sorted(buckets)), tuple(sorted(contexts))
        self._model, self._config = model, model.config
        like = model.unembedding.weight
        device, dtype = like.device, like.dtype
        self.state = DeviceState(
            model.config, sessions, EVERY_TURN + self.contexts[-1], dtype=dtype, device=device
        )
        reaches = self.state.reaches
        self._layers = [
            DeviceLayer(_plain(layer), reaches[model.config.is_global(number)], form, add)
            for number, layer in enumerate(model.trunk.layers)
        ]
        self._sound = DeviceSound(head, sessions + 1, flow_steps, device, form)
        self.graphs = Graphs(device, tally)
        self._buffers = Buffers.of(self.buckets[-1], self.contexts[-1], model, sessions)
        self._host = HostBuffers.of(self.buckets[-1], device)

    @torch.inference_mode()
    def open(self, row: int) -> None:
        """A new call in `row`, which has none."""
        self.state.open(row)
        self._sound.open(row)

    def close(self, row: int) -> None:
        """The call of `row` has ended."""
        self.state.close(row)

    @torch.inference_mode()
    def copy(self, row: int, to: int) -> None:
        """For measuring: the call of `to` becomes like that of `row`."""
        self.state.copy(row, to)
        self._sound.copy(row, to)

    @property
    def voice_bytes(self) -> int:
        """What the voice of one call costs."""
        return self._sound.voice.bytes_per_row

    @torch.inference_mode()
    def fill(self, seed: int) -> None:
        """For measuring: every row has a call whose memory is full of random keys and values."""
        self.state.fill(self._config.global_first + self._config.global_budget, seed)

    @torch.inference_mode()
    def capture(self) -> None:
        """All shapes as graphs, the largest first: the others fit into its memory. Sessions stay as they are."""
        self._buffers.rows.fill_(self.state.spare)
        self._buffers.context_counts.zero_()
        self._buffers.token.fill_(END)
        for bucket in reversed(self.buckets):
            for room in reversed(self.contexts):
                self.graphs.capture(("prefill", bucket, room), partial(self._prefill, bucket, room))
            self.graphs.capture(("token", bucket), partial(self._token, bucket))
            self.graphs.capture(("sound", bucket), partial(self._speak, bucket))

    @torch.inference_mode()
    def turn(
        self,
        rows: Sequence[int],
        inputs: TurnInputs,
        noise: Tensor,
        say_limit: int | None = None,
        *,
        look: bool = True,
    ) -> Turned:
        """A turn of the calls in these rows, with the flow head's noise, float32 [B * 4, X].

        `say_limit` None: the configuration's. `look` False: all its passes, without a look at whether any row
        writes. `ValueError` for more rows, or more pictures and text, than there is room for.
        """
        limit = self._config.say_limit if say_limit is None else min(say_limit, self._config.say_limit)
        bucket = bucket_of(len(rows), self.buckets)
        room = self._load(rows, bucket, inputs, noise)
        self.graphs.run(("prefill", bucket, room), partial(self._prefill, bucket, room))
        buffers, count, passes = self._buffers, len(rows), 1
        written: list[Tensor] = []
        for _ in range(limit):
            if look and not bool((buffers.token[:count] != END).any()):
                break
            written.append(buffers.token[:count].clone())
            self.graphs.run(("token", bucket), partial(self._token, bucket))
            passes += 1
        self.graphs.run(("sound", bucket), partial(self._speak, bucket))
        tokens = torch.stack(written, 1).tolist() if written else [[] for _ in rows]
        pcm = self._host.pcm[:count]
        pcm.copy_(buffers.pcm[:count])
        told = [[token for token in of_row if token != END] for of_row in tokens]
        return Turned(told, buffers.hidden[:count], pcm, passes)

    def _load(self, rows: Sequence[int], bucket: int, inputs: TurnInputs, noise: Tensor) -> int:
        """Everything that a turn brings, to the device; returns the room that its pictures and text take."""
        assert len(set(rows)) == len(rows) and all(self.state.is_open(row) for row in rows), rows
        buffers, host, count = self._buffers, self._host, len(rows)
        host.rows[:count] = torch.tensor(list(rows))
        host.rows[count:bucket] = self.state.spare
        for name in ("heard", "own", "truth"):
            getattr(host, name)[:count] = getattr(inputs, name)
        host.noise[: len(noise)] = noise
        runs = {b: self._context(b, inputs) for b in {*inputs.text, *inputs.patches}}
        host.context_counts[:bucket] = 0
        for b, run in runs.items():
            host.context_counts[b] = len(run)
        room = bucket_of(max(map(len, runs.values()), default=0), self.contexts)
        for name in ("rows", "heard", "own", "truth", "noise", "context_counts"):
            used = bucket * SPEAK_POSITIONS if name == "noise" else bucket
            getattr(buffers, name)[:used].copy_(getattr(host, name)[:used], non_blocking=True)
        for b, run in runs.items():
            buffers.context[b, : len(run)] = run
        return room

    def _context(self, b: int, inputs: TurnInputs) -> Tensor:
        """Rows [n, d] of a call's pictures, then of its text: few calls have any in a turn, and of any number."""
        device, model = self.state.device, self._model
        parts = []
        if b in inputs.patches:
            parts.append(model.eyes(inputs.patches[b].to(device, model.unembedding.weight.dtype)))
        if b in inputs.text:
            parts.append(model.text(torch.tensor(inputs.text[b], device=device)))
        return torch.cat(parts)

    # -- passes: on the device, from buffers to buffers

    def _prefill(self, bucket: int, room: int) -> None:
        buffers = self._buffers
        rows = buffers.rows[:bucket]
        there = rows != self.state.spare
        extra = buffers.context_counts[:bucket]
        counts = torch.where(there, extra + EVERY_TURN, 0).int()
        now = make_pass(self.state, rows, counts, room + EVERY_TURN)
        out = self._through(self._inputs(bucket, room), now)
        first = (counts - SPEAK_POSITIONS - 1).clamp(min=0).long()[:, None]
        index = first + torch.arange(SPEAK_POSITIONS + 1, device=out.device)
        last = out.gather(1, index[:, :, None].expand(-1, -1, out.shape[2]))
        buffers.hidden[:bucket] = last[:, 1:]
        buffers.token[:bucket] = torch.where(there, self._likeliest(last[:, 0]), END)

    def _token(self, bucket: int) -> None:
        buffers = self._buffers
        token = buffers.token[:bucket]
        writes = token != END
        rows, model = buffers.rows[:bucket], self._model
        counts = torch.where(writes, SPEAK_POSITIONS + 1, 0).int()
        taken_back = torch.where(writes, SPEAK_POSITIONS, 0).int()
        now = make_pass(self.state, rows, counts, SPEAK_POSITIONS + 1, taken_back)
        out = self._through(torch.cat([model.text(token)[:, None], self._placeholders(bucket)], 1), now)
        hidden = buffers.hidden[:bucket]
        hidden.copy_(torch.where(writes[:, None, None], out[:, 1:], hidden))
        token.copy_(torch.where(writes, self._likeliest(out[:, 0]), END))

    def _speak(self, bucket: int) -> None:
        buffers = self._buffers
        rows = buffers.rows[:bucket]
        noise = buffers.noise[: bucket * SPEAK_POSITIONS]
        there = rows != self.state.spare
        self._sound(buffers.hidden[:bucket], noise, buffers.pcm[:bucket], rows, there)

    def _inputs(self, bucket: int, room: int) -> Tensor:
        """[B, T, d]: a row's pictures and text, what it heard, its `speak` positions, and what is not there."""
        buffers, model = self._buffers, self._model
        sounds = (buffers.heard[:bucket], buffers.own[:bucket], buffers.truth[:bucket])
        heard = model.ears(*(each.flatten(0, 1) for each in sounds)).unflatten(0, (bucket, -1))
        context = buffers.context[:bucket, :room]
        parts = torch.cat([context, heard, self._placeholders(bucket)], 1)
        t = torch.arange(room + EVERY_TURN, device=parts.device)
        extra = buffers.context_counts[:bucket, None].long()
        source = torch.where(t < extra, t, t - extra + room).clamp(max=room + EVERY_TURN - 1)
        return parts.gather(1, source[:, :, None].expand(-1, -1, parts.shape[2]))

    def _placeholders(self, bucket: int) -> Tensor:
        rows = self._model.mouth(torch.arange(SPEAK_POSITIONS, device=self.state.device))
        return rows.expand(bucket, -1, -1)

    def _through(self, x_BTD: Tensor, now: Pass) -> Tensor:
        """Hidden rows [B, T, d] of a pass; the state moves on."""
        x_BTD = torch.where(now.here_BT1, x_BTD, 0)
        for layer, kept in zip(self._layers, self.state.layers, strict=True):
            x_BTD = layer.append(x_BTD, now, kept)
        finish_pass(self.state, now)
        return self._model.trunk.norm(x_BTD)

    def _likeliest(self, hidden_Bd: Tensor) -> Tensor:
        """int64 [B]."""
        return self._model.logits(hidden_Bd).argmax(-1)


@dataclass(frozen=True, slots=True, eq=False)
class HostBuffers:
    """What is copied from and to the device; pinned where that is a GPU."""

    rows: Tensor
    """int64 [B], of the state."""
    heard: Tensor
    """uint8 [B, 4, 80]."""
    own: Tensor
    truth: Tensor
    """uint8 [B, 4]."""
    context_counts: Tensor
    """int32 [B]."""
    noise: Tensor
    """float32 [B * 4, X]."""
    pcm: Tensor
    """int16 [B, 3200]."""

    @classmethod
    def of(cls, rows: int, device: torch.device) -> HostBuffers:
        """For so many rows, zeros."""
        pinned = device.type == "cuda"
        return cls(
            *(torch.zeros(shape, dtype=dtype, pin_memory=pinned) for shape, dtype in _shapes(rows).values())
        )


@dataclass(frozen=True, slots=True, eq=False)
class Buffers:
    """What passes read and write, on the device; a bucket has the first rows. See `HostBuffers`."""

    rows: Tensor
    heard: Tensor
    own: Tensor
    truth: Tensor
    context_counts: Tensor
    noise: Tensor
    pcm: Tensor
    context: Tensor
    """[B, C, d]."""
    hidden: Tensor
    """[B, 4, d]."""
    token: Tensor
    """int64 [B]: what each row writes next; `END` of rows that do not."""

    @classmethod
    def of(cls, rows: int, room: int, model: Interaction, spare: int) -> Buffers:
        """For so many rows, with so much room for pictures and text; nobody's."""
        like, width = model.unembedding.weight, model.config.hidden
        both = {
            name: torch.zeros(shape, dtype=dtype, device=like.device)
            for name, (shape, dtype) in _shapes(rows).items()
        }
        made = cls(
            **both,
            context=like.new_zeros(rows, room, width),
            hidden=like.new_zeros(rows, SPEAK_POSITIONS, width),
            token=torch.full((rows,), END, device=like.device),
        )
        made.rows.fill_(spare)
        return made


def bucket_of(count: int, sizes: Sequence[int]) -> int:
    """The smallest of ascending sizes that has room; `ValueError` names the largest."""
    for size in sizes:
        if count <= size:
            return size
    raise ValueError(f"{count} at once: expected at most {sizes[-1]}, the largest of {tuple(sizes)}")


def _shapes(rows: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    levels = (rows, HEAR_POSITIONS, MEL_CHANNELS)
    return {
        "rows": ((rows,), torch.int64),
        "heard": (levels, torch.uint8),
        "own": (levels, torch.uint8),
        "truth": ((rows, HEAR_POSITIONS), torch.uint8),
        "context_counts": ((rows,), torch.int32),
        "noise": ((rows * SPEAK_POSITIONS, OUTPUTS), torch.float32),
        "pcm": ((rows, TURN_SAMPLES), torch.int16),
    }


def _plain(layer: torch.nn.Module) -> Layer:
    if not isinstance(layer, Layer):
        raise ValueError(f"{type(layer).__name__}: expected the plain trunk, before `serve` or `shard`")
    return layer
