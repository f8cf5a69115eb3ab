"""Browser calls over HTTP: WHIP (RFC 9725), whole, and `GET /ice` for our own page.

    POST   /whip[?to=NAME]         an offer -> 201, the answer, the call's URL; Microturn-Resume: an old call again
    PATCH  /whip/<worker>/<call>   an SDP fragment -> 204 (trickled candidates) or 200 (ICE restart)
    DELETE /whip/<worker>/<call>   hang up -> 200
    OPTIONS of both                what they take; preflights of other origins (never with a token)
    GET    /ice                    STUN and TURN servers for an RTCConfiguration

It reads no more of an SDP than that it is text: the worker judges it. Every refusal is a `Problem`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec
from aiohttp import web

from gateway import control
from gateway.api import sdpfrag
from gateway.api.body import read_text
from gateway.api.client import CLIENT, proven
from gateway.api.door import Door
from gateway.api.forward import HOP
from gateway.api.problem import Problem
from gateway.api.rate import OfferRate
from gateway.api.tokens import Holder
from gateway.api.turn import IceServers
from gateway.rules import EVERYBODY, Rules, Ruling
from gateway.state import tokens
from gateway.webrtc.pool import BrowserCall, WebrtcPool, WentOn, new_name

SDP: Final = "application/sdp"
FRAGMENT: Final = "application/trickle-ice-sdpfrag"
_ETAG: Final = re.compile(r'(W/)?"([^"]*)"')
_CODES: Final = {
    400: "malformed", 404: "gone", 406: "no-codec", 409: "conflict", 413: "too-long", 422: "no-audio",
    503: "not-ready", 504: "no-answer",
}  # fmt: skip

if TYPE_CHECKING:
    from gateway.cluster.member import Cluster
    from gateway.state.records import Session

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class ApiCounters:
    """Requests that were refused here, before a worker was asked, or not believed."""

    refused_unauthorised: int = 0
    refused_too_fast: int = 0
    refused_malformed: int = 0
    refused_precondition: int = 0
    refused_gone: int = 0
    clients_unproven: int = 0
    """Offers that came with another client's address, and no proof of it: counted as their sender's own."""


_COUNTED: Final = {
    400: "refused_malformed", 405: "refused_malformed", 408: "refused_malformed", 413: "refused_malformed",
    415: "refused_malformed", 401: "refused_unauthorised", 403: "refused_unauthorised", 404: "refused_gone",
    412: "refused_precondition", 428: "refused_precondition", 429: "refused_too_fast",
}  # fmt: skip


class Whip:
    """The resources, and what they need."""

    def __init__(
        self,
        pool: WebrtcPool,
        door: Door,
        servers: IceServers,
        rate: OfferRate,
        rules: Rules = EVERYBODY,
        cluster: Cluster | None = None,
    ) -> None:
        """`rules` say what a name that is called is; with a `cluster` calls may live at other gateways."""
        self.counters = ApiCounters()
        self._cluster = cluster
        self._rules = rules
        self._pool, self._door, self._servers, self._rate = pool, door, servers, rate

    def routes(self) -> list[web.RouteDef]:
        """Every method has its answer; those of the future are refused with 405 (RFC 9725 section 4.2)."""
        endpoint = self._resource(
            {"POST": self._offer, "OPTIONS": self._options({"Accept-Post": SDP})}, "POST, OPTIONS"
        )
        call = self._resource(
            {
                "PATCH": self._patch,
                "DELETE": self._delete,
                "OPTIONS": self._options({"Accept-Patch": FRAGMENT}),
            },
            "PATCH, DELETE, OPTIONS",
        )
        ice = self._resource({"GET": self._ice, "OPTIONS": self._options({})}, "GET, OPTIONS")
        return [
            web.route("*", "/whip", endpoint),
            web.route("*", "/whip/{worker}/{call}", call),
            web.route("*", "/ice", ice),
        ]

    def _resource(self, methods: dict[str, Handler], allowed: str) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                handler = methods.get(request.method)
                if handler is None:
                    told = f"{request.method} is not taken here, but {allowed}"
                    raise Problem(405, "no-such-method", told, {"Allow": allowed})
                response = await handler(request)
            except Problem as problem:
                self._count(problem)
                response = problem.response()
            response.headers.update(self._door.cors(request, allowed))
            return response

        return handle

    def _count(self, problem: Problem) -> None:
        name = _COUNTED.get(problem.status)
        if name is not None:
            setattr(self.counters, name, getattr(self.counters, name) + 1)

    # -- the resources

    async def _offer(self, request: web.Request) -> web.Response:
        address = self._address(request)
        wait_s = self._rate.wait_s(address, time.monotonic_ns())
        if wait_s:
            told = f"too many offers from {address}: try again in {wait_s} s"
            raise Problem(429, "too-fast", told, {"Retry-After": str(wait_s)})
        holder = self._door.admit(request)
        sdp = await _text(request, SDP)
        if not sdp.startswith("v=0"):
            raise Problem(
                400, "malformed", "the offer does not begin with v=0: it is no SDP (RFC 8866 section 5)"
            )
        ruling = self._ruling(request.query.get("to", ""))
        resume = request.headers.get("Microturn-Resume", "")
        elsewhere = await self._elsewhere(request, resume, sdp, ruling.engine)
        if elsewhere is not None:
            return elsewhere
        try:
            traceparent = request.headers.get("traceparent", "")
            worker, answered = await self._answer(sdp, resume, ruling, holder, traceparent)
        except ValueError as wrong:
            raise Problem(400, "malformed", str(wrong)) from None
        if answered.status not in (200, 201):
            _refuse(answered, "full" if self._pool.is_full(ruling.engine) else "not-ready")
        headers = {
            "Location": f"/whip/{worker}/{answered.call}",
            "ETag": f'"{sdpfrag.ufrag_of(answered.sdp)}"',
            "Accept-Patch": FRAGMENT,
            "Microturn-Resume": answered.resume,
            "Cache-Control": "no-store",
        }
        response = web.Response(body=answered.sdp.encode(), status=201, content_type=SDP, headers=headers)
        for link in self._servers.links(holder.name or answered.call, time.time()):
            response.headers.add("Link", link)
        return response

    def _address(self, request: web.Request) -> str:
        """The client's, where another gateway proves that it asks for one; else the sender's."""
        sender, told = request.remote or "", request.headers.get(CLIENT)
        if told is None:
            return sender
        key = self._cluster.key if self._cluster is not None else ""
        address = proven(key, request.method, request.path, told, time.time())
        self.counters.clients_unproven += not address
        return address or sender

    async def _answer(
        self, sdp: str, resume: str, ruling: Ruling, holder: Holder, traceparent: str = ""
    ) -> tuple[str, control.Answered]:
        """Of a worker here: for a new call, one that it has, or one that goes on here."""
        persona, tenant, engine = ruling.persona, holder.tenant or ruling.tenant, ruling.engine
        if self._cluster is None:
            return await self._pool.offer(
                sdp, resume, persona, recording=ruling.recording, tenant=tenant, engine=engine
            )
        if resume and not self._pool.has(tokens.call_of(resume)):
            taken = await self._cluster.go_on(resume)
            if isinstance(taken, Problem):
                raise taken
            if taken is not None:
                return await self._go_on(sdp, *taken)
        if resume:
            return await self._pool.offer(sdp, resume, persona)
        call = new_name()
        if not await self._cluster.desk.take(call, holder, ruling, traceparent):
            told = "as many calls as there may be at once are there already"
            raise Problem(503, "full", told, {"Retry-After": "2"})
        worker, answered = "", None
        try:
            worker, answered = await self._pool.offer(
                sdp, "", persona, call=call, recording=ruling.recording, tenant=tenant, engine=engine
            )
        finally:
            if answered is not None and answered.status == 201:
                self._cluster.desk.answered(call)
            else:
                self._cluster.desk.refused(call)
        return worker, answered

    async def _go_on(self, sdp: str, session: Session, went_on: WentOn) -> tuple[str, control.Answered]:
        """The call is ours; if no worker takes it, it may still be another's."""
        assert self._cluster is not None
        answered = None
        try:
            worker, answered = await self._pool.offer(
                sdp, "", session.persona, went_on=went_on, call=session.call, recording=session.recording,
                tenant=session.tenant, engine=session.engine,
            )  # fmt: skip
            return worker, answered
        finally:
            if answered is None or answered.status != 201:
                self._cluster.hand_back(session.call)

    async def _elsewhere(
        self, request: web.Request, resume: str, sdp: str, engine: str
    ) -> web.Response | None:
        """The answer of another gateway: it has the call, or room for a new one where there is none here."""
        if self._cluster is None or HOP in request.headers:
            return None
        call = tokens.call_of(resume)
        if self._pool.has(call):
            return None
        node = await self._cluster.home_of(call) if call else None
        pool = self._pool
        if node is None and (pool.draining or not pool.has_engine(engine) or pool.is_full(engine)):
            node = self._cluster.roomiest(engine)
        if node is None:
            return None
        response = await self._cluster.forward.ask(node, request, sdp)
        if response.status == 201:
            self._cluster.remember(tokens.call_of(response.headers.get("Microturn-Resume", "")), node.node)
        return response

    def _ruling(self, name: str) -> Ruling:
        ruling = self._rules.find_for_browser(name)
        if ruling is None:
            told = "nobody here has the name that was called: see the settings rules and personas"
            raise Problem(404, "no-such-name", told)
        return ruling

    async def _asked_elsewhere(self, request: web.Request, body: str = "") -> web.Response | None:
        """The answer of the gateway that has the call, where that is another one."""
        call = request.match_info["call"]
        if self._cluster is None or HOP in request.headers or self._pool.has(call):
            return None
        node = await self._cluster.home_of(call)
        return await self._cluster.forward.ask(node, request, body) if node is not None else None

    async def _patch(self, request: web.Request) -> web.Response:
        self._door.admit(request)
        text = await _text(request, FRAGMENT)
        elsewhere = await self._asked_elsewhere(request, text)
        if elsewhere is not None:
            return elsewhere
        worker, call = self._call(request)
        any_session = _match(request.headers.getall("If-Match", []), call)
        try:
            fragment = sdpfrag.parse(text)
        except sdpfrag.BadFragment as wrong:
            raise Problem(400, "malformed", str(wrong)) from None
        answered = await self._pool.patch(worker, call, fragment, any_session=any_session)
        if answered.status == 204:
            return web.Response(status=204)
        if answered.status != 200:
            _refuse(answered)
        headers = {"ETag": f'"{sdpfrag.ufrag_of(answered.sdp)}"', "Cache-Control": "no-store"}
        return web.Response(body=answered.sdp.encode(), content_type=FRAGMENT, headers=headers)

    async def _delete(self, request: web.Request) -> web.Response:
        """An If-Match is ignored here (RFC 9725 section 4.3)."""
        self._door.admit(request)
        elsewhere = await self._asked_elsewhere(request)
        if elsewhere is not None:
            return elsewhere
        worker, call = self._call(request)
        answered = await self._pool.hang_up(worker, call)
        if answered.status != 200:
            _refuse(answered)
        return web.Response(status=200)

    async def _ice(self, request: web.Request) -> web.Response:
        name = self._door.admit(request).name
        body = {"iceServers": self._servers.for_page(name or "page", time.time())}
        return web.Response(
            body=msgspec.json.encode(body),
            content_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    def _options(self, headers: dict[str, str]) -> Handler:
        async def options(request: web.Request) -> web.Response:
            return web.Response(status=200, headers=headers)

        return options

    def _call(self, request: web.Request) -> tuple[str, BrowserCall]:
        worker, name = request.match_info["worker"], request.match_info["call"]
        call = self._pool.find(worker, name)
        if call == "away":
            told = "the process with this call is away: it may be back in a moment"
            raise Problem(503, "not-ready", told, {"Retry-After": "1"})
        if call == "gone":
            raise Problem(404, "gone", "there is no such call: it has ended, or it never was")
        return worker, call


async def _text(request: web.Request, content_type: str) -> str:
    """The body; `Problem` when it is of another type, too long, too slow, or no text."""
    text = await read_text(request, content_type, "Accept-Post" if content_type == SDP else "Accept-Patch")
    strange = re.search(r"[^\t\r\n -~\x80-\U0010ffff]", text)
    if strange:
        raise Problem(
            400, "malformed", f"control character {ord(strange[0])} at {strange.start()}: no SDP has one"
        )
    return text


def _match(fields: list[str], call: BrowserCall) -> bool:
    """Whether If-Match means any ICE session; `Problem` with 428 or 412 when it does not hold.

    The star is taken in quotes as well, as RFC 9725's own example has it.
    """
    value = ", ".join(fields).strip()
    if not value:
        told = "send If-Match: the ETag of the ICE session for candidates, * for an ICE restart"
        raise Problem(428, "precondition-required", told)
    if value in ("*", '"*"'):
        return True
    tags = [tag for weak, tag in _ETAG.findall(value) if not weak]
    if not call.etag or call.etag not in tags:
        told = f"If-Match: {value[:80]} names another ICE session than the one that is current"
        raise Problem(412, "precondition-failed", told)
    return False


def _refuse(answered: control.Answered, unavailable: str = "not-ready") -> NoReturn:
    """What a worker, or the pool for it, has refused."""
    status = answered.status if answered.status in _CODES else 500
    code = unavailable if status == 503 else _CODES.get(status, "broken")
    headers = {"Retry-After": str(answered.retry_after_s)} if answered.retry_after_s else {}
    raise Problem(status, code, answered.reason or "refused", headers)
