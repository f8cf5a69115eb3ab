"""`/v1/realtime` over real HTTP, towards a worker over a real control connection: who is let in, and by whom."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway import control
from gateway.api.tokens import mint
from tests.support.certificate import certificate
from tests.support.web_worker import Visit, visit

SECRET = "a secret of at least thirty-two bytes"
PATH = "/v1/realtime"
UPGRADE = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
}  # fmt: skip


def on_a_site(story: Callable[[Visit], Awaitable[None]], run_dir: Path, **settings: Any) -> None:
    async def told() -> None:
        async with visit(run_dir, **settings) as here:
            assert here.site.pool is not None
            here.site.pool.hand = here.site.fleet.hand
            await story(here)

    asyncio.run(told())


async def code_of(here: Visit, path: str = PATH, **headers: str) -> tuple[int, str]:
    named = UPGRADE | {name.replace("_", "-"): value for name, value in headers.items()}
    async with here.http.get(path, headers=named) as got:
        return got.status, (await got.json(content_type=None))["code"]


def test_what_is_no_websocket_is_told_so(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        async with here.http.get(PATH) as got:
            assert got.status == 426 and got.headers["Upgrade"] == "websocket"
        async with here.http.post(PATH) as got:
            assert got.status == 426
        assert await code_of(here, f"{PATH}?to=nobody") == (404, "no-such-name")

    on_a_site(story, tmp_path)


def test_tokens_come_in_the_header_or_in_the_subprotocol(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        here.worker.capacity = 0
        good, other = mint(SECRET, "a", 60), mint(SECRET, "a", 60, "calls:read")
        assert await code_of(here) == (401, "unauthorised")
        assert await code_of(here, Authorization="Bearer nonsense") == (401, "unauthorised")
        assert await code_of(here, Authorization=f"Bearer {other}") == (403, "forbidden")
        protocols = f"realtime, openai-insecure-api-key.{other}"
        assert await code_of(here, Sec_WebSocket_Protocol=protocols) == (403, "forbidden")
        here.pool.draining = True
        assert await code_of(here, Authorization=f"Bearer {good}") == (503, "not-ready")
        protocols = f"realtime, openai-insecure-api-key.{good}"
        assert await code_of(here, Sec_WebSocket_Protocol=protocols) == (503, "not-ready")

    on_a_site(story, tmp_path, jwt_secret=SECRET)


def test_pages_of_elsewhere_may_not_call_this_machine(tmp_path: Path) -> None:
    """A WebSocket knows no CORS: without tokens its Origin is all there is."""

    async def story(here: Visit) -> None:
        assert await code_of(here, Origin="http://evil.example") == (403, "forbidden")
        assert await code_of(here, Host="evil.example") == (403, "forbidden")

    on_a_site(story, tmp_path)


def test_the_connection_goes_to_the_worker_and_nothing_of_who_calls_with_it(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        here.worker.takes_clients = True
        url = here.site.url.replace("http", "ws", 1)
        token = mint(SECRET, "a", 60)
        headers = {"Authorization": f"Bearer {token}"}
        with pytest.raises(aiohttp.WSServerHandshakeError) as wrong:
            async with here.http.ws_connect(f"{url}{PATH}?model=x", headers=headers, protocols=("realtime",)):
                pass
        assert wrong.value.status == 418  # the worker's answer, on the client's own connection
        asked = [message for message in here.worker.heard if isinstance(message, control.Attend)]
        assert len(asked) == 1 and asked[0].call.startswith("r-") and asked[0].head.endswith("\r\n\r\n")
        assert token not in asked[0].head and "Sec-WebSocket-Protocol: realtime" in asked[0].head
        await here.site.until(lambda: here.pool.live == 1 and here.pool.has(asked[0].call))
        here.worker.end(asked[0].call)
        await here.site.until(lambda: here.pool.live == 0)

    on_a_site(story, tmp_path, jwt_secret=SECRET)


async def pumped(here: Visit) -> int:
    """Bytes, by its metrics."""
    url = here.site.url.replace("http", "https", 1)
    async with here.http.get(f"{url}/metrics", ssl=False) as got:
        rows = dict(line.rsplit(" ", 1) for line in (await got.text()).splitlines() if line[0] != "#")
    taken = [float(rows[f"microturn_realtime_http_{name}_total"]) for name in ("handed_over", "pumped")]
    assert taken == [1, 1]
    return round(float(rows["microturn_realtime_http_pumped_bytes_total"]))


def over_tls(
    story: Callable[[Visit, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], folder: Path
) -> None:
    """With a client whose request was sent, and a worker that has its connection."""
    files = certificate(folder)

    async def told(here: Visit) -> None:
        here.worker.takes_clients = here.worker.keeps_clients = True
        trust = ssl.create_default_context(cafile=files["http_tls_cert"])
        port = int(here.site.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("localhost", port, ssl=trust)
        head = {"Host": "localhost"} | UPGRADE
        request = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        writer.write(f"GET {PATH} HTTP/1.1\r\n{request}\r\n".encode())
        try:
            await here.site.until(lambda: bool(here.worker.clients))
            here.worker.clients[0].setblocking(False)
            await story(here, reader, writer)
        finally:
            for client in here.worker.clients:
                client.close()
            writer.transport.abort()

    on_a_site(told, folder, **files)


def test_what_comes_out_of_tls_goes_to_the_worker_and_back(tmp_path: Path) -> None:
    async def story(here: Visit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop, worker = asyncio.get_running_loop(), here.worker.clients[0]
        await loop.sock_sendall(worker, b"from the worker")
        assert await reader.readexactly(15) == b"from the worker"
        writer.write(b"from the client")
        assert await loop.sock_recv(worker, 100) == b"from the client"
        await loop.sock_sendall(worker, b"goodbye")
        worker.close()
        assert await reader.read() == b"goodbye"  # and its end
        assert await pumped(here) == 37

    over_tls(story, tmp_path)


def test_a_client_behind_tls_that_is_gone_is_gone_for_the_worker(tmp_path: Path) -> None:
    async def story(here: Visit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        before = len(os.listdir("/proc/self/fd"))
        writer.write(b"last words")
        writer.close()
        loop, worker = asyncio.get_running_loop(), here.worker.clients[0]
        async with asyncio.timeout(5):
            assert await loop.sock_recv(worker, 100) == b"last words"
            assert await loop.sock_recv(worker, 100) == b""
        await here.site.until(
            lambda: len(os.listdir("/proc/self/fd")) <= before - 3
        )  # the client's, ours, the pair's

    over_tls(story, tmp_path)


@pytest.mark.parametrize("from_client", [True, False])
def test_a_side_that_is_not_read_holds_up_the_other_and_nothing_is_lost(
    from_client: bool, tmp_path: Path
) -> None:
    """16 MB into an ear that does not listen: the main process keeps less than a megabyte of it."""
    data = os.urandom(1 << 20) * 16

    async def story(here: Visit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop, worker = asyncio.get_running_loop(), here.worker.clients[0]
        if from_client:
            writer.write(data)
        else:
            sending = asyncio.create_task(loop.sock_sendall(worker, data))
        before = -1
        while (now := await pumped(here)) != before:
            before = now
            await asyncio.sleep(0.2)
        assert 0 < before < 8 << 20
        came = bytearray()
        async with asyncio.timeout(20):
            while len(came) < len(data):
                came += await (loop.sock_recv(worker, 1 << 18) if from_client else reader.read(1 << 18))
        assert came == data and await pumped(here) == len(data)
        if not from_client:
            await sending

    over_tls(story, tmp_path)


def test_who_is_refused_by_the_worker_gets_the_main_process_answer(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            assert await code_of(here) == (503, "not-ready")
        await asyncio.sleep(0.05)
        assert len(os.listdir("/proc/self/fd")) <= before + 2  # both ends of the one that is kept alive
        assert here.pool.counters.offers_refused == 3

    on_a_site(story, tmp_path)


def test_requests_are_counted_by_address(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        codes = [await code_of(here) for _ in range(6)]
        assert (429, "too-fast") in codes

    on_a_site(story, tmp_path, webrtc_offers_per_s=1)


def test_a_door_that_is_off_is_not_there(tmp_path: Path) -> None:
    async def story(here: Visit) -> None:
        assert await code_of(here) == (404, "no-such-path")

    on_a_site(story, tmp_path, realtime_api="off", jwt_secret=SECRET)
