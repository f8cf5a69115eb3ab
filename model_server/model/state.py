"""What the trunk remembers of calls: preallocated once, the same size after an hour as after a second.

A call has one row of every buffer: keys and values of each layer, the last rows of its three convolutions, and the
count of its positions. Nothing else is carried from pass to pass, and a row is touched only by passes that name it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model_server.model.config import ModelConfig
from model_server.model.piece import Piece, kind_of, make_piece

PIECE_LIMIT = 16
"""Positions of a call in one pass; a longer run is cut. Rings grow by it: 16 of 271 places in `digits`."""


MOST_POSITIONS = 2**40
"""Of a call: 800 years."""


class AttendedRows:
    """Keys and values of one layer, [rows, G, S, D] each; `Places` says which place has which position."""

    def __init__(
        self,
        rows: int,
        heads: int,
        places: int,
        width: int,
        like: Tensor,
        is_global: bool,
        by_channel: bool = False,
    ) -> None:
        """`by_channel`: a channel of all keys lies together in memory, not all channels of a key."""
        self.is_global = is_global
        self.values = like.new_zeros(rows, heads, places, width)
        self.keys = like.new_zeros(rows, heads, width, places).mT if by_channel else self.values.clone()

    def write(self, piece: Piece, k_BTGD: Tensor, v_BTGD: Tensor) -> None:
        """Keep the new positions of the pass."""
        k, v = k_BTGD.flatten(0, 1), v_BTGD.flatten(0, 1)
        for to in piece.reach_of(self.is_global).writes:
            chosen = slice(None) if to.source is None else to.source
            self.keys[to.rows, :, to.places] = k[chosen].to(self.keys.dtype)
            self.values[to.rows, :, to.places] = v[chosen].to(self.values.dtype)


class ConvolutionRows:
    """The last rows of a convolution's input, float32 [rows, k - 1, C]."""

    def __init__(self, rows: int, kept: int, channels: int, device: torch.device) -> None:
        self.rows = torch.zeros(rows, kept, channels, device=device)
        self.of_pass = self.rows[:0]
        self.marked = self.rows[:0]

    def read(self, piece: Piece) -> Tensor:
        """[B, k - 1, C]."""
        return piece.read(self.rows)

    def write(self, piece: Piece, rows_BKC: Tensor) -> None:
        """Keep the last of past and new rows [B, k - 1 + T, C]; all of them until the next pass, for `rewind`."""
        self.of_pass = rows_BKC
        last = piece.last(rows_BKC, self.rows.shape[1])
        if piece.span is not None:
            self.rows[piece.span] = last
        else:
            self.rows.index_copy_(0, piece.rows_B, last)

    def rewind(self, rows_B: Tensor, calls_B: Tensor, count: int) -> None:
        """Back by `count` positions, in these rows, which were these calls of the last pass."""
        kept = self.rows.shape[1]
        stop = self.of_pass.shape[1] - count
        self.rows.index_copy_(0, rows_B, self.of_pass[:, stop - kept : stop].index_select(0, calls_B))

    def mark(self, rows_B: Tensor, count: int) -> None:
        """Keep what `rewind` by `count` would bring of all calls of the last pass, beyond that pass."""
        if not len(self.marked):
            self.marked = torch.zeros_like(self.rows)
        kept, stop = self.rows.shape[1], self.of_pass.shape[1] - count
        self.marked[rows_B] = self.of_pass[:, stop - kept : stop]

    def go_back(self, rows_B: Tensor) -> None:
        """To what was marked of these rows."""
        self.rows[rows_B] = self.marked[rows_B]


@dataclass(frozen=True, slots=True)
class LayerState:
    """Of one layer."""

    attended: AttendedRows
    kv_rows: ConvolutionRows
    attention_rows: ConvolutionRows
    mlp_rows: ConvolutionRows

    def buffers(self) -> Iterator[Tensor]:
        """All that it holds, a row a call."""
        yield from (self.attended.keys, self.attended.values)
        yield from (self.kv_rows.rows, self.attention_rows.rows, self.mlp_rows.rows)


