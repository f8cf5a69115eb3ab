"""`python -m loadtests sizing --telephone 100`: what so many calls take, by the rows that load tests left.

Nothing is measured here. Of each kind of row in `loadtests/results/` the last five that fit are read, and the
dearest of them counts: what is enough in a bad hour is enough in a good one. Rows of a model server are read
singly, the last one. Sound on the wire is reckoned from packets of 20 ms with their headers, pictures from what
senders are held to. A model server of `digits` is one core's work, so there is a gateway for each that is full.
Last on standard output is one line of JSON.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadtests.report import RESULTS, carry_out

ROWS: Final = 5
FILL: Final = 0.6
"""Of a core: beyond it turns wait for each other at the moments when the machine is held up."""
PACKETS_PER_S: Final = 50
HEADERS: Final = {"telephone": 20 + 8 + 12, "browser": 20 + 8 + 12 + 10}
"""IPv4, UDP and RTP, bytes; a browser's has an authentication tag, too (SRTP, RFC 3711)."""
PAYLOAD: Final = {"telephone": 160, "browser": 80}
"""Bytes of 20 ms: G.711, RFC 3551 section 4.5.14; Opus at 32 kbit/s."""
PICTURES_KBIT: Final = 200
"""What a browser's camera is held to (REMB)."""

Row = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """How many calls at once."""

    telephone: int
    browser: int
    camera: int
    recorded: int
    fill: float = FILL
    results: Path = RESULTS

    def __post_init__(self) -> None:
        for name in ("telephone", "browser", "camera", "recorded"):
            if (count := getattr(self, name)) < 0:
                raise ValueError(f"--{name} is {count}: how many calls there are at once, 0 or more")
        if self.camera > self.browser:
            raise ValueError(
                f"--camera is {self.camera} of --browser {self.browser}: calls with a camera are browser calls"
            )
        if self.recorded > self.calls:
            raise ValueError(f"--recorded is {self.recorded}: there are {self.calls} calls")
        if not 0 < self.fill <= 1:
            raise ValueError(
                f"--fill is {self.fill}: the share of a core that may be used, above 0, at most 1"
            )

    @property
    def calls(self) -> int:
        return self.telephone + self.browser


def reckon(plan: Plan) -> dict[str, Any]:
    """Cores, MB and kbit/s of each part, and their sums. `LookupError` when rows are missing."""
    costs = per_call(plan.results)
    cores = {
        "sip": plan.telephone * costs["telephone_cpu_percent"] / 100,
        "webrtc": plan.browser * costs["browser_cpu_percent"] / 100,
        "pictures": plan.camera * costs["camera_cpu_percent"] / 100,
        "recording": plan.recorded * (costs["recording_cpu_percent"] + costs["finishing_cpu_percent"]) / 100,
        "model": plan.calls / costs["model_calls_a_core"],
    }
    cores = {part: used / (1.0 if part == "model" else plan.fill) for part, used in cores.items()}
    memory = {
        "media": plan.telephone * costs["telephone_mb"] + plan.browser * costs["browser_mb"],
        "pictures": plan.camera * costs["camera_mb"],
        "model": plan.calls * costs["model_mb"],
    }
    sound = {kind: PACKETS_PER_S * (HEADERS[kind] + PAYLOAD[kind]) * 8 / 1000 for kind in HEADERS}
    each_way = plan.telephone * sound["telephone"] + plan.browser * sound["browser"]
    return {
        "calls": {"telephone": plan.telephone, "browser": plan.browser, "camera": plan.camera},
        "a_call": costs | {f"{kind}_kbit_s": rate for kind, rate in sound.items()},
        "cores": {part: round(used, 2) for part, used in cores.items()},
        "cores_in_all": math.ceil(sum(cores.values())),
        "gateways": math.ceil(plan.calls / costs["model_calls_a_core"]),
        "mb": {part: round(used, 1) for part, used in memory.items()},
        "mbit_s": {
            "in": round((each_way + plan.camera * PICTURES_KBIT) / 1000, 1),
            "out": round(each_way / 1000, 1),
        },
    }


