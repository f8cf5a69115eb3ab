"""`python -m model_server.training.train`: the shipped model from nothing, on one CPU.

A run lives in a folder: `state.pt` (weights, averages, optimiser, the step), `log.csv` and `curves.png`. Started
again, it goes on where it stopped. Batch n of a seed is always the same, so two runs of a seed on the same machine
and with as many threads see the same numbers.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, IterableDataset

from model_server.model import checkpoint
from model_server.model.config import config_of
from model_server.model.router import Router
from model_server.training import curves
from model_server.training.batches import Batch, Length, Source, source_of
from model_server.training.corpus import Part
from model_server.training.mouth import table_of
from model_server.training.objective import Learner, Losses
from model_server.training.voice_table import Voice, load_voice

RUNS = Path(".cache/training")
VALIDATION_SEED = 1_000_003
BETAS = (0.9, 0.98)


@dataclass(frozen=True, slots=True)
class Plan:
    """One training run."""

    config: str = "digits"
    seed: int = 1
    steps: int = 6000
    batch: int = 8
    """Conversations a step."""
    turns: int = 96
    """Of a conversation at most; at least two thirds of it."""
    rate: float = 2e-3
    """Of learning, at its highest."""
    warm_up: int = 200
    """Steps until it is reached; from there it falls to a hundredth along a cosine."""
    decay: float = 0.02
    clip: float = 1.0
    balance_rate: float = 1e-3
    average: float = 0.998
    """Share of the old in the average of weights that is shipped."""
    validate_every: int = 250
    validate_batches: int = 8
    threads: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, str) and value <= 0:
                raise ValueError(f"--{field.name.replace('_', '-')} {value}: expected more than 0")
        config_of(self.config)

    @property
    def length(self) -> Length:
        return Length(max(1, self.turns * 2 // 3), self.turns)

    def rate_at(self, step: int) -> float:
        """Learning rate of that step, from 0."""
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


class Run:
    """A run and what it has learned so far."""

    def __init__(self, plan: Plan, voice: Voice, folder: Path) -> None:
        self.plan, self.folder, self.step = plan, folder, 0
        self.learner = Learner(config_of(plan.config), voice)
        self.learner.interaction.initialise(plan.seed)
        self.average = AveragedModel(
            self.learner, multi_avg_fn=get_ema_multi_avg_fn(plan.average), use_buffers=True
        )
        self.optimiser = torch.optim.AdamW(_groups(self.learner, plan.decay), betas=BETAS, fused=True)

    @property
    def shipped(self) -> Learner:
        """The average of the weights."""
        return cast(Learner, self.average.module)

    def learn(self, batch: Batch) -> Losses:
        """One step."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.rate_at(self.step)
        chosen: list[torch.Tensor] = []
        losses = self.learner.losses(batch, _generator(self.plan.seed, self.step), chosen)
        losses.total.backward()
        nn.utils.clip_grad_norm_(self.learner.parameters(), self.plan.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        routers = [module for module in self.learner.modules() if isinstance(module, Router)]
        for router, experts in zip(routers, chosen, strict=True):
            router.rebalance(experts, self.plan.balance_rate)
        self.average.update_parameters(self.learner)
        self.step += 1
        return losses

    @torch.inference_mode()
    def validate(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Of the average of weights, on speakers that were never trained on."""
        every = [
            self.shipped.losses(batch, _generator(VALIDATION_SEED, number))
            for number, batch in enumerate(batches)
        ]
        events = sum(losses.events for losses in every)
        return {
            "validation_tokens": sum(float(losses.tokens) for losses in every) / len(every),
            "validation_sound": sum(float(losses.sound) for losses in every) / len(every),
            "events_right": sum(losses.events_right for losses in every) / max(1, events),
            "false_events": sum(losses.false_events for losses in every) / max(1, events),
        }

    def save(self) -> None:
        """State to go on from, and the checkpoint as it would be shipped."""
        state = {
            "plan": asdict(self.plan),
            "step": self.step,
            "learner": self.learner.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        path = self.folder / "state.pt"
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
        modules = {"interaction": self.shipped.interaction, "flow_head": self.shipped.flow_head}
        notes = {"seed": self.plan.seed, "steps": self.step}
        checkpoint.save(
            self.folder / f"{self.plan.config}.safetensors", config_of(self.plan.config), modules, notes
        )

    def go_on(self) -> None:
        """From the state in the folder, where there is one; `ValueError` when it is another run's."""
        path = self.folder / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        kept = {name: value for name, value in asdict(self.plan).items() if name != "threads"}
        other = {name: state["plan"][name] for name, value in kept.items() if state["plan"][name] != value}
        if other:
            raise ValueError(f"{path} is of a run with {other}: give the same, or another --folder")
        self.step = state["step"]
        for name in ("learner", "average", "optimiser"):
            getattr(self, name).load_state_dict(state[name])


class Batches(IterableDataset[Batch]):
    """Batches from `first` on, each process of a loader making its share."""

    def __init__(self, source: Source, plan: Plan, first: int) -> None:
        self._source, self._plan, self._first = source, plan, first

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        return self._source.batches(self._plan.seed, self._first, self._plan.batch, self._plan.length)


class Log:
    """`log.csv`: a line for every so many steps, and a longer one where it was validated."""

    COLUMNS = (
        *("step", "seconds", "rate", "tokens", "sound"),
        *("validation_tokens", "validation_sound", "events_right", "false_events"),
    )

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():
            path.write_text(",".join(self.COLUMNS) + "\n")

    def write(self, figures: dict[str, float]) -> None:
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, self.COLUMNS, restval="").writerow(
                {name: f"{value:.6g}" for name, value in figures.items()}
            )


def train(plan: Plan, folder: Path, until_s: float, every: int = 25) -> Run:
    """Learn until all steps are made or that many seconds have passed; the state is saved at the end."""
    torch.set_num_threads(plan.threads)
    folder.mkdir(parents=True, exist_ok=True)
    voice = load_voice()
    run = Run(plan, voice, folder)
    run.go_on()
    config = config_of(plan.config)
    table = table_of(dict(zip(voice.words, voice.sounds, strict=True)))
    validation = source_of(Part.VALIDATION, table, config)
    held_out = [
        validation.batch(VALIDATION_SEED, number, plan.batch, plan.length)
        for number in range(plan.validate_batches)
    ]
    loader = DataLoader(
        Batches(source_of(Part.TRAIN, table, config), plan, run.step),
        batch_size=None, num_workers=1, prefetch_factor=4,
    )  # fmt: skip
    log, begun_s = Log(folder / "log.csv"), time.monotonic()
    for batch in loader:
        seconds = time.monotonic() - begun_s
        if run.step >= plan.steps or seconds > until_s:
            break
        losses = run.learn(batch)
        figures = {
            "step": run.step, "seconds": seconds, "rate": plan.rate_at(run.step - 1),
            "tokens": float(losses.tokens.detach()), "sound": float(losses.sound.detach()),
        }  # fmt: skip
        if run.step % plan.validate_every == 0:
            figures |= run.validate(held_out)
            run.save()
            curves.draw(folder / "log.csv", folder / "curves.png")
        if run.step % every == 0 or "events_right" in figures:
            log.write(figures)
            print("  ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)
    run.save()
    curves.draw(folder / "log.csv", folder / "curves.png")
    return run


def _groups(learner: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms, scales and biases do not."""
    parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def main(argv: Sequence[str]) -> int:
    """0 when all steps are made, 1 when time was up before, 2 for an operator's mistake."""
    parser = argparse.ArgumentParser(prog="python -m model_server.training.train")
    for field in fields(Plan):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default
        )
    parser.add_argument("--folder", type=Path, default=RUNS / "digits", help="where the run lives")
    parser.add_argument("--hours", type=float, default=24.0, help="stop after so long; start again to go on")
    given = vars(parser.parse_args(argv))
    folder, hours = given.pop("folder"), given.pop("hours")
    try:
        plan = Plan(**given)
        run = train(plan, folder, hours * 3600)
    except (ValueError, OSError) as wrong:
        print(f"train: {wrong}", file=sys.stderr)
        return 2
    print(json.dumps({"folder": str(folder), "step": run.step, "steps": plan.steps}))
    return 0 if run.step >= plan.steps else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
