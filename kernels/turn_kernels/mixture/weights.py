"""What a mixture consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Route(NamedTuple):
    """Of N rows, to K routed and S shared experts."""

    experts_NK: Tensor
    """int32: the routed experts chosen; their order says nothing."""
    weights_NJ: Tensor
    """float32 [N, K + S]: their weights, then those of the shared experts."""


@dataclass(frozen=True, slots=True, eq=False)
class MixtureWeights:
    """E routed and S shared experts on rows of d; matrices of one dtype, that of the rows.

    One rank of several holds L of the routed experts in a run, and a part of the width of each shared one; what it
    makes is its part of a sum over ranks. Alone, L = E.
    """

    router: Tensor  # [E + S, d]
    balance: Tensor  # float32 [E], added for the choice only
    gate_up: Tensor  # [L, 2 f, d], the gate's rows first
    down: Tensor  # [L, d, f]
    shared_gate_up: Tensor  # [S, 2 g, d]
    shared_down: Tensor  # [S, d, g]
    chosen: int  # K
    scale: float  # of all weights
    first: int = 0  # of the routed experts, the first that is here

    @property
    def experts(self) -> int:
        """E."""
        return len(self.balance)

    @property
    def held(self) -> int:
        """L."""
        return len(self.gate_up)

    @property
    def shared(self) -> int:
        """S."""
        return len(self.shared_gate_up)

    @property
    def hidden(self) -> int:
        """d."""
        return self.gate_up.shape[2]

    @property
    def width(self) -> int:
        """f."""
        return self.gate_up.shape[1] // 2

    @property
    def shared_width(self) -> int:
        """g: f, or the part of it that is here."""
        return self.shared_gate_up.shape[1] // 2
