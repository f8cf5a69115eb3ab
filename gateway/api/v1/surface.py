"""One request of `/v1` from its first byte to its answer, by the table of operations.

    id -> rate -> method -> token -> query, body -> the gateway that has the call -> done before? -> handler

Whatever is wrong is a `Problem`; what is wrong with us is one as well, 500, and one line of log with the id.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
import structlog
from aiohttp import web

from gateway.api.body import read_text
from gateway.api.client import CLIENT, proven
from gateway.api.door import Door
from gateway.api.problem import Problem
from gateway.api.rate import OfferRate
from gateway.api.tokens import Holder
from gateway.api.v1.idempotency import Once
from gateway.api.v1.openapi import IDEMPOTENCY_KEY, REQUEST_ID, document
from gateway.api.v1.operations import OPERATIONS, Operation
from gateway.reading import read_json

log = structlog.get_logger()

REQUEST: Final = "X-Request-Id"
KEY: Final = "Idempotency-Key"
NO_STORE: Final = {"Cache-Control": "no-store"}
_CALL: Final = re.compile(r"[brt]-[0-9a-f]{16,32}")
S = TypeVar("S", bound=msgspec.Struct)


@dataclass(slots=True)
class V1Counters:
    """Requests below `/v1`."""

    requests: int = 0
    refused: int = 0
    """With 4xx."""
    failed: int = 0
    """With 5xx."""
    broken: int = 0
    """By a bug of ours: 500."""
    passed_on: int = 0
    """To the gateway that has the call."""
    repeated: int = 0
    """POSTs that had been done before."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that is in order."""

    operation: Operation
    request: web.Request
    holder: Holder
    call: str = ""
    query: Any = None
    body: Any = None
    text: str = ""
    """The body as it came."""
    number: str = ""
    """The request's id."""

    @property
    def traceparent(self) -> str:
        """W3C trace context of the request, as it came; empty without one."""
        return self.request.headers.get("traceparent", "")

    def sees(self, tenant: str) -> bool:
        """Whether something of that tenant is the holder's to see."""
        return not self.holder.tenant or self.holder.tenant == tenant


Handler = Callable[[Asked], Awaitable[msgspec.Struct | web.StreamResponse | None]]
Elsewhere = Callable[[Asked], Awaitable[web.Response | None]]


