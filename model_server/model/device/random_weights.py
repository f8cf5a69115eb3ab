"""Weights of any size, random, made where they are to lie: never on the host, and never twice."""

from __future__ import annotations

import torch
from torch import nn

from model_server.model.config import ModelConfig
from model_server.model.flow_head import FlowHead
from model_server.model.interaction import Interaction
from model_server.model.router import Router
from model_server.model.vocoder import LOG_F0


def random_interaction(
    config: ModelConfig, seed: int, dtype: torch.dtype, device: torch.device
) -> Interaction:
    """The same for the same seed on the same kind of device, a parameter at a time."""
    with torch.device("meta"):
        model = Interaction(config)
    model = model.to(dtype).to_empty(device=device)
    for module in model.modules():
        if isinstance(module, Router):
            module.balance = torch.zeros(config.experts, device=device)
    model.initialise(seed)
    return model.eval().requires_grad_(False)


def random_flow_head(hidden: int, seed: int, device: torch.device) -> FlowHead:
    """float32. It speaks, softly, at 180 Hz: a new head's last layers are zeros, and its sound is silence."""
    head = FlowHead(hidden)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
        head.mean.fill_(-3.5)
        head.deviation.fill_(0.2)
        head.mean[LOG_F0], head.deviation[LOG_F0] = 5.2, 1e-6
    return head.to(device).eval().requires_grad_(False)


def weight_bytes(*modules: nn.Module) -> int:
    """Of parameters and buffers."""
    return sum(
        tensor.numel() * tensor.element_size()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    )
