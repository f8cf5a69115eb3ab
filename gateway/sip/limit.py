"""`python -m gateway.sip.limit`: one JSON line with what the installed pjsua2 is and how much it takes."""

from __future__ import annotations

import json
import os

from gateway.sip import pj


def main() -> None:
    """Print `{"calls": n, "version": "2.17", "ipv6": true}`; the library is then left by `_exit`, as it must be."""
    print(
        json.dumps({"calls": pj.call_limit(), "version": pj.version(), "ipv6": pj.takes_ipv6()}), flush=True
    )
    os._exit(0)


if __name__ == "__main__":
    main()
