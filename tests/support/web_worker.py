"""The other side of `gateway/control.py`: a WebRTC worker without media, and a main process without telephones.

`WebWorker` answers over a real connection as a WebRTC worker would, judging an SDP by its m= lines alone.
`WebSite` is the main process's browser side, real from the control socket to HTTP, without child processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from gateway import control, link
from gateway.cluster.member import Cluster
from gateway.config import GatewaySettings
from gateway.events.feed import Feed
from gateway.fleet import Fleet
from gateway.histogram import Histogram
from gateway.http import serve_http
from gateway.intercom import Intercom
from gateway.metrics import Metrics
from gateway.recording.desk import RecordingDesk
from gateway.sip.switchboard import Switchboard as SipSwitchboard
from gateway.state.sessions import Sessions
from gateway.webrtc.pool import WebrtcPool, plan_webrtc

UFRAG, PWD = "EsAw", "P2uYro0UCOQ4zxjKXaWCBui1"
OFFER = "\r\n".join(
    [
        "v=0", "o=- 5228595038118931041 2 IN IP4 127.0.0.1", "s=-", "t=0 0", "a=group:BUNDLE 0",
        "m=audio 9 UDP/TLS/RTP/SAVPF 111", "c=IN IP4 0.0.0.0", f"a=ice-ufrag:{UFRAG}", f"a=ice-pwd:{PWD}",
        "a=mid:0", "a=rtpmap:111 opus/48000/2", "",
    ]
)  # fmt: skip


def fragment(ufrag: str = UFRAG, pwd: str = PWD) -> str:
    """One candidate, as RFC 9725 has it."""
    return (
        "a=group:BUNDLE 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n"
        f"a=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\n"
        "a=candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host generation 0 ufrag EsAw\r\n"
    )


@dataclass(eq=False)
class WebWorker:
    """One worker. `silent` lets requests pile up unanswered; `calls` maps a name to [ufrag, secret]."""

    path: Path
    name: str = "web-0"
    capacity: int = 3
    attached: bool = True
    silent: bool = False
    takes_clients: bool = False
    """Of `/v1/realtime`: each is answered with 418."""
    keeps_clients: bool = False
    """And says nothing: `clients` has their connections."""
    clients: list[socket.socket] = field(default_factory=list)
    calls: dict[str, list[str]] = field(default_factory=dict)
    heard: list[control.MainMessage] = field(default_factory=list)
    connection: socket.socket | None = None
    connected_times: int = 0

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[WebWorker]:
        """Until the block is left: connect, and connect again whenever the main process is back."""
        task = asyncio.create_task(self._keep())
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def tell(self, message: control.WorkerMessage) -> None:
        """One message to the main process."""
        assert self.connection is not None
        self.connection.send(control.encode(message))

    def end(self, call: str) -> None:
        """As when its browser is gone for good."""
        del self.calls[call]
        self.tell(control.CallEnded(call))

    async def _keep(self) -> None:
        while True:
            try:
                self.connection = control.connect(self.path)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            self.connected_times += 1
            with self.connection:
                ufrags = {name: ufrag for name, (ufrag, _) in self.calls.items()}
                self.tell(
                    control.WebrtcReady(
                        self.name, 1, self.capacity, self.attached, list(self.calls), 1, 1, ufrags
                    )
                )
                async for packet, descriptors in link.packets(self.connection):
                    self._take_all(
                        control.decode_main(packet), [socket.socket(fileno=d) for d in descriptors]
                    )

    def _take_all(self, message: control.MainMessage, clients: list[socket.socket]) -> None:
        if self.keeps_clients:
            self.clients += clients
            clients = []
        for client in clients:
            with client:
                if self.takes_clients:
                    client.send(b"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\n\r\n")
        self._take(message)

    def _take(self, message: control.MainMessage) -> None:
        self.heard.append(message)
        if self.silent or isinstance(message, control.Drain):
            return
        if isinstance(message, control.Command):
            self._obey(message)
            return
        assert isinstance(message, control.WebrtcRequest)
        self.tell(self.answer(message))

    def _obey(self, command: control.Command) -> None:
        """As a real one: it has no digits to send, records nothing, and ends a call that it is to end."""
        if command.call not in self.calls:
            self.tell(control.Done(command.id, 404, "gone", "the call is over"))
        elif command.do == "digits":
            self.tell(control.Done(command.id, 409, "no-digits", "nobody is there who takes digits"))
        elif command.do == "record":
            self.tell(control.Done(command.id, 403, "not-recorded", "nothing is recorded here"))
        else:
            if command.do == "hang-up":
                self.end(command.call)
            self.tell(control.Done(command.id, 204))

    def answer(self, message: control.WebrtcRequest) -> control.Answered:
        """What a real one would say, by RFC 9725 and the doc string of `Answered`."""
        match message:
            case control.Offer(number, sdp):
                return self._answer_offer(number, sdp, message)
            case control.Attend(number, call) if self.takes_clients:
                self.calls[call] = ["", ""]
                return control.Answered(number, 201, call=call)
            case control.Attend(number):
                return control.Answered(number, 503, reason="no room", retry_after_s=2)
            case control.IceRestart(number, call) if call in self.calls:
                ufrag = self.calls[call][0] = secrets.token_hex(4)
                return control.Answered(
                    number, 200, f"a=ice-lite\r\na=ice-ufrag:{ufrag}\r\na=ice-pwd:{'p' * 24}\r\n"
                )
            case control.Candidates(number, call) if call in self.calls:
                return control.Answered(number, 204)
            case control.HangUp(number, call) if self.calls.pop(call, None):
                return control.Answered(number, 200)
        return control.Answered(message.id, 404, reason="no such call")

    def _answer_offer(self, number: int, sdp: str, offer: control.Offer) -> control.Answered:
        if "m=audio" not in sdp:
            return control.Answered(number, 422, reason="the offer has no audio")
        if not re.search("opus/48000", sdp):
            return control.Answered(number, 406, reason="no codec in common: Opus is needed")
        call, ufrag, secret = offer.call, secrets.token_hex(4), secrets.token_hex(16)
        if offer.resume:
            _, call, secret = offer.resume.split(".")
            if self.calls.get(call, ["", ""])[1] != secret:
                return control.Answered(number, 404, reason="that call cannot be resumed")
        self.calls[call] = [ufrag, secret]
        answer = f"v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=ice-ufrag:{ufrag}\r\n"
        return control.Answered(number, 201, answer, call=call, resume=f"{self.name}.{call}.{secret}")


class WebSite:
    """Everything of a main process that a browser call touches, without processes of its own."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.pool: WebrtcPool | None = WebrtcPool(plan_webrtc(settings), answer_s=0.5)
        self.url = ""
        self.cluster: Cluster | None = None
        self.sessions: Sessions | None = None
        self.intercom = Intercom(lambda call: None)
        self.draining = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.fleet = Fleet(self.metrics, self._spawn)
        self.fleet.stopping = True  # it has no processes to start again
        for web in plan_webrtc(settings):
            self.fleet.add(web.name, "gateway.webrtc", web, self.pool)

    @property
    def is_ready(self) -> bool:
        return self.pool is not None and self.pool.is_ready

    def engines_there(self) -> dict[str, bool]:
        return {name: self.pool is not None and self.pool.has_engine(name) for name in self.settings.engines}

    def room_for(self, engine: str) -> int:
        return self.pool.room_for(engine) if self.pool is not None else 0

    @property
    def switchboard(self) -> SipSwitchboard | None:
        return None

    def placing(self, call: str, tenant: str) -> None:
        return None

    @property
    def recordings(self) -> RecordingDesk:
        return RecordingDesk()

    @property
    def feed(self) -> Feed | None:
        return None

    @property
    def live(self) -> int:
        return self.pool.live if self.pool is not None else 0

    def drain(self) -> None:
        self.draining = True

    def histograms(self) -> tuple[Histogram, ...]:
        """None."""
        return ()

    def gauges(self) -> dict[str, float]:
        return {"workers_ready": float(len(self.fleet.ready))}

    def counters(self) -> dict[str, Any]:
        return {"webrtc": self.pool.counters} if self.pool else {}

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[WebSite]:
        """Serve until the block is left, then be gone as after a SIGKILL: nothing is said to anyone."""
        listener = control.listen(self.settings.worker_socket)
        self._spawn(self.fleet.accept(listener))
        try:
            async with serve_http(self, self.settings.http_tls()) as port:
                self.url = f"http://127.0.0.1:{port}"
                yield self
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            listener.close()

    async def until(self, good: Callable[[], bool]) -> None:
        """Wait for something that another task is about to do."""
        async with asyncio.timeout(5):
            while not good():
                await asyncio.sleep(0.005)


