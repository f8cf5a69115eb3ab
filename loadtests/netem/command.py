"""The command line of the weak-network lab: profiles, in memory or with real calls of one kind after another."""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.caller.analysis import Windows
from loadtests import report
from loadtests.netem import plots, profiles
from loadtests.netem.calls import EARLY_S, LEAST_S, LEGS, LivePlan, ended, run
from loadtests.netem.figures import CHUNK_MS, figures
from loadtests.netem.lab import REPAIRS, Sending, digit_accuracy, measure, span_of
from loadtests.netem.score import can_hear_digits
from media.timebase import NS_PER_S

MEMORY: Final = "memory"
ALL: Final = (
    "clean",
    "loss-5",
    "loss-10",
    "loss-20",
    "burst-20",
    "loss-5-jitter-60",
    "jitter-300",
    "stall-1s",
    "drift+200ppm",
    "drift-200ppm",
    "busy-wifi",
    "3G",
    "cellular",
    "trace-1214",
    "trace-2307",
)
_COLUMNS: Final = (
    ("profile", "profile"),
    ("leg", "leg"),
    ("mos", "MOS"),
    ("mos_clean", "ceiling"),
    ("mos_caller", "caller"),
    ("delay_ms.p50", "p50 ms"),
    ("delay_ms.p95", "p95"),
    ("delay_ms.max", "max"),
    ("recovery_ms", "recov. ms"),
    ("missed_turns", "missed"),
    ("aiortc.mos", "aiortc"),
    ("aiortc.delay_ms.p50", "its p50"),
    ("aiortc.delay_ms.after", "its end"),
)


@dataclass(frozen=True, slots=True)
class LabPlan:
    """One run of the lab, checked. Raises ValueError for what must not or cannot be run."""

    profiles: tuple[str, ...]
    legs: tuple[str, ...]
    seconds: float
    calls: int
    codec: str
    coding: str
    repair: str
    digits: int
    seed: int
    results: Path

    def __post_init__(self) -> None:
        for name in self.profiles:
            profiles.find(name)
        for leg in self.legs:
            if leg != MEMORY:
                self.live(self.profiles[0], leg)
        if MEMORY in self.legs and self.digits and not can_hear_digits():
            raise ValueError("--digits needs pocketsphinx: pip install pocketsphinx")
        if self.seconds < LEAST_S:
            raise ValueError(f"--seconds {self.seconds}: PESQ wants {LEAST_S} or more")

    def live(self, profile: str, leg: str) -> LivePlan:
        """Real calls; with Chromium beside other legs there is one of it, all the same."""
        calls = 1 if leg == "chromium" and len(self.legs) > 1 else self.calls
        return LivePlan(profile, leg, calls, self.seconds, self.codec, self.seed, self.repair)


def parse_arguments(argv: Sequence[str]) -> LabPlan:
    """Arguments as a plan. Raises ValueError with what to do instead."""
    parser = argparse.ArgumentParser(prog="python -m loadtests netem")
    add = parser.add_argument
    add("--profile", required=True, help="all, or one of " + ", ".join(profiles.names()))
    add(
        "--leg",
        default="webrtc",
        help=f"real calls ({', '.join(LEGS)}) or receive paths in memory ({MEMORY}); several with commas, or all",
    )
    add("--seconds", type=float, default=10.0, help="of bad network, for each direction")
    add("--calls", type=int, default=1, help="at once, each with a line of its own")
    add("--codec", default="PCMU", help="of telephone calls")
    add("--coding", default="fec", choices=("celt", "fec", "hybrid"), help="of Opus, in memory")
    add(
        "--repair",
        default="nack",
        choices=REPAIRS,
        help="of browser calls, and in memory: in-band FEC alone, repeats as our page has them, redundant audio",
    )
    add(
        "--digits",
        type=int,
        default=0,
        metavar="N",
        help="in memory: how many of N digit strings are still heard",
    )
    add("--seed", type=int, default=1)
    add("--results", type=Path, default=report.RESULTS, help="folder of the CSV file and the plots")
    given = vars(parser.parse_args(argv))
    chosen = given.pop("profile")
    names = tuple(n for n in ALL if n in profiles.names()) if chosen == "all" else tuple(chosen.split(","))
    leg = given.pop("leg")
    return LabPlan(profiles=names, legs=(MEMORY, *LEGS) if leg == "all" else tuple(leg.split(",")), **given)


