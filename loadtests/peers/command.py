"""The command line: one program after the other gets the same callers; a table, a row each, one JSON line."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.caller.report import CHUNK_MS
from loadtests import beside, report
from loadtests.peers.browsers import BROWSERS
from loadtests.peers.peer import Peer, Running
from loadtests.peers.phones import PHONES


@contextmanager
def _by_the_callers(folder: Path) -> Iterator[Running]:
    """Load tests start a gateway of ours themselves."""
    yield Running()


OURS = tuple(
    Peer("microturn", kind, "200 ms chunks through the model server, engine echo", str, _by_the_callers, str)
    for kind in ("sip", "webrtc")
)
PEERS = {f"{peer.kind}/{peer.name}": peer for peer in (OURS[0], *PHONES, OURS[1], *BROWSERS)}
PROFILE = "loss-5-jitter-60"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for."""

    peers: tuple[str, ...]
    sip_calls: int
    webrtc_calls: int
    seconds: float
    lab: bool

    def __post_init__(self) -> None:
        if unknown := [name for name in self.peers if name not in PEERS]:
            raise ValueError(f"--peers {','.join(unknown)}: expected some of {', '.join(PEERS)}")
        if min(self.sip_calls, self.webrtc_calls) < 1 or self.seconds <= 0:
            raise ValueError("--sip-calls, --webrtc-calls and --seconds must be positive")


def main(argv: Sequence[str]) -> int:
    """See `report.carry_out`."""
    parser = argparse.ArgumentParser(prog="python -m loadtests peers", description=__doc__)
    parser.add_argument("--peers", default=",".join(PEERS), help="of " + ", ".join(PEERS))
    parser.add_argument("--sip-calls", type=int, default=40, help="telephone calls at once (40)")
    parser.add_argument("--webrtc-calls", type=int, default=10, help="browser calls at once (10)")
    parser.add_argument("--seconds", type=float, default=20.0, help="with all calls up (20)")
    parser.add_argument(
        "--no-lab", dest="lab", action="store_false", help="leave out receive paths under loss"
    )
    given = vars(parser.parse_args(argv))
    names = tuple(name for name in given.pop("peers").split(",") if name)
    command = shlex.join(["python", "-m", "loadtests", "peers", *argv])
    return report.carry_out("peers", lambda: Plan(names, **given), lambda plan: run(plan, command))


def run(plan: Plan, command: str, results: Path = report.RESULTS) -> dict[str, Any]:
    """Measure, and keep what was found."""
    found: dict[str, dict[str, Any]] = {}
    missing: dict[str, str] = {}
    for name in plan.peers:
        if what := PEERS[name].missing():
            missing[name] = what
            print(f"loadtests peers: {name} is left out: {what}", file=sys.stderr)
            continue
        found[name] = asyncio.run(_measured(PEERS[name], plan))
    about = report.surroundings(command)
    for name, figures in found.items():
        report.append_row(results / "peers.csv", about | {"peer": name} | figures)
    result: dict[str, Any] = {"peers": found, "missing": missing, "ahead": list(_compared(found))}
    if plan.lab:
        result["receive_paths"] = lab = asyncio.run(_receive_paths())
        report.append_row(results / "peers-lab.csv", about | lab)
    _draw(results / "peers.png", found)
    return result


async def _measured(peer: Peer, plan: Plan) -> dict[str, Any]:
    """The load test of its kind at this program. RuntimeError when that fails."""
    calls = plan.sip_calls if peer.kind == "sip" else plan.webrtc_calls
    with tempfile.TemporaryDirectory(prefix="peers-") as temporary:
        folder = Path(temporary)
        with peer.start(folder) as running:
            asked = ["--calls", f"{calls}", "--seconds", f"{plan.seconds:g}", "--results", temporary]
            if running.target:
                asked += ["--target", running.target, "--pid", f"{running.pid}"]
            status, told = await beside.run("loadtests", peer.kind, *asked)
        if not told:
            raise RuntimeError(f"{peer.name}: the load test ended with {status} and no figures")
    return figures_of(peer, told) | {"version": peer.version()}


def figures_of(peer: Peer, told: Mapping[str, Any]) -> dict[str, Any]:
    """Of a load test's JSON, those that every program has. Delay is from what is said to when it is heard again."""
    cpu = (told.get("cpu_percent_per_call") or {}).get("total")
    delay = told["delay_ms"]
    active_ms = told["active_ms"]
    return {
        "does": peer.does,
        "calls": told["calls"],
        "answered": told["answered"],
        "cpu_percent_per_call": cpu,
        "calls_a_core": round(100 / cpu, 1) if cpu else None,
        "mb_per_call": told["rss_mb_per_call"],
        "setup_ms_p50": told["setup_ms"]["p50"],
        **{f"echo_ms_{at}": _plus(delay[at], CHUNK_MS) for at in ("p50", "p99", "max")},
        "delay_grew_ms": delay["growth"],
        "not_heard_percent": round(100 * told["gap_ms"] / active_ms, 3) if active_ms else None,
    }


def _plus(value: float | None, more: float) -> float | None:
    return None if value is None else round(value + more, 2)


def _compared(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A sentence for each peer: calls a core of ours to those of it."""
    for name, figures in found.items():
        kind, _, peer = name.partition("/")
        ours = found.get(f"{kind}/microturn", {}).get("calls_a_core")
        if peer != "microturn" and ours and figures["calls_a_core"]:
            yield f"{kind}: microturn has {ours / figures['calls_a_core']:.2f} times the calls a core of {peer}"


async def _receive_paths() -> dict[str, Any]:
    """Ours and aiortc's, on the same packets with loss and jitter (`loadtests netem --leg memory`)."""
    with tempfile.TemporaryDirectory(prefix="peers-") as temporary:
        asked = ["--leg", "memory", "--profile", PROFILE, "--repair", "nack", "--results", temporary]
        _, told = await beside.run("loadtests", "netem", *asked)
    if not told:
        raise RuntimeError(f"loadtests netem --profile {PROFILE} gave no figures")
    wanted = ("mos", "mos_clean", "recovery_ms", "delay_ms")
    return report.flatten(
        {"profile": PROFILE, "ours": {name: told[name] for name in wanted}}
        | {"aiortc": {name: told["aiortc"][name] for name in wanted}}
    )


def _draw(path: Path, found: Mapping[str, Mapping[str, Any]]) -> bool:
    """Calls a core and delay, each program a bar. False when matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None or not found:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 0.4 * len(found) + 1.5), sharey=True)
    columns = (("calls_a_core", "calls a core"), ("echo_ms_p50", "ms until it is heard again, p50"))
    colours = ["tab:blue" if name.endswith("/microturn") else "tab:gray" for name in found]
    for axis, (column, title) in zip(axes, columns, strict=True):
        bars = axis.barh(list(found), [figures[column] or 0 for figures in found.values()], color=colours)
        axis.bar_label(bars, fmt="%.0f")
        axis.set(title=title)
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True
