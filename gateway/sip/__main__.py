"""`python -m gateway.sip`: one SIP worker, started by the gateway's main process (`gateway/spare.py`)."""

from __future__ import annotations

import msgspec
from setproctitle import setproctitle

from gateway.log import set_up_logging
from gateway.sip.options import WorkerOptions
from gateway.spare import options_line


def main() -> None:
    """Load everything, wait for the options, run."""
    from gateway.sip.worker import run

    options = msgspec.json.decode(options_line("sip-worker"), type=WorkerOptions)
    setproctitle(f"microturn: sip-worker {options.name}")
    set_up_logging(options.name, options.log_level, options.log_format)
    run(options)


if __name__ == "__main__":
    main()
