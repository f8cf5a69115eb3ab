"""A small S3 for tests: PUT, HEAD and GET of objects, every signature and every hash checked by itself.

It does not use our signer: the canonical request is put together from what came over the wire.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request,"
    r"\s*SignedHeaders=([^,]+),\s*Signature=(\w+)"
)


@dataclass
class S3Server:
    user: str
    secret: str
    region: str
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: list[int] = field(default_factory=list)
    """Status of the next answers to PUT: 0 is none at all, 200 with what was sent thrown away."""
    puts: int = 0
    url: str = ""

    def is_signed(self, request: web.Request) -> bool:
        found = _AUTHORIZATION.fullmatch(request.headers.get("Authorization", ""))
        if not found or (found[1], found[3]) != (self.user, self.region):
            return False
        names = found[4].split(";")
        if not {"host", "x-amz-date", "x-amz-content-sha256"} <= set(names):
            return False
        headers = "".join(f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in names)
        hashed = request.headers["x-amz-content-sha256"]
        canonical = "\n".join(
            (
                request.method,
                request.rel_url.raw_path,
                request.rel_url.raw_query_string,
                headers,
                found[4],
                hashed,
            )
        )
        stamp = request.headers["x-amz-date"]
        scope = f"{found[2]}/{found[3]}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = ("AWS4" + self.secret).encode()
        for part in (*scope.split("/"), ""):
            if part:
                key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest() == found[5]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if not self.is_signed(request):
            return web.Response(status=403, text="<Error><Code>SignatureDoesNotMatch</Code></Error>")
        body = await request.read()
        if hashlib.sha256(body).hexdigest() != request.headers["x-amz-content-sha256"]:
            return web.Response(status=400, text="<Error><Code>XAmzContentSHA256Mismatch</Code></Error>")
        if request.method == "PUT":
            return self._put(request, body)
        held = self.objects.get(request.path)
        if held is None:
            return web.Response(status=404)
        checksum = base64.b64encode(hashlib.sha256(held).digest()).decode()
        return web.Response(
            body=held,
            headers={"ETag": f'"{hashlib.md5(held).hexdigest()}"', "x-amz-checksum-sha256": checksum},
        )

    def _put(self, request: web.Request, body: bytes) -> web.StreamResponse:
        self.puts += 1
        fault = self.faults.pop(0) if self.faults else None
        if fault == 0:
            assert request.transport is not None
            request.transport.abort()
        if fault is not None and fault != 200:
            return web.Response(status=fault or 500, text="<Error><Code>SlowDown</Code></Error>")
        self.objects[request.path] = body[: len(body) // 2] if fault == 200 else body
        return web.Response()


@asynccontextmanager
async def serving(server: S3Server) -> AsyncIterator[S3Server]:
    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{path:.*}", server._answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()