@dataclass(frozen=True)
class Visit:
    """A site with one worker, and a client."""

    site: WebSite
    worker: WebWorker
    http: aiohttp.ClientSession

    @property
    def pool(self) -> WebrtcPool:
        assert self.site.pool is not None
        return self.site.pool

    async def post(self, sdp: str | bytes = OFFER, **headers: str) -> aiohttp.ClientResponse:
        """An offer; `headers` by their names with _ for -."""
        named = {"Content-Type": "application/sdp"} | {k.replace("_", "-"): v for k, v in headers.items()}
        return await self.http.post("/whip", data=sdp, headers=named)

    async def patch(self, path: str, text: str, if_match: str | None) -> aiohttp.ClientResponse:
        """A fragment to a call."""
        headers = {"Content-Type": "application/trickle-ice-sdpfrag"}
        if if_match is not None:
            headers["If-Match"] = if_match
        return await self.http.patch(path, data=text, headers=headers)


@contextlib.asynccontextmanager
async def visit(run_dir: Path, **settings: Any) -> AsyncIterator[Visit]:
    """A site on a free port with one worker that is ready, and a client of it."""
    given = {"run_dir": run_dir, "http_port": 0, "webrtc_calls": 3} | settings
    site = WebSite(GatewaySettings(**given))
    worker = WebWorker(site.settings.worker_socket)
    async with site.open(), aiohttp.ClientSession(site.url) as http, worker.connected():
        await site.until(lambda: site.is_ready)
        yield Visit(site, worker, http)
