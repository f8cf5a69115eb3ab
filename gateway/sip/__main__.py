"""`python -m gateway.sip OPTIONS`: one SIP worker, started by the gateway's main process with JSON options."""

from __future__ import annotations

import sys

import msgspec
from setproctitle import setproctitle

from gateway.log import set_up_logging
from gateway.sip.options import WorkerOptions


def main() -> None:
    """Run the worker that `sys.argv[1]` describes."""
    from gateway.sip.worker import run

    options = msgspec.json.decode(sys.argv[1], type=WorkerOptions)
    setproctitle(f"microturn: sip-worker {options.name}")
    set_up_logging(options.name, options.log_level)
    run(options)


if __name__ == "__main__":
    main()
