"""`python -m model_server.ranks`: a rank beside rank 0, which starts it; not to be started by hand."""

from __future__ import annotations

import argparse
import logging
import socket
import sys
from dataclasses import fields
from pathlib import Path
from typing import TextIO, cast

import setproctitle
import structlog

from media.log_lines import LogLines
from model_server.engine import LOST_STATUS
from model_server.ranks.engine import EngineOptions
from model_server.ranks.follower import follow
from model_server.ranks.memory import RankMemory
from model_server.ranks.watch import RankLost, end_with_parent


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 when rank 0 is gone, 1 when the engine raised."""
    parser = argparse.ArgumentParser(prog="python -m model_server.ranks", description=__doc__)
    for name in ("rank", "ranks", "memory", "meeting", "socket", "leader", "passes", "calls"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    for name in ("persona", "products", "device", "sums"):
        parser.add_argument(f"--{name}", required=True)
    told = parser.parse_args(argv)
    setproctitle.setproctitle(f"microturn: model-server rank {told.rank}")
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, LogLines())),
    )
    log = structlog.get_logger()
    try:
        end_with_parent(told.leader)
        options = EngineOptions(**{field.name: getattr(told, field.name) for field in fields(EngineOptions)})
        memory = RankMemory(told.memory, told.meeting, told.rank, told.ranks)
        with socket.socket(fileno=told.socket) as connection:
            follow(memory, connection, options, told.leader)
    except RankLost as lost:
        log.error("a rank is lost: this process ends", rank=told.rank, reason=str(lost))
        return LOST_STATUS
    except Exception:
        log.exception("the engine raised: this rank ends, and all with it", rank=told.rank)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