class TrunkState:
    """State of up to `rows` calls. A row is opened, appended to, closed, and can be opened again."""

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        *,
        piece_limit: int = PIECE_LIMIT,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        keys_by_channel: bool = False,
    ) -> None:
        """`keys_by_channel`: see `AttendedRows`."""
        self.rows, self.piece_limit, self.device = rows, piece_limit, torch.device(device)
        self.kinds = (
            kind_of(config, False, piece_limit, self.device),
            kind_of(config, True, piece_limit, self.device),
        )
        like = torch.empty(0, dtype=dtype, device=self.device)
        self.layers = [self._layer(config, layer, like, keys_by_channel) for layer in range(config.layers)]
        self.positions = torch.zeros(rows, dtype=torch.int64)
        """Positions of each call so far; on the host, where passes are planned."""
        self._open = [False] * rows
        self._last_pass: list[int] = []

    def _layer(self, config: ModelConfig, layer: int, like: Tensor, by_channel: bool) -> LayerState:
        is_global = config.is_global(layer)
        heads, width, kept = config.kv_heads_of(layer), config.head_dim, config.conv_kernel - 1
        places, _ = self.kinds[is_global]
        return LayerState(
            AttendedRows(self.rows, heads, places.count, width, like, is_global, by_channel),
            *(
                ConvolutionRows(self.rows, kept, channels, self.device)
                for channels in (2 * heads * width, config.hidden, config.hidden)
            ),
        )

    @property
    def bytes_per_row(self) -> int:
        """What one call costs, full or not."""
        buffers = (buffer for layer in self.layers for buffer in layer.buffers())
        return sum(buffer[0].numel() * buffer.element_size() for buffer in buffers)

    def open(self, row: int) -> None:
        """A new call in `row`, which has none."""
        assert not self._open[row], f"row {row} is open"
        self._open[row] = True

    def close(self, row: int) -> None:
        """Forget the call of `row`, and what it said."""
        assert self._open[row], f"row {row} is not open"
        for layer in self.layers:
            for buffer in layer.buffers():
                buffer[row].zero_()
        self.positions[row] = 0
        self._open[row] = False

    def move(self, source: int, target: int) -> None:
        """Put the call of `source` into `target`, which has none: rows that follow one another are not copied."""
        self.open(target)
        for layer in self.layers:
            for buffer in layer.buffers():
                buffer[target] = buffer[source]
        self.positions[target] = self.positions[source]
        self.close(source)

    def check(self, row: int) -> list[str]:
        """What is not whole in `row`, which has a call: an empty list, or a line each."""
        wrong = [] if self._open[row] else ["its row is not open"]
        if not 0 <= int(self.positions[row]) < MOST_POSITIONS:
            wrong.append(f"{int(self.positions[row])} positions: expected 0 to {MOST_POSITIONS}")
        for number, layer in enumerate(self.layers):
            if not all(bool(buffer[row].isfinite().all()) for buffer in layer.buffers()):
                wrong.append(f"layer {number} keeps what is not a number")
        return wrong

    def piece(self, rows: Sequence[int], count: int, counts: Sequence[int] | None = None) -> Piece:
        """A pass of `count` positions of these calls; of `counts` each, at least 1, when they differ."""
        assert 0 < count <= self.piece_limit, (count, self.piece_limit)
        assert len(set(rows)) == len(rows) and all(self._open[row] for row in rows), rows
        assert counts is None or (min(counts) >= 1 and max(counts) <= count), counts
        return make_piece(rows, self.positions[list(rows)], count, counts, self.kinds, self.device)

    def advance(self, rows: Sequence[int], counts: int | Sequence[int]) -> None:
        """After a pass through all layers."""
        self.positions[list(rows)] += torch.as_tensor(counts)
        self._last_pass = list(rows) if isinstance(counts, int) else []

    def rewind(self, rows: Sequence[int], count: int) -> None:
        """Take back the last `count` positions of some calls of the last pass, which was as long for all of them.

        Their keys stay where they are until they are overwritten: they lie beyond what the call can see, since
        rings have `piece_limit` places more than that.
        """
        assert count <= self.piece_limit and set(rows) <= set(self._last_pass), (rows, self._last_pass)
        rows_B = torch.tensor(rows, device=self.device)
        calls_B = torch.tensor([self._last_pass.index(row) for row in rows], device=self.device)
        for convolution in self._convolutions():
            convolution.rewind(rows_B, calls_B, count)
        self.positions[list(rows)] -= count
        self._last_pass = []

    def mark(self, count: int) -> None:
        """After a pass of as many positions for all its calls: `go_back` may take back its last `count` later, when
        other calls have had theirs. `rewind` takes back those of the last pass only, and costs nothing before."""
        rows_B = torch.tensor(self._last_pass, device=self.device)
        for convolution in self._convolutions():
            convolution.mark(rows_B, count)

    def go_back(self, rows: Sequence[int], count: int) -> None:
        """Take back what was marked with this `count` when each of these calls had its last pass."""
        rows_B = torch.tensor(rows, device=self.device)
        for convolution in self._convolutions():
            convolution.go_back(rows_B)
        self.positions[list(rows)] -= count
        self._last_pass = []

    def _convolutions(self) -> Iterator[ConvolutionRows]:
        for layer in self.layers:
            yield from (layer.kv_rows, layer.attention_rows, layer.mlp_rows)
