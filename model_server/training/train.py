"""`python -m model_server.training.train`: the shipped model from nothing, on one CPU.

A run lives in a folder: `state.pt` (weights, averages, optimiser, the step), `digits.safetensors` (what would be
shipped), `log.csv` and `curves.png`. Started again, it goes on where it stopped; SIGTERM makes it save and end.
Batch n of a seed is always the same, so two runs of a seed on the same machine and with as many threads see the
same numbers. With `--begin` it starts from the weights of a checkpoint instead: the shipped model is taught
further, or something else.

The rate of learning stays where it is until the last `--cool-down` steps, over which it falls to nothing. So a run
may be ended at any time: stop it, and start it again with `--steps` (and `--cool-down`) a little ahead of where it
is. Products of matrices are computed in bfloat16 where this CPU is faster in it (`--halved`);
weights and sums are float32.

On Linux, first-touched memory costs a tenth of the time or more: an allocator that keeps what it has helps
(`LD_PRELOAD=libjemalloc.so.2 MALLOC_CONF=thp:always,dirty_decay_ms:-1,muzzy_decay_ms:-1`). It keeps more and
more: 10 GB after a quarter of an hour; with `thp:default` and 20000 in place of each -1, 3 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, IterableDataset

from model_server.model import checkpoint
from model_server.model.config import ModelConfig, config_of
from model_server.model.router import Router
from model_server.model.served.products import product_dtype
from model_server.training import curriculum, curves
from model_server.training.batches import SCENES, Batch, Lesson, Source, source_of
from model_server.training.corpus import Part
from model_server.training.mouth import table_of
from model_server.training.muon import Muon
from model_server.training.objective import Counts, Learner, Losses
from model_server.training.voice_table import Voice, load_voice

RUNS = Path(".cache/training")
VALIDATION_SEED = 1_000_003
BETAS = (0.9, 0.98)
EYES_SHARE = 0.3
"""Of the rate of learning: pictures are in one conversation of seven, and at the whole rate the tower went blind (a
GELU behind each norm, and all rows alike)."""
FREE = {"steps", "cool_down", "threads", "halved"}
"""What may differ when a run goes on."""
NOT_POSITIVE = {"halved": -1, "hearing": 0}
"""What may be less than 1, and its least value."""
SAVE_EVERY_S = 150


@dataclass(frozen=True, slots=True)
class Plan:
    """One training run."""

    config: str = "digits"
    begin: str = ""
    """Checkpoint whose weights it begins with, past the first lesson; empty: from nothing."""
    seed: int = 1
    steps: int = 6000
    batch: int = 4
    """Conversations a step."""
    turns: int = 96
    """Of a conversation at most; at least two thirds of it. The first lesson has more and shorter ones."""
    hearing: int = 500
    """Steps of the first lesson; 0 where it is left out."""
    rate: float = 2e-3
    """Of learning, at its highest."""
    warm_up: int = 100
    """Steps until it is reached."""
    cool_down: int = 1000
    """The last steps, over which it falls to nothing in a straight line."""
    decay: float = 0.02
    clip: float = 1.0
    balance_rate: float = 1e-3
    average: float = 0.99
    """Share of the old in the average of weights that is shipped."""
    validate_every: int = 200
    validate_batches: int = 12
    threads: int = 1
    halved: int = -1
    """1: products of matrices in bfloat16; 0: in float32; -1: in what this CPU is faster in."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = NOT_POSITIVE.get(field.name)
            if not isinstance(value, str) and (value <= 0 if least is None else value < least):
                wanted = "more than 0" if least is None else f"{least} or more"
                raise ValueError(f"--{field.name.replace('_', '-')} {value}: expected {wanted}")
        config_of(self.config)
        if self.begin and self.hearing:
            raise ValueError(f"--begin {self.begin}: it can hear already, so give --hearing 0")

    def lesson(self, batch: int) -> Lesson:
        """Of that batch, from 0."""
        return curriculum.lesson(batch, self.hearing, self.turns)

    def conversations(self, lesson: Lesson) -> int:
        """In one of its batches: as many turns in every lesson."""
        return max(1, self.batch * self.turns // lesson.length.longest)

    def rate_at(self, step: int) -> float:
        """Learning rate of that step, from 0."""
        return self.rate * min(1.0, (step + 1) / self.warm_up, max(0, self.steps - step) / self.cool_down)


class Run:
    """A run and what it has learned so far."""

    def __init__(self, plan: Plan, voice: Voice, folder: Path) -> None:
        self.plan, self.folder, self.step = plan, folder, 0
        folder.mkdir(parents=True, exist_ok=True)
        self.log = Log(folder / "log.csv")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            self.learner = Learner(config_of(plan.config), voice)
        self.learner.interaction.initialise(plan.seed)
        if plan.begin:
            begun = checkpoint.load(Path(plan.begin))
            begun.into("interaction", self.learner.interaction)
            begun.into("flow_head", self.learner.flow_head)
        self.average = AveragedModel(
            self.learner, multi_avg_fn=get_ema_multi_avg_fn(plan.average), use_buffers=True
        )
        adam, muon = _groups(self.learner, plan.decay)
        self.optimisers = {
            "adam": torch.optim.AdamW(adam, betas=BETAS, fused=True),
            "muon": Muon(muon, plan.rate, plan.decay),
        }

    @property
    def shipped(self) -> Learner:
        """The average of the weights."""
        return cast(Learner, self.average.module)

    def learn(self, batch: Batch) -> Losses:
        """One step."""
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = self.plan.rate_at(self.step) * group["share"]
        chosen: list[torch.Tensor] = []
        with self._products():
            losses = self.learner.losses(batch, _generator(self.plan.seed, self.step), chosen)
        losses.total.backward()
        nn.utils.clip_grad_norm_(self.learner.parameters(), self.plan.clip)
        for optimiser in self.optimisers.values():
            optimiser.step()
        self.learner.zero_grad(set_to_none=True)
        routers = [module for module in self.learner.modules() if isinstance(module, Router)]
        for router, experts in zip(routers, chosen, strict=True):
            router.rebalance(experts, self.plan.balance_rate)
        self.average.update_parameters(self.learner)
        self.step += 1
        return losses

    @torch.inference_mode()
    def validate(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Of the average of weights, on speakers that were never trained on."""
        every: list[Losses] = []
        scenes: dict[str, Counts] = {}
        for number, batch in enumerate(batches):
            with self._products():
                every.append(self.shipped.losses(batch, _generator(VALIDATION_SEED, number)))
            for scene, counts in zip(batch.scenes, every[-1].counts, strict=True):
                scenes[scene] = scenes.get(scene, Counts()) + counts
        all_counts = sum(scenes.values(), Counts())
        figures = {
            f"validation_{name}": sum(float(getattr(losses, name)) for losses in every) / len(every)
            for name in ("tokens", "frames", "sound")
        }
        figures["heard_right"] = all_counts.heard_right / max(1, all_counts.heard)
        figures["said_right"] = all_counts.said_right / max(1, all_counts.said)
        figures["false_events"] = all_counts.false_events / max(1, all_counts.heard + all_counts.said)
        return figures | {f"right {scene}": counts.right for scene, counts in sorted(scenes.items())}

    def _products(self) -> contextlib.AbstractContextManager[None]:
        halved = self.plan.halved == 1 or (self.plan.halved < 0 and product_dtype() is torch.bfloat16)
        return torch.autocast("cpu", torch.bfloat16, enabled=halved)

    def save(self) -> None:
        """State to go on from, and the checkpoint as it would be shipped."""
        state = {
            "plan": asdict(self.plan),
            "step": self.step,
            "learner": self.learner.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
        }
        path = self.folder / "state.pt"
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
        modules = {"interaction": self.shipped.interaction, "flow_head": self.shipped.flow_head}
        notes = {"seed": self.plan.seed, "steps": self.step}
        shipped = self.folder / f"{self.plan.config}.safetensors"
        checkpoint.save(shipped.with_suffix(".new"), config_of(self.plan.config), modules, notes)
        shipped.with_suffix(".new").replace(shipped)
        curves.draw(self.folder / "log.csv", self.folder / "curves.png")

    def go_on(self) -> None:
        """From the state in the folder, where there is one; `ValueError` when it is another run's."""
        path = self.folder / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        kept = {name: value for name, value in asdict(self.plan).items() if name not in FREE}
        other = {name: state["plan"][name] for name, value in kept.items() if state["plan"][name] != value}
        if other:
            raise ValueError(f"{path} is of a run with {other}: give the same, or another --folder")
        self.step = state["step"]
        for name in ("learner", "average"):
            getattr(self, name).load_state_dict(state[name])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])


