"""`python -m loadtests fdb`: Full-Duplex-Bench through real calls into a gateway of our own.

    python -m loadtests fdb                                   digits-bench, by telephone
    python -m loadtests fdb --leg webrtc                      the same as a browser
    python -m loadtests fdb --data v1_5 --words none          a published set; your recogniser writes the words
    python -m loadtests fdb --judge .cache/fdb/v1_5-sip       figures of what lies there, once the words do

Every sound of a set is played through a call; the answers, as long as the sounds and on their clock, are written
as the public scripts expect them, in a copy of the set (`--out`). Without `--data` a set about digits is made
first, by `model_server.training.digits_bench`. Last on standard output is one line of JSON; a row and a picture are
kept in `loadtests/results/`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtests import machine, report
from loadtests.fdb import calls, figures, layout, picture, words
from loadtests.fdb.layout import Sample, Version, Word
from loadtests.fdb.speech import speech_in

CACHE = words.ROOT / ".cache" / "fdb"
OURS = "digits-bench"


@dataclass(frozen=True, slots=True)
class Plan:
    """One run, checked."""

    data: Path | None
    """None: digits-bench."""
    leg: str
    engine: str
    words: str
    persona: str = ""
    subsets: tuple[str, ...] = ()
    """Those whose names begin so; none: all."""
    count: int = 0
    """Samples of each subset; 0: all, of digits-bench `--count` of its own."""
    at_once: int = 4
    tail_s: float | None = None
    out: Path | None = None
    people: Path | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    judge: Path | None = None

    def __post_init__(self) -> None:
        if self.words == "captions" and self.leg != "webrtc" and self.judge is None:
            raise ValueError(
                f"--words captions --leg {self.leg}: captions are told to browsers (--leg webrtc)"
            )
        if self.words == "reader" and self.engine != "digits" and self.judge is None:
            raise ValueError(
                f"--words reader --engine {self.engine}: the reader knows the voice of digits and no other; "
                "take --words captions (--leg webrtc) or none"
            )
        if self.at_once < 1 or self.count < 0 or (self.tail_s or 0) < 0:
            raise ValueError("--at-once must be 1 or more, --count and --tail not negative")
        for path in (self.data, self.judge):
            if path is not None and not path.is_dir():
                raise ValueError(f"{path}: no such folder; expected one in the layout of Full-Duplex-Bench")

    @property
    def name(self) -> str:
        return self.data.resolve().name if self.data else OURS

    @property
    def target(self) -> Path:
        return self.judge or self.out or CACHE / f"{self.name}-{self.leg}"


def main(argv: Sequence[str]) -> int:
    """See `report.carry_out`."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests fdb",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
    )
    parser.add_argument(
        "--data", type=Path, help="a set, a version of it, or all of them; default: digits-bench"
    )
    parser.add_argument("--leg", choices=sorted(calls.CODECS), default="sip")
    parser.add_argument("--engine", default="digits")
    parser.add_argument("--words", choices=words.SOURCES, default="reader", help="%(default)s; see words.py")
    parser.add_argument("--persona", default="", help="of every call; digits-bench names its own")
    parser.add_argument("--subsets", nargs="+", default=(), help="only those whose names begin so")
    parser.add_argument(
        "--count", type=int, default=0, help="samples of each subset; default: all, 12 of digits-bench"
    )
    parser.add_argument("--at-once", type=int, default=4, help="calls at the same time (%(default)s)")
    parser.add_argument(
        "--tail", type=float, help="silence behind each sound, s; default: 0, of version 3 15"
    )
    parser.add_argument("--out", type=Path, help="where the copy with the answers goes; default: .cache/fdb")
    parser.add_argument(
        "--people", type=Path, help="their backchannels: icc_gt_distribution.json, for the JSD"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the gateway"
    )
    parser.add_argument("--judge", type=Path, help="no calls: figures of this folder")
    asked = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "loadtests", "fdb", *argv])
    return report.carry_out("fdb", lambda: _plan(asked), lambda plan: run(plan, command))


def _plan(asked: argparse.Namespace) -> Plan:
    settings = {}
    for one in asked.set:
        name, equals, value = one.partition("=")
        if not equals:
            raise ValueError(f"--set {one}: expected NAME=VALUE")
        settings[name] = value
    for folder in (asked.data, asked.judge):
        if folder is not None and folder.is_dir():
            for sample in layout.find(folder):
                sample.check()
    return Plan(
        asked.data, asked.leg, asked.engine, asked.words, asked.persona, tuple(asked.subsets), asked.count,
        asked.at_once, asked.tail, asked.out, asked.people, settings, asked.judge,
    )  # fmt: skip


