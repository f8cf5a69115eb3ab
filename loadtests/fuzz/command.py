"""The command line: all targets, one after the other or some at a time; a table, a row each, one JSON line."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtests import report
from loadtests.fuzz.seeds import BROKEN, MOST_BYTES, seeds
from loadtests.fuzz.targets import TARGETS

TIMEOUT_S = 5
"""An input that takes longer breaks its target."""
MEMORY_MB = 1_500
START_S = 60.0
"""Over what it was given, for its start and its end."""
_UNITS = re.compile(r"stat::number_of_executed_units: *(\d+)")
_EDGES = re.compile(r"\bcov: (\d+)")
_CORPUS = re.compile(r"\bcorp: (\d+)")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for."""

    targets: tuple[str, ...]
    seconds: int
    """Each; 0 where tries end it."""
    tries: int
    """Each; 0 where time ends it."""
    jobs: int
    corpus: Path | None

    def __post_init__(self) -> None:
        if unknown := [name for name in self.targets if name not in TARGETS]:
            raise ValueError(f"--targets {','.join(unknown)}: expected some of {', '.join(TARGETS)}")
        if min(self.seconds, self.tries) < 0 or not (self.seconds or self.tries) or self.jobs < 1:
            raise ValueError("--seconds or --tries: expected at least one above 0, and --jobs at least 1")
        if importlib.util.find_spec("atheris") is None:
            raise ValueError(
                "package atheris is not installed: pip install 'microturn[fuzz]' (Linux, x86_64)"
            )


@dataclass(frozen=True, slots=True)
class Found:
    """Of one target."""

    target: str
    tries: int
    edges: int
    """Of its code that inputs reached."""
    corpus: int
    """Inputs that each reach something that no other does."""
    broken: str
    """File of the input that broke it; empty when none did."""
    why: str
    """The end of what it said then."""


def main(argv: Sequence[str]) -> int:
    """0 when nothing broke, 1 when something did or it could not be run, 2 for an operator's mistake."""
    parser = argparse.ArgumentParser(prog="python -m loadtests fuzz", description=__doc__)
    parser.add_argument("--targets", default=",".join(TARGETS), help="of " + ", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=10, help="each (10)")
    parser.add_argument("--tries", type=int, default=0, help="each, and no more")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    parser.add_argument(
        "--corpus", type=Path, help="folder in which what was found is kept, to go on from there"
    )
    given = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "loadtests", "fuzz", *argv])
    everything: list[Found] = []

    def make() -> Plan:
        names = tuple(name for name in given.targets.split(",") if name)
        return Plan(names, given.seconds, given.tries, given.jobs, given.corpus)

    def run(plan: Plan) -> dict[str, Any]:
        try:
            everything.extend(fuzz(plan))
        finally:
            keep(everything, plan, command)  # of a run that was broken off, what it had found until then
        return figures(everything)

    status = report.carry_out("fuzz", make, run)
    for one in everything:
        if one.broken:
            print(f"{one.target}: {one.broken}\n{one.why}", file=sys.stderr)
    return status or int(any(one.broken for one in everything))


def fuzz(plan: Plan, broken: Path = BROKEN) -> Iterable[Found]:
    """All of them, in their order."""
    with ThreadPoolExecutor(plan.jobs) as pool:
        yield from pool.map(lambda name: _one(name, plan, broken), plan.targets)


def _one(name: str, plan: Plan, broken: Path) -> Found:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        folder = Path(temporary)
        begun, died = folder / "seeds", folder / "died"
        kept = plan.corpus / name if plan.corpus is not None else folder / "corpus"
        for made in (begun, died, kept):
            made.mkdir(parents=True, exist_ok=True)
        for number, (_, seed) in enumerate(seeds(TARGETS[name])):
            (begun / f"{number}").write_bytes(seed)
        wanted = {"max_total_time": plan.seconds, "runs": plan.tries}
        limits = [f"-{name}={value}" for name, value in wanted.items() if value]
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "loadtests.fuzz.one", name, *limits, "-seed=1", f"-timeout={TIMEOUT_S}",
                 f"-rss_limit_mb={MEMORY_MB}", f"-max_len={MOST_BYTES}", f"-artifact_prefix={died}/",
                 "-print_final_stats=1", str(kept), str(begun)],
                capture_output=True, text=True, errors="replace", env=os.environ | {"PYTHONHASHSEED": "0"},
                timeout=(plan.seconds or 600) + START_S, cwd=Path(__file__).parents[2], check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{name} did not end in its time") from None
        said = ended.stdout + ended.stderr
        inputs = sorted(died.iterdir())
        if ended.returncode and not inputs:
            raise RuntimeError(f"{name} ended with {ended.returncode} before it was tried:\n{said[-2_000:]}")
        file = ""
        if inputs:
            data = inputs[0].read_bytes()
            file = hashlib.sha256(data).hexdigest()[:16]
            (broken / name).mkdir(parents=True, exist_ok=True)
            (broken / name / file).write_bytes(data)
        told = [pattern.findall(said) for pattern in (_UNITS, _EDGES, _CORPUS)]
        tries, edges, corpus = (int(numbers[-1]) if numbers else 0 for numbers in told)
        return Found(name, tries, edges, corpus, broken=file, why=ended.stdout[-2_000:] if file else "")


def figures(found: Sequence[Found]) -> dict[str, Any]:
    """In all, and by target."""
    return {
        "targets": len(found),
        "tries": sum(one.tries for one in found),
        "broken": sorted(one.target for one in found if one.broken),
        "by_target": {
            one.target: {"tries": one.tries, "edges": one.edges, "corpus": one.corpus} for one in found
        },
    }


def keep(found: Sequence[Found], plan: Plan, command: str, results: Path = report.RESULTS) -> None:
    """A row a target, and a plot of all."""
    about = report.surroundings(command)
    for one in found:
        told = {name: value for name, value in asdict(one).items() if name != "why"}
        report.append_row(results / "fuzz.csv", about | {"seconds": plan.seconds} | told)
    _draw(results / "fuzz.png", {one.target: (one.tries, one.edges) for one in found})


def _draw(path: Path, by_target: Mapping[str, tuple[int, int]]) -> bool:
    """Tries and edges by target. False when matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 0.22 * len(by_target) + 1.5), sharey=True)
    for axis, index, title in zip(axes, (0, 1), ("tries", "edges reached"), strict=True):
        axis.barh(list(by_target), [both[index] for both in by_target.values()])
        axis.set(title=title, xscale="log")
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True