class Batches(IterableDataset[Batch]):
    """Batches from `first` on."""

    def __init__(self, source: Source, plan: Plan, first: int) -> None:
        self._source, self._plan, self._first = source, plan, first

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        plan = self._plan
        for number in itertools.count(self._first):
            lesson = plan.lesson(number)
            yield self._source.batch(plan.seed, number, plan.conversations(lesson), lesson)


class Log:
    """`log.csv`: a line for every so many steps, and a longer one where it was validated."""

    COLUMNS = (
        *("step", "seconds", "rate", "tokens", "frames", "sound"),
        *("validation_tokens", "validation_frames", "validation_sound"),
        *("heard_right", "said_right", "false_events"),
        *(f"right {scene}" for scene in SCENES),
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


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """What a run learns from."""

    voice: Voice
    train: Source
    validation: Source


def material_of(config: ModelConfig) -> Material:
    """The real data; word banks and voice are made first where they are not there."""
    voice = load_voice()
    table = table_of(dict(zip(voice.words, voice.sounds, strict=True)))
    sources = (source_of(part, table, config) for part in (Part.TRAIN, Part.VALIDATION))
    return Material(voice, *sources)


def train(plan: Plan, folder: Path, until_s: float, material: Material, every: int = 20) -> Run:
    """Learn until all steps are made, that many seconds have passed, or SIGTERM; the state is saved at the end."""
    torch.set_num_threads(plan.threads)
    run = Run(plan, material.voice, folder)
    run.go_on()
    loader = DataLoader(
        Batches(material.train, plan, run.step), batch_size=None, num_workers=1, prefetch_factor=4
    )
    batches = iter(loader)  # in a process of its own, which is not to have the handler below
    held_out = _held_out(plan, material.validation)
    begun_s = saved_s = time.monotonic()
    stopped = Stopped()
    for batch in batches:
        seconds = time.monotonic() - begun_s
        if run.step >= plan.steps or seconds > until_s or stopped:
            break
        losses = run.learn(batch)
        figures = {
            "step": run.step, "seconds": seconds, "rate": plan.rate_at(run.step - 1),
            "tokens": float(losses.tokens.detach()), "frames": float(losses.frames.detach()),
            "sound": float(losses.sound.detach()),
        }  # fmt: skip
        validated = run.step % plan.validate_every == 0
        if validated:
            figures |= run.validate(held_out)
        if validated or run.step % every == 0:
            run.log.write(figures)
            print("  ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)
        if validated or time.monotonic() - saved_s > SAVE_EVERY_S:
            run.save()
            saved_s = time.monotonic()
    run.save()
    return run


class Stopped:
    """True once SIGTERM has come."""

    def __init__(self) -> None:
        self._stopped = False
        signal.signal(signal.SIGTERM, self._stop)

    def __bool__(self) -> bool:
        return self._stopped

    def _stop(self, *_: object) -> None:
        self._stopped = True


def _held_out(plan: Plan, source: Source) -> list[Batch]:
    """Conversations of the last lesson with speakers that are never trained on."""
    lesson = replace(curriculum.lesson(plan.hearing, plan.hearing, plan.turns), masks=False)
    return [
        source.batch(VALIDATION_SEED, number, plan.batch, lesson) for number in range(plan.validate_batches)
    ]


def _groups(learner: Learner, decay: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What AdamW teaches, and what Muon does: matrices of the trunk, but not of its convolutions and biases.

    Matrices decay; norms, scales and biases do not. The patch tower learns at a share of the rate.
    """
    eyes = {id(parameter) for parameter in learner.interaction.eyes.parameters()}
    trunk = {
        id(parameter)
        for name, parameter in learner.interaction.trunk.named_parameters()
        if parameter.ndim > 1 and not name.endswith(("convolution.weight", "profiles", "router.weight"))
    }
    every = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    adam = []
    for share, seeing in ((1.0, False), (EYES_SHARE, True)):
        parameters = [p for p in every if id(p) not in trunk and (id(p) in eyes) is seeing]
        adam += [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay, "share": share},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "share": share},
        ]
    return adam, [{"params": [p for p in every if id(p) in trunk], "share": 1.0}]


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
        run = train(plan, folder, hours * 3600, material_of(config_of(plan.config)))
    except (ValueError, OSError) as wrong:
        print(f"train: {wrong}", file=sys.stderr)
        return 2
    print(json.dumps({"folder": str(folder), "step": run.step, "steps": plan.steps}))
    return 0 if run.step >= plan.steps else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
