"""`python -m loadtests soak`: calls for hours through one gateway, and whether anything grows.

    rounds of calls -> all hang up -> what each process holds -> the next round ... -> a line through what they held

A kind of process leaks when the line through its memory, without the first rounds, goes up by more than chance
would have it (the slope less two standard errors is above zero) and by more than a megabyte an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtests import mixed, processes, report
from loadtests.gateway_under_test import GatewayUnderTest
from loadtests.mixed import Load

WARM_UP = 3
"""Rounds that are not looked at: caches fill, and UDP transactions are remembered for 32 s."""
LEAST_ROUNDS = 8
SETTLE_S = 6.0
MOST_MB_AN_HOUR = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for."""

    minutes: float
    sip: int
    webrtc: int
    seconds: float
    engine: str

    def __post_init__(self) -> None:
        if (
            self.minutes <= 0
            or self.seconds <= 0
            or self.sip < 0
            or self.webrtc < 0
            or not self.sip + self.webrtc
        ):
            raise ValueError("--minutes, --seconds and one of --sip and --webrtc must be positive")


@dataclass(frozen=True, slots=True)
class Round:
    """One round: when it ended, what it held then, how its calls went."""

    at_s: float
    mb: Mapping[str, float]
    """By kind of process: pages that nobody shares, so that other programs on the machine do not change it."""
    told: Mapping[str, Mapping[str, Any]]


def main(argv: Sequence[str]) -> int:
    """See `report.carry_out`."""
    parser = argparse.ArgumentParser(prog="python -m loadtests soak")
    parser.add_argument("--minutes", type=float, default=120.0, help="in all (120)")
    parser.add_argument("--sip", type=int, default=20, help="telephone calls of a round (20)")
    parser.add_argument("--webrtc", type=int, default=8, help="browser calls of a round (8)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of a round, with all calls up (30)")
    parser.add_argument("--engine", default="echo")
    asked = vars(parser.parse_args(argv))
    command = shlex.join(["python", "-m", "loadtests", "soak", *argv])
    return report.carry_out("soak", lambda: Plan(**asked), lambda plan: run(plan, command))


def run(plan: Plan, command: str, results: Path = report.RESULTS) -> dict[str, Any]:
    """Measure, and keep what was found."""
    rounds = asyncio.run(_rounds(plan))
    result = figures(rounds) | {"engine": plan.engine, "minutes": plan.minutes}
    report.append_row(results / "soak.csv", report.surroundings(command) | report.flatten(result))
    _draw(results / "soak.png", rounds)
    return result


async def _rounds(plan: Plan) -> list[Round]:
    load, rounds = Load(plan.sip, plan.webrtc, plan.seconds), list[Round]()
    with GatewayUnderTest.start(mixed.wish(plan.sip, plan.webrtc, plan.engine)) as gateway:
        begun_s, up = time.monotonic(), gateway.only("up").pid
        while time.monotonic() - begun_s < 60 * plan.minutes:
            told = await mixed.place(gateway, load)
            await asyncio.sleep(SETTLE_S)
            mb: dict[str, float] = {}
            for sample in await asyncio.to_thread(processes.sample, up):
                mb[sample.kind] = mb.get(sample.kind, 0.0) + sample.own_mb
            rounds.append(Round(time.monotonic() - begun_s, mb, told))
            print(
                f"{rounds[-1].at_s:.0f} s: { ({kind: round(value, 1) for kind, value in mb.items()}) }",
                flush=True,
            )
    return rounds


def figures(rounds: Sequence[Round]) -> dict[str, Any]:
    """Of all rounds. RuntimeError for so few that no line can be laid through them."""
    if len(rounds) < LEAST_ROUNDS:
        raise RuntimeError(f"{len(rounds)} rounds: at least {LEAST_ROUNDS} are needed; give --minutes more")
    looked_at = rounds[WARM_UP:]
    at_h = np.array([one.at_s / 3_600 for one in looked_at])
    kinds = sorted({kind for one in looked_at for kind in one.mb})
    lines = {kind: slope(at_h, np.array([one.mb.get(kind, 0.0) for one in looked_at])) for kind in kinds}
    told = [one for each in rounds for one in each.told.values()]
    delays = [[float(one["delay_ms"]["p99"] or 0.0) for one in each.told.values()] for each in rounds]
    return {
        "rounds": len(rounds),
        "calls": sum(one["calls"] for one in told),
        "answered": sum(one["answered"] for one in told),
        "turns_missed_percent": round(100 * float(np.mean([mixed.missed_share(one) for one in told])), 4),
        "delay_p99_ms_first": round(max(delays[0]), 1),
        "delay_p99_ms_last": round(max(delays[-1]), 1),
        "mb_first": round(sum(looked_at[0].mb.values()), 1),
        "mb_last": round(sum(looked_at[-1].mb.values()), 1),
        "mb_an_hour": {kind: round(line[0], 2) for kind, line in lines.items()},
        "mb_an_hour_error": {kind: round(line[1], 2) for kind, line in lines.items()},
        "leaks": [
            kind for kind, (mean, error) in lines.items() if mean - 2 * error > 0 and mean > MOST_MB_AN_HOUR
        ],
    }


def slope(at: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Of the line of least squares through them, and its standard error."""
    centred = at - at.mean()
    mean = float(centred @ values / (centred @ centred))
    left = values - values.mean() - mean * centred
    return mean, float(np.sqrt(left @ left / (len(at) - 2) / (centred @ centred)))


def _draw(path: Path, rounds: Sequence[Round]) -> bool:
    """Memory by kind, and delay, over time. False when matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (memory, delay) = pyplot.subplots(1, 2, figsize=(11, 4))
    minutes = [one.at_s / 60 for one in rounds]
    for kind in sorted({kind for one in rounds for kind in one.mb}):
        memory.plot(minutes, [one.mb.get(kind, 0.0) for one in rounds], label=kind)
    memory.set(xlabel="minutes", ylabel="MB", title="Memory after each round", ylim=(0, None))
    memory.legend()
    for kind in sorted({kind for one in rounds for kind in one.told}):
        delay.plot(minutes, [one.told[kind]["delay_ms"]["p99"] or 0.0 for one in rounds], label=kind)
    delay.set(xlabel="minutes", ylabel="ms beyond the chunk, p99", title="Delay", ylim=(0, None))
    delay.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True
