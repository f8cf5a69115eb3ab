"""`python -m model_server`: one model server process."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import setproctitle

from model_server.config import load
from model_server.loop import run


def main(argv: list[str] | None = None) -> int:
    """Exit status: that of `run`, and 2 for a wrong setting (named on standard error)."""
    parser = argparse.ArgumentParser(prog="python -m model_server", description=__doc__)
    parser.add_argument("--engine", help="echo, digits, sglang or moshi")
    parser.add_argument("--persona", help="what the model is to do in calls that do not say it themselves")
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="weights of digits, in place of the shipped ones"
    )
    parser.add_argument("--weights", metavar="PATH_OR_REPO", help="of moshi")
    parser.add_argument("--socket", help="path of the control socket")
    for name, told in (
        ("slots", "calls at once"),
        ("rows", "turns that either side may be behind"),
        ("video", "frames of video kept per slot"),
        ("groups", "phase groups of the turn clock"),
        ("passes", "passes of the network that a turn may take"),
        ("ranks", "processes that the model is cut over"),
    ):
        parser.add_argument(f"--{name}", metavar="N", help=told)
    parser.add_argument("--device", help="where the network of digits lies: cpu, cuda or cuda:N")
    parser.add_argument("--sums", help="how ranks add: auto, or a way such as multimem, nccl or gloo")
    parser.add_argument("--products", help="what matrices are multiplied in: auto, bfloat16 or float32")
    parser.add_argument("--trunk", help="whose layers sglang has: auto, own or inkling")
    parser.add_argument("--video-size", metavar="WxH", help="pixels of a frame of video, such as 320x240")
    parser.add_argument("--log-level", help="debug, info, warning or error")
    parser.add_argument("--log-format", help="text for people, or json: one object a line")
    parser.add_argument("--realtime-priority", action="store_const", const=True, help="ask for SCHED_FIFO")
    parser.add_argument(
        "--spare", action="store_true", help="load, then wait for a line on standard input before serving"
    )
    parser.add_argument("--kept", action="store_true", help=argparse.SUPPRESS)
    given: dict[str, Any] = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    is_spare, is_kept = given.pop("spare"), given.pop("kept")
    try:
        config = load(**given)
    except ValueError as wrong:
        print(wrong, file=sys.stderr)
        if is_spare:
            print(str(wrong).replace("\n", "; "), flush=True)
        return 2
    setproctitle.setproctitle(f"microturn: {'loading ' * is_spare}model-server{_name(config.socket)}")
    is_alone = threading.Event()
    if is_kept:
        _await_end(is_alone)
    wanted = (lambda: _wanted(config.socket, is_alone)) if is_spare else None
    return run(config, wanted=wanted, is_alone=is_alone.is_set)


def _name(socket: Path) -> str:
    """Of the engine that we are for, where a gateway has several: `model-NAME.sock`."""
    return f" {socket.stem.removeprefix('model-')}" if socket.stem.startswith("model-") else ""


def _wanted(socket: Path, is_alone: threading.Event) -> Path | None:
    """Wait for the line of whoever keeps us, and serve at this socket, or, where a live one has it, at the one that
    the line names (`serve PATH`); None at the end of file: nobody wants us any more. From then on `is_alone` is."""
    setproctitle.setproctitle(f"microturn: spare model-server{_name(socket)}")
    line = sys.stdin.buffer.readline()
    if not line:
        return None
    setproctitle.setproctitle(f"microturn: model-server{_name(socket)}")
    _await_end(is_alone)
    _, _, path = line.decode().strip().partition(" ")
    return Path(path) if path else socket


def _await_end(is_alone: threading.Event) -> None:
    """Set once whoever keeps us, and holds the other end of our standard input, is gone."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        is_alone.set()

    threading.Thread(target=wait, name="keeper", daemon=True).start()


def end(status: int) -> NoReturn:
    """With what is registered for the end, and without taking the interpreter apart: with SGLang in it that takes
    two seconds, and whoever keeps us starts the next one when we are gone."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    end(main())
