"""Questions that a container is asked about itself. The standard library alone: it starts in 30 ms.

    health.py http URL                 0 when the answer is 200 (a certificate is not looked at: it is our own)
    health.py model SOCKET             0 when the model server tells its figures
    health.py gone PORT SECONDS        waits until nobody listens on that TCP port of this pod, SECONDS at most;
                                       0 when so

`gone` is the drain hook of the model server: Kubernetes ends the containers of a pod at the same time, but calls
need the model for as long as their gateway drains.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request

PATIENCE_S = 2.0
LOOK_S = 0.5


def answers(url: str) -> bool:
    """Whether a GET gets 200."""
    context = ssl._create_unverified_context() if url.startswith("https:") else None
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S, context=context) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def tells_figures(path: str) -> bool:
    """Whether a model server answers on its control socket (`media/leases.py`, StatsRequest)."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(path)
            connection.send(b'{"is": "StatsRequest"}')
            return bool(json.loads(connection.recv(65_536)).get("is") == "Stats")
    except (OSError, ValueError):
        return False


def listens(port: int) -> bool:
    """Whether anybody does, on that port of loopback: the containers of a pod share it."""
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S):
            return True
    except ConnectionRefusedError:
        return False
    except OSError:
        return True  # nobody answers in time: it is there, and busy


def main(arguments: list[str]) -> int:
    """Exit status; 2 for a question that is none."""
    match arguments:
        case ["http", url]:
            return 0 if answers(url) else 1
        case ["model", path]:
            return 0 if tells_figures(path) else 1
        case ["gone", port, seconds]:
            end_s = time.monotonic() + float(seconds)
            while listens(int(port)):
                if time.monotonic() >= end_s:
                    return 1
                time.sleep(LOOK_S)
            return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
