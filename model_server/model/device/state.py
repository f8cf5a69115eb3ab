"""What calls keep on the device, for so many sessions from the start. One row more, the *spare*, stands for nobody:
a batch is filled up with it, and it is never written.

    S   sessions + 1        k   taps of a convolution        C   its channels        M   pages of a call
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from model_server.model.config import ModelConfig
from model_server.model.micro_turn import SPEAK_POSITIONS
from turn_kernels.append_attend import Pages, Reach
from turn_kernels.append_attend.pages import MAX_PAGE, MIN_PAGE

PAGE = 64
"""Positions: what the compiled kernels have; less where a window is smaller."""


class KeptRows:
    """Of a convolution, float32 [S, k - 1, C]: the last rows of its input; those before the `speak` positions."""

    def __init__(self, rows: int, kept: int, channels: int, device: torch.device) -> None:
        self.last = torch.zeros(rows, kept, channels, device=device)
        self.before_speech = torch.zeros_like(self.last)


@dataclass(frozen=True, slots=True)
class DeviceLayerState:
    """Of one layer."""

    pages: Pages
    kv_rows: KeptRows
    attention_rows: KeptRows
    mlp_rows: KeptRows

    def convolutions(self) -> Iterator[Tensor]:
        """A row a session."""
        for kept in (self.kv_rows, self.attention_rows, self.mlp_rows):
            yield from (kept.last, kept.before_speech)


class DeviceState:
    """Rows 0 .. sessions - 1 are opened, appended to by passes, closed, and can be opened again."""

    def __init__(
        self,
        config: ModelConfig,
        sessions: int,
        most_at_once: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """`most_at_once`: positions of a call in one pass; rings are larger by as many."""
        self.config, self.sessions, self.spare, self.device = config, sessions, sessions, device
        self.reaches = (
            reach_of(config, False, most_at_once),
            reach_of(config, True, most_at_once),
        )
        self.tables = tuple(_table(sessions, reach.pages, device) for reach in self.reaches)
        """int32 [S, M], of sliding and of global layers; pages of a call follow one another."""
        self.layers = [self._layer(layer, dtype) for layer in range(config.layers)]
        self.positions = torch.zeros(sessions + 1, dtype=torch.int32, device=device)
        """Of each call so far; 310 days of 80 a second."""
        self._open = [False] * sessions

    def _layer(self, layer: int, dtype: torch.dtype) -> DeviceLayerState:
        config = self.config
        reach, heads, width = (
            self.reaches[config.is_global(layer)],
            config.kv_heads_of(layer),
            config.head_dim,
        )
        shape = (self.sessions * reach.pages, heads, reach.page, width)
        pages = Pages(*(torch.empty(shape, dtype=dtype, device=self.device) for _ in range(2)))
        return DeviceLayerState(
            pages,
            *(
                KeptRows(self.sessions + 1, config.conv_kernel - 1, channels, self.device)
                for channels in (2 * heads * width, config.hidden, config.hidden)
            ),
        )

    def open(self, row: int) -> None:
        """A new call in `row`, which has none. Old keys stay where they are: it sees none of them."""
        assert not self._open[row], f"row {row} is open"
        self._open[row] = True
        self.positions[row] = 0
        for layer in self.layers:
            for rows in layer.convolutions():
                rows[row].zero_()

    def close(self, row: int) -> None:
        """The call of `row` has ended."""
        assert self._open[row], f"row {row} is not open"
        self._open[row] = False

    def copy(self, row: int, to: int) -> None:
        """For measuring: the call of `to` becomes like that of `row`."""
        assert self._open[row] and self._open[to], (row, to)
        for number, layer in enumerate(self.layers):
            pages = self.reaches[self.config.is_global(number)].pages
            for part in (layer.pages.keys, layer.pages.values):
                part[to * pages : (to + 1) * pages] = part[row * pages : (row + 1) * pages]
            for rows in layer.convolutions():
                rows[to] = rows[row]
        self.positions[to] = self.positions[row]

    def age(self, row: int, positions: int) -> int:
        """For measuring: as if the call, whose rings are full, had come at least so many positions further, saying
        the same again.

        Returns by how many: whole rounds of all rings, so that each position lies where it would.
        """
        full = max(reach.ring * reach.page for reach in self.reaches)
        assert self._open[row] and int(self.positions[row]) >= full, (row, full)
        round_trip = math.lcm(*(reach.ring * reach.page for reach in self.reaches))
        further = -(-positions // round_trip) * round_trip
        self.positions[row] += further
        return further

    def is_open(self, row: int) -> bool:
        """Whether it has a call."""
        return self._open[row]

    @property
    def open_rows(self) -> list[int]:
        """Those that have a call."""
        return [row for row in range(self.sessions) if self._open[row]]

    def broken(self) -> list[tuple[int, int]]:
        """Rows that have a call, and layers, where what is kept is not a number; the host waits for the device."""
        layers = enumerate(self.layers)
        whole = torch.stack([self._is_whole(kept, self.config.is_global(number)) for number, kept in layers])
        return [(row, layer) for layer, row in (~whole).nonzero().tolist() if self._open[row]]

    def _is_whole(self, layer: DeviceLayerState, is_global: bool) -> Tensor:
        """bool [sessions]: all that was written is a number; what lies in other places is anything."""
        reach, come = self.reaches[is_global], self.positions[: self.sessions, None]
        first = torch.arange(reach.first_pages * reach.page, device=self.device)
        ring = torch.arange(reach.ring * reach.page, device=self.device)
        written = torch.cat([(first < come) & (first < reach.first), ring < come], 1)
        whole = torch.ones(self.sessions, dtype=torch.bool, device=self.device)
        for part in (layer.pages.keys, layer.pages.values):
            numbers = part.isfinite().all(3).all(1).view(self.sessions, -1)
            whole &= (numbers | ~written).all(1)
        for rows in layer.convolutions():
            whole &= rows[: self.sessions].isfinite().flatten(1).all(1)
        return whole

    def fill(self, positions: int, seed: int) -> None:
        """For measuring: all rows open, as if each call had come so far, with random keys and values."""
        generator = torch.Generator(device=self.device).manual_seed(seed)
        for layer in self.layers:
            for part in (layer.pages.keys, layer.pages.values):
                part.normal_(generator=generator)
        self._open = [True] * self.sessions
        self.positions[: self.sessions] = positions


def reach_of(config: ModelConfig, is_global: bool, most_at_once: int) -> Reach:
    """What layers of that kind see, in pages; passes have at most so many positions of a call."""
    visible = config.global_budget if is_global else config.window
    page = MIN_PAGE
    while page < min(PAGE, MAX_PAGE) and 2 * page <= visible:
        page *= 2
    # A pass of speech is taken back by its `speak` positions and written again.
    places = visible - 1 + max(most_at_once, SPEAK_POSITIONS + 1)
    return Reach(visible, config.global_first if is_global else 0, page, -(-places // page))


def session_bytes(config: ModelConfig, most_at_once: int, item_bytes: int) -> int:
    """What a session costs on the device: pages, and rows of convolutions; of its voice 5 KB more."""
    total = 0
    for layer in range(config.layers):
        reach, kv = reach_of(config, config.is_global(layer), most_at_once), config.kv_heads_of(layer)
        total += 2 * reach.pages * reach.page * kv * config.head_dim * item_bytes
        channels = 2 * kv * config.head_dim + 2 * config.hidden
        total += 2 * (config.conv_kernel - 1) * channels * 4
    return total


def _table(sessions: int, pages: int, device: torch.device) -> Tensor:
    """The spare row's pages are those of the first session: no position of it is ever there."""
    table = torch.arange(sessions * pages, dtype=torch.int32, device=device).view(sessions, pages)
    return torch.cat([table, table[:1]])
