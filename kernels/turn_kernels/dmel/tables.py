"""What a dMel front end consists of."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class DmelTables:
    """W samples of a window, M channels, L levels; all float32."""

    window: Tensor  # [W]
    filters: Tensor  # [W / 2 + 1, M]
    borders: Tensor  # [L - 1], rising: a channel above border i has at least level i + 1
    hop: int
    floor: float = 1e-10
    """Least power, and least sum of a channel."""
    full_scale: float = 32768.0

    @property
    def samples(self) -> int:
        """W."""
        return len(self.window)

    @property
    def channels(self) -> int:
        """M."""
        return self.filters.shape[1]
