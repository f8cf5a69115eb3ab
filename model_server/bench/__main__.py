"""`python -m model_server.bench cost-curve|four-hours|many-calls|rebuild|killed|sessions`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from model_server.bench.held import CannotMeasure
from model_server.bench.rows import RESULTS, append_row
from model_server.engine.registry import CHECKPOINT

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def main(argv: list[str] | None = None) -> int:
    """0 when it was measured, and the figures say what came out; 2 where it cannot be, and a line says why."""
    parser = argparse.ArgumentParser(prog="python -m model_server.bench", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    curve = kinds.add_parser(
        "cost-curve", help="step time against calls and history, and where admission stops"
    )
    curve.add_argument("--calls", type=int, nargs="+", default=[1, 4, 8, 16, 20, 24, 32, 48, 64], metavar="N")
    curve.add_argument("--steps", type=int, default=12, help="measured at each point (12)")
    curve.add_argument("--speech", type=int, default=400, help="measured of each size among people (400)")
    curve.add_argument("--data", type=Path, default=DATA, help="recordings of the callers")
    hours = kinds.add_parser("four-hours", help="one call of hours: memory, step time, answers")
    hours.add_argument("--hours", type=float, default=4.0)
    hours.add_argument(
        "--minute", type=float, default=60.0, help="seconds heard at the beginning and at the end"
    )
    hours.add_argument("--calls", type=int, default=16, help="of that length at once (16)")
    hours.add_argument("--whole", action="store_true", help="hear all of it, some 10 times as fast as a call")
    hours.add_argument("--data", type=Path, default=DATA, help="recordings of the callers")
    many = kinds.add_parser("many-calls", help="a real server on one core, in real time: steps and deadlines")
    many.add_argument("--calls", type=int, default=60)
    many.add_argument("--seconds", type=float, default=600.0)
    many.add_argument("--groups", type=int, default=4, help="phase groups of its turn clock (4)")
    many.add_argument("--data", type=Path, default=DATA, help="recordings of the callers")
    rebuild = kinds.add_parser(
        "rebuild", help="seconds of calls that are rebuilt from their logs in a second"
    )
    rebuild.add_argument("--calls", type=int, nargs="+", default=[1, 16], metavar="N")
    killed = kinds.add_parser("killed", help="calls through SIGKILL of their server, in real time")
    killed.add_argument("--calls", type=int, default=60)
    killed.add_argument("--groups", type=int, default=4, help="phase groups of its turn clock (4)")
    killed.add_argument("--must", action="store_true", help="all of them, whatever admission predicts")
    killed.add_argument("--data", type=Path, default=DATA, help="recordings of the callers")
    for each in (curve, hours, many, rebuild, killed):
        each.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    sessions = kinds.add_parser(
        "sessions",
        help="sessions that a GPU holds with a large network of random weights, against its roofline",
    )
    sessions.add_argument(
        "--config", default="small-30b-a3b", help="or tiny, which tries the command on a CPU"
    )
    sessions.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    sessions.add_argument("--seconds", type=float, default=10.0, help="measured at each point (10)")
    sessions.add_argument("--deadline-ms", type=float, default=100.0)
    sessions.add_argument("--tokens", type=int, nargs="+", default=[], help="of each session in a step (0 4)")
    sessions.add_argument("--groups", type=int, nargs="+", default=[1, 2, 4], help="phase groups of a turn")
    sessions.add_argument("--buckets", type=int, nargs="+", metavar="N", help="sessions of a step")
    sessions.add_argument("--context", type=int, default=0, help="positions of text in every turn (0)")
    sessions.add_argument("--flow-steps", type=int, default=1, help="of the flow head (1)")
    for each in (curve, hours, many, rebuild, killed, sessions):
        each.add_argument("--out", type=Path, default=RESULTS, help="folder of rows and plots")
    given = parser.parse_args(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    try:
        result = _measured(given)
    except CannotMeasure as why:
        print(f"{given.kind}: {why}", file=sys.stderr)
        return 2
    append_row(given.out / f"{given.kind}.csv", result)
    print(json.dumps(result))
    return 0


def _measured(given: argparse.Namespace) -> dict[str, Any]:
    if given.kind == "cost-curve":
        from model_server.bench.cost_curve import measure

        plot = given.out / "cost-curve.png"
        return measure(given.checkpoint, given.data, given.calls, given.steps, given.speech, plot)
    if given.kind == "many-calls":
        from model_server.bench.many_calls import measure as measure_calls

        return measure_calls(given.checkpoint, given.data, given.calls, given.seconds, given.groups)
    if given.kind == "rebuild":
        from model_server.bench.rebuild import measure as measure_rebuild

        return measure_rebuild(given.checkpoint, given.calls)
    if given.kind == "killed":
        from model_server.bench.killed import measure as measure_killed

        plot = given.out / f"killed-{given.calls}.png"
        many = (given.checkpoint, given.data, given.calls, given.groups)
        return measure_killed(*many, must=given.must, plot=plot)
    if given.kind == "sessions":
        from model_server.bench.sessions import Asked
        from model_server.bench.sessions import measure as measure_sessions

        asked = Asked(
            *(given.config, given.device, given.seconds, given.deadline_ms),
            *(tuple(given.tokens), tuple(given.groups), given.buckets and tuple(given.buckets)),
            *(given.context, given.flow_steps),
        )
        return measure_sessions(asked, given.out / f"sessions-{given.config}-{given.device}.png")
    from model_server.bench.four_hours import measure as measure_hours

    told = (given.checkpoint, given.data, given.hours, given.minute, given.calls)
    return measure_hours(*told, whole=given.whole, plot=given.out / "four-hours.png")


if __name__ == "__main__":
    sys.exit(main())
