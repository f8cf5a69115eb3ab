"""`python -m gateway.webrtc`: one WebRTC worker, started by the gateway's main process (`gateway/spare.py`)."""

from __future__ import annotations

import msgspec
from setproctitle import setproctitle

from gateway.log import set_up_logging
from gateway.spare import options_line
from gateway.webrtc.options import WebrtcOptions


def main() -> None:
    """Load everything, wait for the options, run."""
    from gateway.webrtc.worker import run

    options = msgspec.json.decode(options_line("webrtc-worker"), type=WebrtcOptions)
    setproctitle(f"microturn: webrtc-worker {options.name}")
    set_up_logging(options.name, options.log_level, options.log_format)
    run(options)


if __name__ == "__main__":
    main()