def per_call(results: Path) -> dict[str, float]:
    """What one call takes: CPU in percent of a core, memory in MB. `LookupError` when rows are missing."""
    telephone = _rows(
        results, "sip", lambda row: "--target" not in row["command"] and int(row["calls"]) >= 100
    )
    ours = _rows(results, "webrtc", lambda row: row["system"] == "microturn")
    many = [row for row in ours if int(row["calls"]) >= 40]
    seen = [row for row in ours if _has_camera(row)]
    unseen = (
        [row for row in ours if not _has_camera(row) and row["calls"] == seen[-1]["calls"]] if seen else []
    )
    recorded = _rows(results, "recording", lambda row: row["form"] == "wav")
    curve = _rows(results, "cost-curve", lambda row: True)[-1]
    kept = _rows(results, "four-hours", lambda row: True)[-1]
    if not many or not seen or not unseen:
        raise LookupError(f"{results / 'webrtc.csv'}: no rows of 40 calls, or none with and without --video")
    return {
        "telephone_cpu_percent": _dearest(telephone, "sip-worker", "gateway"),
        "telephone_mb": _dearest_mb(telephone),
        "browser_cpu_percent": _dearest(many, "webrtc-worker", "gateway"),
        "browser_mb": _dearest_mb(many),
        "camera_cpu_percent": round(_dearest(seen, "total") - _dearest(unseen, "total"), 3),
        "camera_mb": round(_dearest_mb(seen) - _dearest_mb(unseen), 2),
        "recording_cpu_percent": max(float(row["cpu_percent_per_call.more"]) for row in recorded[-ROWS:]),
        "finishing_cpu_percent": max(
            float(row["finishing_cpu_percent_of_recorded_time"]) for row in recorded[-ROWS:]
        ),
        "model_calls_a_core": float(curve["admitted"]),
        "model_mb": round(float(kept["kept_bytes_a_call"].strip("[]").split(",")[-1]) / 1e6, 2),
    }


def _has_camera(row: Row) -> bool:
    return "--video" in row["command"]


def _dearest(rows: list[Row], *kinds: str) -> float:
    """Of the last rows, all processes of these kinds together, % of a core."""
    return round(
        max(sum(float(row[f"cpu_percent_per_call.{kind}"]) for kind in kinds) for row in rows[-ROWS:]), 3
    )


def _dearest_mb(rows: list[Row]) -> float:
    return max(float(row["rss_mb_per_call"]) for row in rows[-ROWS:])


def _rows(results: Path, name: str, fits: Callable[[Row], bool]) -> list[Row]:
    """Those that fit, oldest first. `LookupError` when there are none."""
    path = results / f"{name}.csv"
    if not path.exists():
        raise LookupError(f"{path} is missing: run the load test {name} first")
    with path.open(newline="") as file:
        found: list[Row] = [row for row in csv.DictReader(file) if fits(row)]
    if not found:
        raise LookupError(f"{path}: no row that fits; run the load test {name} first")
    return found


def main(argv: list[str]) -> int:
    """0; 1 when rows are missing; 2 for an operator's mistake."""
    parser = argparse.ArgumentParser(prog="python -m loadtests sizing")
    parser.add_argument("--telephone", type=int, default=100, help="calls at once by SIP")
    parser.add_argument("--browser", type=int, default=0, help="calls at once by WebRTC")
    parser.add_argument(
        "--camera", type=int, default=0, help="of these, with a camera that the model looks at"
    )
    parser.add_argument("--recorded", type=int, default=0, help="of all, recorded as WAV")
    parser.add_argument("--fill", type=float, default=FILL, help="share of a core that may be used")
    asked = parser.parse_args(argv)
    return carry_out("sizing", lambda: Plan(**vars(asked)), reckon)