class Surface:
    """Every route of `/v1`. `handlers` are by the operations' names; `elsewhere` gives another gateway's answer to
    a request about a call that is there; without `once` no POST has a key."""

    def __init__(
        self,
        door: Door,
        rate: OfferRate,
        handlers: Mapping[str, Handler],
        elsewhere: Elsewhere,
        once: Once | None,
        key: Callable[[], str] = lambda: "",
    ) -> None:
        """`key` proves what other gateways say of a client (`api/client.py`)."""
        self.counters = V1Counters()
        self._door, self._rate, self._elsewhere, self._once, self._key = door, rate, elsewhere, once, key
        self._document = msgspec.json.encode(document())
        self._handlers: dict[str, Handler] = {"openapi": self._openapi, **handlers}
        missing = {operation.name for operation in OPERATIONS} ^ set(self._handlers)
        assert not missing, f"operations and handlers do not fit together: {missing}"

    def routes(self) -> list[web.RouteDef]:
        """One for each path, and one for all that is not there."""
        paths: dict[str, dict[str, Operation]] = {}
        for operation in OPERATIONS:
            paths.setdefault(operation.path, {})[operation.method] = operation
        routes = [web.route("*", path, self._resource(methods)) for path, methods in paths.items()]
        return [*routes, web.route("*", "/v1/{rest:.*}", self._resource({}))]

    def _resource(
        self, methods: Mapping[str, Operation]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        allowed = ", ".join(sorted(methods))

        async def handle(request: web.Request) -> web.StreamResponse:
            self.counters.requests += 1
            number = _request_id(request)
            try:
                response = await self._serve(request, methods, allowed, number)
            except Problem as problem:
                problem.request = number
                response = problem.response()
            except web.HTTPException:
                raise
            except Exception as wrong:  # the edge of a request
                self.counters.broken += 1
                log.error("request broken", request=number, path=request.path[:80], exc_info=wrong)
                broken = Problem(500, "broken", "the gateway failed on this request: its log says why")
                broken.request = number
                response = broken.response()
            self.counters.refused += 400 <= response.status < 500
            self.counters.failed += response.status >= 500
            if not response.prepared:
                response.headers[REQUEST] = number
            return response

        return handle

    async def _serve(
        self, request: web.Request, methods: Mapping[str, Operation], allowed: str, number: str
    ) -> web.StreamResponse:
        self._check_rate(request)
        if not methods:
            raise Problem(404, "no-such-path", f"there is no {request.path[:80]}: see /v1/openapi.json")
        operation = methods.get(request.method)
        if operation is None:
            told = f"{request.method[:16]} is not taken here, but {allowed}"
            raise Problem(405, "no-such-method", told, {"Allow": allowed})
        holder = Holder()
        if operation.scope:
            self._door.check_origin(request)
            holder = self._door.admit(request, operation.scope)
        asked = await self._read(operation, request, holder, number)
        if asked.call:
            answer = await self._elsewhere(asked)
            if answer is not None:
                self.counters.passed_on += 1
                return answer
        if operation.method == "POST" and KEY in request.headers:
            return await self._do_once(asked, request.headers[KEY])
        return await self._do(asked)

    async def _read(self, operation: Operation, request: web.Request, holder: Holder, number: str) -> Asked:
        """What was asked, as the table has it."""
        call = request.match_info.get("call", "")
        if "{call}" in operation.path and not _CALL.fullmatch(call):
            raise gone()
        query = _query(operation.asks, request)
        body, text = None, ""
        if operation.takes is not None:
            text = await read_text(request, "application/json")
            try:
                body = read_json(text, operation.takes)
            except msgspec.ValidationError as wrong:
                raise Problem(422, "wrong-value", f"the body: {wrong}") from None
            except msgspec.DecodeError as wrong:
                raise Problem(400, "malformed", f"the body is no JSON: {wrong}") from None
        return Asked(operation, request, holder, call, query, body, text, number)

    async def _do_once(self, asked: Asked, key: str) -> web.Response:
        if not re.fullmatch(IDEMPOTENCY_KEY, key):
            raise Problem(400, "bad-key", f"{KEY}: expected 1 to 128 letters, digits and _.:-")
        if self._once is None:
            raise no_state()
        again = True

        async def work() -> web.Response:
            nonlocal again
            again = False
            response = await self._do(asked)
            assert isinstance(response, web.Response)
            return response

        holder = asked.holder
        what = f"{asked.request.method} {asked.request.path_qs}\n{asked.text}"
        try:
            return await self._once.do(key, f"{holder.tenant}\n{holder.name}", what, work)
        finally:
            self.counters.repeated += again

    async def _do(self, asked: Asked) -> web.StreamResponse:
        given = await self._handlers[asked.operation.name](asked)
        if isinstance(given, web.StreamResponse):
            return given
        status = asked.operation.status
        if given is None:
            return web.Response(status=status, headers=NO_STORE)
        return web.Response(
            body=msgspec.json.encode(given), status=status, content_type="application/json", headers=NO_STORE
        )

    async def _openapi(self, asked: Asked) -> web.Response:
        headers = {"Cache-Control": "no-cache"}
        return web.Response(body=self._document, content_type="application/json", headers=headers)

    def _check_rate(self, request: web.Request) -> None:
        told, sender = request.headers.get(CLIENT), request.remote or ""
        address = sender if told is None else (
            proven(self._key(), request.method, request.path, told, time.time()) or sender
        )  # fmt: skip
        wait_s = self._rate.wait_s(address, time.monotonic_ns())
        if wait_s:
            raise Problem(
                429, "too-fast", f"too many requests from {address}: try again in {wait_s} s",
                {"Retry-After": str(wait_s)},
            )  # fmt: skip


def gone() -> Problem:
    """Of a call that is not there, or not the holder's to know of."""
    return Problem(404, "gone", "there is no such call: it has ended, or it never was")


def no_state() -> Problem:
    """Of everything that needs the state of calls."""
    told = "the state of calls is not kept here (redis = off): name a server"
    return Problem(503, "no-state", told)


def _request_id(request: web.Request) -> str:
    told = request.headers.get(REQUEST, "")
    return told if re.fullmatch(REQUEST_ID, told) else secrets.token_hex(8)


def _query(shape: type[S] | None, request: web.Request) -> S | None:
    if shape is None:
        return None
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name in given:
            raise Problem(400, "bad-query", f"{name[:40]} was given twice")
        given[name] = value
    try:
        return msgspec.convert(given, shape, strict=False)
    except msgspec.ValidationError as wrong:
        raise Problem(400, "bad-query", f"the query: {wrong}") from None
