"""How many parameters a model has: all of it, and what one position uses."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from model_server.model.config import ModelConfig
from model_server.model.inkling import OURS
from model_server.model.interaction import Interaction


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of trunk, embeddings and towers, as the family counts them; balance biases are no parameters."""

    total: int
    active: int
    """Of `total`, without the experts that a position is not sent to."""
    ours: int
    """What the family does not have: own speech, network truth, placeholders."""


def count_parameters(config: ModelConfig) -> Parameters:
    """Without memory for a single weight: the model is built on the meta device."""
    with torch.device("meta"):
        model = Interaction(config)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    ours = sum(size for name, size in sizes.items() if name.startswith(OURS))
    idle = (config.experts - config.experts_chosen) * 3 * config.hidden * config.expert_width
    total = sum(sizes.values()) - ours
    return Parameters(total, total - idle * (config.layers - config.dense_layers), ours)
