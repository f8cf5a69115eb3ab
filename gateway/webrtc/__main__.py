"""`python -m gateway.webrtc OPTIONS`: one WebRTC worker, started by the gateway's main process; JSON."""

from __future__ import annotations

import sys

import msgspec
from setproctitle import setproctitle

from gateway.log import set_up_logging
from gateway.webrtc.options import WebrtcOptions


def main() -> None:
    """Run the worker that `sys.argv[1]` describes."""
    from gateway.webrtc.worker import run

    options = msgspec.json.decode(sys.argv[1], type=WebrtcOptions)
    setproctitle(f"microturn: webrtc-worker {options.name}")
    set_up_logging(options.name, options.log_level)
    run(options)


if __name__ == "__main__":
    main()
