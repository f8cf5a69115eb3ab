"""Our checkpoints: one safetensors file with weights, configuration and vocabulary.

Matrices are kept as float16; norms, scales and balance biases, which are small and touchy, as float32. Several
modules share a file, each under its own name (`interaction`, `flow_head` ...).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model_server.model.config import ModelConfig
from model_server.model.vocabulary import NAMES, SIZE

FORMAT = "microturn-1"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What a file holds."""

    path: Path
    config: ModelConfig
    tensors: dict[str, Tensor]
    notes: dict[str, Any]
    """Whatever was given to `save`: steps, seed, scores."""

    def into(self, name: str, module: nn.Module) -> None:
        """Fill `module` with the weights saved under `name`, in its dtypes; `ValueError` when they do not fit."""
        prefix = f"{name}."
        tensors = {
            key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)
        }
        try:
            module.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"checkpoint {self.path}: {name!r} does not fit this code: {error}") from error


def save(
    path: Path, config: ModelConfig, modules: Mapping[str, nn.Module], notes: Mapping[str, Any] | None = None
) -> None:
    """Write the state of these modules; `ValueError` for a weight that float16 cannot hold."""
    tensors = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            kept = value.detach().cpu()
            kept = kept.half() if kept.is_floating_point() and kept.ndim > 1 else kept.clone()
            if kept.is_floating_point() and not kept.isfinite().all():
                raise ValueError(
                    f"{name}.{key} has values beyond float16 or not finite: the training went wrong"
                )
            tensors[f"{name}.{key}"] = kept.contiguous()
    metadata = {
        "format": FORMAT,
        "config": json.dumps(dataclasses.asdict(config)),
        "notes": json.dumps(dict(notes or {})),
    }
    if config.vocabulary == SIZE:
        metadata["vocabulary"] = json.dumps(NAMES)
    save_file(tensors, path, metadata)


def load(path: Path) -> Checkpoint:
    """Read a file; `ValueError` when it is not ours or was trained with another vocabulary."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"checkpoint {path}: expected a safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"checkpoint {path}: format {metadata.get('format')!r}, expected {FORMAT!r}; train it anew"
        )
    if "vocabulary" in metadata and tuple(json.loads(metadata["vocabulary"])) != NAMES:
        raise ValueError(
            f"checkpoint {path}: trained with another vocabulary than this code has; train it anew"
        )
    return Checkpoint(
        path, config_from(json.loads(metadata["config"])), tensors, json.loads(metadata["notes"])
    )


def config_from(values: dict[str, Any]) -> ModelConfig:
    """A configuration that went through JSON, which has no tuples."""
    folds = tuple((pictures, side) for pictures, side in values.pop("vision_folds"))
    tuples = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return ModelConfig(**{**values, **tuples, "vision_folds": folds})


def rounded(module: nn.Module) -> None:
    """Round the weights of a module as `save` does: what is measured is then what is shipped."""
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point() and value.ndim > 1:
                value.copy_(value.half())