def run(plan: Plan, command: str, results: Path = report.RESULTS) -> dict[str, Any]:
    """Play, judge, and keep what was found. RuntimeError when the gateway or the reader does not run."""
    load, begun_ns, begun_s = os.getloadavg()[0], time.monotonic_ns(), time.monotonic()
    result: dict[str, Any] = {"set": plan.name, "leg": plan.leg, "engine": plan.engine, "words": plan.words}
    if plan.judge:
        samples = layout.find(plan.judge)
    else:
        samples = _copied(plan)
        with machine.witnessed() as stalls:
            played, turns = _played(samples, plan)
        result |= {
            "calls": len(played), "answered": sum(bool(call.output) for call in played),
            "statuses": _counted(str(call.status) for call in played), "turns": turns,
            "load_before": round(load, 2), "machine": stalls.figures((begun_ns, time.monotonic_ns()), ()),
        }  # fmt: skip
        _write(played, plan.words)
    result["folder"] = report.shown(plan.target)
    result["figures"] = figures.of_all(samples, _people(plan.people))
    result["seconds"] = round(time.monotonic() - begun_s, 1)
    if not plan.judge:
        report.append_row(results / "fdb.csv", report.surroundings(command) | report.flatten(result))
        drawn = results / f"fdb-{plan.name}-{plan.leg}.png"
        if picture.draw(samples, drawn, f"Full-Duplex-Bench: {plan.name}, {plan.leg}, {plan.engine}"):
            result["picture"] = report.shown(drawn)
    return result


def _copied(plan: Plan) -> list[Sample]:
    """In `--out`. digits-bench is made there."""
    if plan.data is None:
        made = [sys.executable, "-m", "model_server.training.digits_bench", str(plan.target)]
        made += ["--count", str(plan.count)] if plan.count else []
        done = subprocess.run(made, cwd=words.ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"digits-bench could not be made: {done.stderr.strip()}")
        return _chosen(layout.find(plan.target), plan)
    return layout.copied(_chosen(layout.find(plan.data), plan), plan.data, plan.target)


def _chosen(samples: Sequence[Sample], plan: Plan) -> list[Sample]:
    """ValueError where nothing is left."""
    of: dict[str, list[Sample]] = {}
    for sample in samples:
        if not plan.subsets or sample.subset.startswith(plan.subsets):
            of.setdefault(sample.subset, []).append(sample)
    if not of:
        names = sorted({sample.subset for sample in samples})
        raise RuntimeError(f"--subsets {' '.join(plan.subsets)}: expected beginnings of {', '.join(names)}")
    return [sample for some in of.values() for sample in (some[: plan.count] if plan.count else some)]


def _played(samples: Sequence[Sample], plan: Plan) -> tuple[list[calls.Played], dict[str, int]]:
    line = calls.Line(plan.leg, plan.engine, plan.persona, plan.settings, plan.at_once, plan.tail_s)
    for sample in samples:  # what an earlier run left would be taken for this one's
        for path in (*sample.folder.glob("*output*"), *sample.folder.glob("result_*.json")):
            path.unlink()
    with tempfile.TemporaryDirectory(prefix="microturn-fdb-") as folder:
        return calls.play(samples, line, Path(folder))


def _write(played: Sequence[calls.Played], source: str) -> None:
    """Words beside the sounds, and the results of version 3."""
    answered = [call for call in played if call.output]
    said: list[list[Word] | None] = [None] * len(answered)
    paths = [call.sample.folder / call.output for call in answered]
    if source == "reader":
        said = list(words.of_our_voice(paths))
    elif source == "captions":
        said = [
            words.of_captions(call.told, *speech_in(path)) for call, path in zip(answered, paths, strict=True)
        ]
    for call, path, some in zip(answered, paths, said, strict=True):
        sample = call.sample
        if sample.version is Version.V3:
            calls.write_result(sample, figures.result_of(sample, some, call.told))
        elif some is not None:
            kept = layout.judged(sample, some) if call.output == "output.wav" else some
            layout.write_words(path.with_suffix(".json"), kept)


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _people(path: Path | None) -> figures.People:
    if path is None:
        return {}
    try:
        found: figures.People = json.loads(path.read_text())
    except ValueError as wrong:
        raise RuntimeError(f"--people {path}: {wrong}") from None
    return found
