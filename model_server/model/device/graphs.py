"""Passes captured as CUDA graphs, one for each shape. On a CPU there are none: the pass is called.

A graph repeats its launches with the pointers that they had. So a pass reads and writes buffers that stay where
they are, and what it needs in between comes from one pool of memory, which all graphs share: they run one after
another, and nothing in the pool outlives its pass.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch

WARM_UPS = 2
"""Before a capture: kernels are compiled and libraries take their memory, which a capture may not do."""


class Tally(Protocol):
    """Counts what a pass does, in what the pass calls; a replay calls nothing."""

    def mark(self) -> Any:
        """How far it has counted."""
        ...

    def take_back(self, mark: Any) -> Any:
        """What was counted since, which was captured and has not run: it is counted no more."""
        ...

    def again(self, cost: Any) -> None:
        """That ran."""
        ...


class Graphs:
    """Of passes over one set of buffers, replayed on the stream that is current."""

    def __init__(self, device: torch.device, tally: Tally | None = None) -> None:
        self._device, self._tally = device, tally
        self._costs: dict[Hashable, Any] = {}
        self.enabled = device.type == "cuda"
        """Off: passes are called, as on a CPU; what was captured is kept."""
        self._captured: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle() if self.enabled else None

    def __len__(self) -> int:
        """How many were captured."""
        return len(self._captured)

    def capture(self, key: Hashable, run: Callable[[], None]) -> None:
        """Runs it `WARM_UPS` times before: the caller has made it a pass of nobody. Nothing on a CPU."""
        if not self.enabled or key in self._captured:
            return
        here = torch.cuda.current_stream(self._device)
        aside = torch.cuda.Stream(self._device)
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                run()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        mark = self._tally.mark() if self._tally else None
        with torch.cuda.graph(graph, pool=self._pool):
            run()
        self._captured[key] = graph
        if self._tally:
            self._costs[key] = self._tally.take_back(mark)

    def run(self, key: Hashable, run: Callable[[], None]) -> None:
        """Replay what was captured for that key; what was not, and all when not `enabled`, is called."""
        if self.enabled and key in self._captured:
            self._captured[key].replay()
            if self._tally:
                self._tally.again(self._costs[key])
        else:
            run()
