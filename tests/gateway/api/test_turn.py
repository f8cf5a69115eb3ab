"""TURN credentials: by the scheme's own arithmetic, and by a real coturn that takes or refuses them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aioice import stun, turn

from gateway.api.turn import IceServers, check_urls, clean, mint
from loadtests.ports import free_port

SECRET = "shared with the TURN server"


def test_the_password_is_the_hmac_of_the_user_name() -> None:
    username, password = mint(SECRET, "b-0123456789abcdef", 1_900_000_000)
    assert username == "1900000000:b-0123456789abcdef"
    expected = hmac.new(SECRET.encode(), username.encode(), hashlib.sha1).digest()
    assert base64.b64decode(password) == expected


def test_servers_without_turn_have_no_credentials() -> None:
    servers = IceServers(stun_urls=("stun:s.example",))
    assert servers.for_page("page", 0.0) == [{"urls": ["stun:s.example"]}]
    assert servers.links("page", 0.0) == ['<stun:s.example>; rel="ice-server"']
    assert IceServers().for_page("page", 0.0) == [] and IceServers().links("page", 0.0) == []


def test_a_name_cannot_break_out_of_the_header() -> None:
    link = IceServers(turn_urls=("turn:t.example",), turn_secret=SECRET).links('a"; rel="x\r\nb', 0.0)[0]
    assert 'username="3600:arelxb"' in link and "\r" not in link
    assert clean("") == "anyone" and len(clean("x" * 500)) == 64


@pytest.mark.parametrize(
    "url", ["t.example:3478", "turn://t.example", "turn:", "http:x", "turn:a b", 'turn:a"']
)
def test_what_is_no_url_is_refused_in_words(url: str) -> None:
    with pytest.raises(ValueError, match="give such as turn:turn.example.net:3478"):
        check_urls([url], ("turn", "turns"), "turn_urls")


@pytest.fixture(scope="module")
def coturn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a TURN server on loopback that shares our secret."""
    program = shutil.which("turnserver")
    if program is None:
        pytest.skip("turnserver (Debian: coturn) is not on PATH")
    folder = tmp_path_factory.mktemp("coturn")
    port = free_port()
    flags = f"""-n --listening-ip=127.0.0.1 --relay-ip=127.0.0.1 --listening-port={port} --realm=microturn.test
        --use-auth-secret --no-tls --no-dtls --no-cli --allow-loopback-peers --min-port=49152 --max-port=49200
        --log-file={folder / "turn.log"} --simple-log --pidfile={folder / "pid"} --userdb={folder / "db"}"""
    argv = [program, *flags.split(), f"--static-auth-secret={SECRET}"]
    process = subprocess.Popen(argv, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(process, port, folder)
        yield port
    finally:
        process.terminate()
        process.wait(5)


def _wait_for(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2):
            return
        time.sleep(0.05)
    pytest.fail(f"turnserver did not listen; see {folder}")


async def allocate(port: int, username: str, password: str) -> tuple[str, int]:
    """A relayed address; `stun.TransactionFailed` when the server refuses."""
    transport, _ = await turn.create_turn_endpoint(
        asyncio.DatagramProtocol,
        server_addr=("127.0.0.1", port),
        username=username,
        password=password,
        transport="tcp",
    )
    relayed: tuple[str, int] = transport.get_extra_info("sockname")
    transport.close()
    return relayed


def test_a_real_turn_server_takes_minted_credentials(coturn: int) -> None:
    servers = IceServers(turn_urls=(f"turn:127.0.0.1:{coturn}?transport=tcp",), turn_secret=SECRET)
    told = servers.for_page("anna", time.time())[0]
    relayed = asyncio.run(allocate(coturn, str(told["username"]), str(told["credential"])))
    assert relayed[0] == "127.0.0.1" and 49_152 <= relayed[1] <= 49_200


@pytest.mark.parametrize(("secret", "lasts_s"), [("another secret", 600), (SECRET, -600)])
def test_a_real_turn_server_refuses_forged_and_expired_ones(coturn: int, secret: str, lasts_s: int) -> None:
    username, password = mint(secret, "eve", int(time.time()) + lasts_s)
    with pytest.raises(stun.TransactionFailed, match="401"):
        asyncio.run(allocate(coturn, username, password))
