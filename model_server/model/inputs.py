"""What goes into the model, as tensors: one turn of a batch of calls, or whole conversations for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from model_server.model.config import ModelConfig
from model_server.model.micro_turn import Kind, MicroTurn, lay_out


@dataclass(frozen=True, slots=True, eq=False)
class TurnInputs:
    """One turn of B calls."""

    heard: Tensor
    """uint8 [B, 4, 80]."""
    own: Tensor
    """uint8 [B, 4, 80]."""
    truth: Tensor
    """uint8 [B, 4]."""
    text: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Injected tokens of those calls (0 .. B - 1) that have any."""
    patches: Mapping[int, Tensor] = field(default_factory=dict)
    """float32 [n, 2, 40, 40, 3] of those calls that have a picture."""

    @classmethod
    def of(cls, turns: Sequence[MicroTurn]) -> TurnInputs:
        """A turn of each call; what it says is not looked at."""
        return cls(
            torch.from_numpy(np.stack([turn.heard for turn in turns])),
            torch.from_numpy(np.stack([turn.own for turn in turns])),
            torch.from_numpy(np.stack([turn.truth for turn in turns])),
            text={b: turn.text for b, turn in enumerate(turns) if turn.text},
            patches={
                b: torch.from_numpy(turn.patches) for b, turn in enumerate(turns) if turn.patches is not None
            },
        )


@dataclass(frozen=True, slots=True, eq=False)
class Conversations:
    """B whole conversations, filled up at their end to P positions, with what the model was to write."""

    kinds: Tensor
    """int64 [B, P], a `Kind` each; -1: no position."""
    targets: Tensor
    """int64 [B, P], the token to be predicted there; -1: none."""
    heard: Tensor
    """uint8 [hear positions, 80]: of all conversations, one after another; so are the next four."""
    own: Tensor
    truth: Tensor
    tokens: Tensor
    """int64 [text and say positions]."""
    patches: Tensor
    """float32 [video positions, 2, 40, 40, 3]."""

    @classmethod
    def of(cls, conversations: Sequence[Sequence[MicroTurn]], config: ModelConfig) -> Conversations:
        """Lay them out."""
        layouts = [lay_out(turns, config.say_limit) for turns in conversations]
        every = [turn for turns in conversations for turn in turns]
        side = config.patch_side
        pictures = [turn.patches for turn in every if turn.patches is not None]
        return cls(
            _filled_up([layout.kinds for layout in layouts]),
            _filled_up([layout.targets for layout in layouts]),
            torch.from_numpy(np.concatenate([turn.heard for turn in every])),
            torch.from_numpy(np.concatenate([turn.own for turn in every])),
            torch.from_numpy(np.concatenate([turn.truth for turn in every])),
            torch.tensor([token for turn in every for token in (*turn.text, *turn.say)], dtype=torch.int64),
            torch.from_numpy(np.concatenate([*pictures, np.zeros((0, 2, side, side, 3), np.float32)])),
        )

    def to(self, device: torch.device | str) -> Conversations:
        """On that device."""
        names = ("kinds", "targets", "heard", "own", "truth", "tokens", "patches")
        return Conversations(*(getattr(self, name).to(device) for name in names))

    def where(self, *kinds: Kind) -> Tensor:
        """bool [B, P]: positions of these kinds; in this order the rows of that kind stand."""
        return torch.isin(self.kinds, torch.tensor([int(kind) for kind in kinds], device=self.kinds.device))


def _filled_up(rows: Sequence[np.ndarray[tuple[int], np.dtype[np.int64]]]) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.stack(
        [torch.from_numpy(np.pad(row, (0, longest - len(row)), constant_values=-1)) for row in rows]
    )