def main(argv: Sequence[str]) -> int:
    """Run the lab. 0 when every profile was measured; 1 when not; 2 for an operator's mistake. Missed goals are in
    the figures."""
    try:
        plan = parse_arguments(argv)
    except ValueError as error:
        print(f"loadtests netem: {error}", file=sys.stderr)
        return 2
    command = shlex.join(["python", "-m", "loadtests", "netem", *argv])
    rows: dict[str, dict[str, Any]] = {}
    failed = 0
    for name, leg in itertools.product(plan.profiles, plan.legs):
        key = name if len(plan.legs) == 1 else f"{name}, {leg}"
        try:
            row = rows[key] = measure_profile(plan, name, leg)
        except (OSError, RuntimeError, TimeoutError) as error:
            print(f"loadtests netem: {key}: {error}", file=sys.stderr)
            failed += 1
            continue
        failed += not row.get("answered", 1)
        report.append_row(plan.results / "netem.csv", report.surroundings(command) | report.flatten(row))
        print(f"{key}: MOS {row['mos']} of {row['mos_clean']}", file=sys.stderr, flush=True)
    if len(plan.profiles) > 1 and len(plan.legs) == 1:
        plots.draw_all(plan.results / f"netem-{plan.legs[0]}.png", rows, f"all profiles, {plan.legs[0]}")
    if not rows:
        return 1
    (only, *others) = rows.values()
    print(table(rows.values()) if others else report.table(only))
    print(json.dumps(summary(rows) if others else only), flush=True)
    return 1 if failed else 0


def measure_profile(plan: LabPlan, name: str, leg: str) -> dict[str, Any]:
    """Figures of one profile, and its plot. Raises OSError or RuntimeError where it cannot be measured."""
    return _in_memory(plan, name) if leg == MEMORY else _with_calls(plan.live(name, leg), plan.results)


def _in_memory(plan: LabPlan, name: str) -> dict[str, Any]:
    profile = profiles.find(name)
    sending = Sending(profile, plan.coding, plan.repair, plan.seed)
    found = measure(sending, plan.seconds)
    result: dict[str, Any] = {
        "profile": name,
        "leg": MEMORY,
        "codec": f"opus {plan.coding}",
        "repair": plan.repair,
        "missed_turns": None,
    }
    result |= found["ours"].figures | {name: row.figures for name, row in found.items() if name != "ours"}
    if plan.digits:
        result["digits"] = digit_accuracy(sending, plan.digits)
    span = span_of(plan.seconds)
    curves = {who: [_curve(row.windows, 0, profile.base_ms)] for who, row in found.items()}
    spells = {name: (span.from_ns / NS_PER_S, span.until_ns / NS_PER_S)}
    title = f"{name} in memory: {profile.text}"
    plots.draw_delay(plan.results / f"netem-memory-{name}.png", curves, spells, title)
    return result


def _with_calls(live: LivePlan, results: Path) -> dict[str, Any]:
    name = live.profile
    seen = run(live)
    result, windows = figures(seen, live)
    result |= {"calls": live.calls, "seconds": live.seconds, "seed": live.seed}
    for reason in sorted({call.reason for call in seen.calls if call.reason}):
        print(f"loadtests netem: {name}: {reason}", file=sys.stderr)
    ways = [profiles.find(name, way) for way in ("up", "down")]
    beyond_ms = CHUNK_MS + sum(way.base_ms for way in ways)
    begun = [call.began_ns for call in ended(seen.calls)]
    curves = {
        live.leg: [_curve(found, at_ns, beyond_ms) for found, at_ns in zip(windows, begun, strict=True)]
    }
    spells = {
        f"{spell.name} bad": (spell.from_s - EARLY_S, spell.until_s) for spell in live.timeline.spells[1:]
    }
    title = f"{name}, {live.leg}: {ways[0].text}"
    plots.draw_delay(results / f"netem-{live.leg}-{name}.png", curves, spells, title)
    return result


def _curve(windows: Windows, began_ns: int, beyond_ms: float) -> plots.Curve:
    return (windows.sent_ns - began_ns) / NS_PER_S, windows.delay_ms - beyond_ms


def summary(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The last line of several profiles: the worst of each figure, and all of them by profile."""
    scores = [row["mos"] for row in rows.values() if row["mos"] is not None]
    ceilings = [row["mos_clean"] for row in rows.values() if row["mos_clean"] is not None]
    recoveries = [row["recovery_ms"] for row in rows.values()]
    delays = [row["delay_ms"] for row in rows.values()]
    keys = ("p50", "p95", "max")
    return {
        "mos": min(scores, default=None),
        "mos_clean": max(ceilings, default=None),
        "delay_ms": {key: max((d[key] for d in delays if d[key] is not None), default=None) for key in keys},
        "recovery_ms": None if None in recoveries else max(recoveries),
        "missed_turns": sum(row["missed_turns"] or 0 for row in rows.values()),
        "profiles": dict(rows),
    }


def table(rows: Sequence[Mapping[str, Any]] | Any) -> str:
    """One line a profile; columns that nobody has are left out."""
    flat = [report.flatten(row) for row in rows]
    columns = [(key, head) for key, head in _COLUMNS if any(row.get(key) is not None for row in flat)]
    cells = [[head for _, head in columns]]
    cells += [["-" if row.get(key) is None else str(row[key]) for key, _ in columns] for row in flat]
    widths = [max(len(line[at]) for line in cells) for at in range(len(columns))]
    return "\n".join(
        "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in cells
    )
