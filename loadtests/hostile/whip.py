"""Bad requests of browser calls over HTTP, by class, and what each class has to be answered with."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

import aiohttp
import jwt

from loadtests.hostile.webrtc import mutated_offer

SDP, FRAGMENT = "application/sdp", "application/trickle-ice-sdpfrag"
WAIT_S = 15.0
EXPECTED: dict[str, set[int]] = {
    "offer": {201, 400, 406, 413, 422},
    "no audio": {422},
    "no opus": {406},
    "too long": {413},
    "wrong type": {415},
    "no text": {400},
    "token": {401},
    "scope": {403},
    "patch": {400},
    "precondition": {412, 428},
    "not mine": {404},
    "method": {400, 404, 405},
    "resume": {400, 404},
    "no http": {400},
    "slow": {408},
    "slow head": {0},  # closed
}


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `kind` is its class."""

    kind: str
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class WhipAttack:
    """A client with the gateway's URL, its secret, and no good intentions."""

    def __init__(self, base: str, secret: str, offer: bytes, strange: Sequence[bytes], seed: int) -> None:
        self.statuses: dict[str, Counter[int]] = {kind: Counter() for kind in EXPECTED}
        self._base, self._secret, self._offer, self._strange = base, secret, offer, strange
        self._rng = random.Random(f"whip {seed}")
        self.token = token(secret)

    async def run(
        self, http: aiohttp.ClientSession, offers: int, slow: int, per_s: float, at_once: int = 4
    ) -> None:
        """All classes, so many mutated offers among them, and so many slow heads and bodies, which take 10 s."""
        requests = self._requests(offers)

        async def work() -> None:
            for request in requests:
                await asyncio.gather(self._send(http, request), asyncio.sleep(at_once / per_s))

        waiting = [
            asyncio.create_task(self._slow(kind)) for kind in ("slow", "slow head") for _ in range(slow)
        ]
        await asyncio.gather(*(work() for _ in range(at_once)))
        async with self._own_call(http) as path:
            for request in self._of_a_call(path):
                await self._send(http, request)
        for _ in range(max(1, offers // 40)):
            await self._speak_no_http()
        await asyncio.gather(*waiting)

    @property
    def wrong(self) -> list[str]:
        """What was answered otherwise than it has to be."""
        return [
            f"{kind}: {dict(counts)}, not only {sorted(EXPECTED[kind])}"
            for kind, counts in self.statuses.items()
            if not set(counts) <= EXPECTED[kind] or not (counts or kind.startswith("slow"))
        ]

    def _good(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", "Content-Type": SDP}

    def _requests(self, offers: int) -> Iterator[Request]:
        good, rng = self._good(), self._rng
        for number in range(offers):
            yield Request(
                "offer", "POST", "/whip", mutated_offer(rng, self._offer, self._strange), headers=good
            )
            if number % 40 == 0:
                yield from self._refused(good)
            if number % 10 == 0:
                yield from self._unauthorised()

    def _refused(self, good: dict[str, str]) -> Iterator[Request]:
        rng, offer = self._rng, self._offer
        yield Request("no audio", "POST", "/whip", offer.replace(b"m=audio 9", b"m=audio 0"), good)
        yield Request("no opus", "POST", "/whip", offer.replace(b"opus/48000", b"speex/16000"), good)
        yield Request("too long", "POST", "/whip", offer + b"a=x\r\n" * 8000, good)
        wrong = {**good, "Content-Type": rng.choice(("text/plain", "application/json", "x", FRAGMENT))}
        yield Request("wrong type", "POST", "/whip", offer, wrong)
        yield Request("no text", "POST", "/whip", offer + rng.choice((b"\xff", b"\0", b"\x1b[2J")), good)
        path = f"/whip/web-{rng.randrange(9)}/b-{rng.randbytes(8).hex()}"
        bearer = {"Authorization": good["Authorization"], "If-Match": "*"}
        yield Request("not mine", "DELETE", path, headers=bearer)
        yield Request("not mine", "PATCH", path, b"a=ice-ufrag:abcd", {**bearer, "Content-Type": FRAGMENT})
        method = rng.choice(("GET", "PUT", "TRACE", "BREW", "PROPFIND", "HEAD"))
        yield Request("method", method, rng.choice(("/whip", path, "/whip/a", "/whip/a/b/c")), headers=bearer)
        forged = rng.choice((f"web-0.b-{'0' * 16}.{'x' * 22}", "rubbish", "." * 99, "web-9.b-1.x"))
        yield Request("resume", "POST", "/whip", offer, {**good, "Microturn-Resume": forged})

    def _unauthorised(self) -> Iterator[Request]:
        bad = self._rng.choice(bad_tokens(self._secret, self.token))
        headers = {"Content-Type": SDP} | ({"Authorization": bad} if bad else {})
        yield Request("token", "POST", "/whip", self._offer, headers)
        scope = {"Content-Type": SDP, "Authorization": f"Bearer {token(self._secret, scope='listen')}"}
        yield Request("scope", "POST", "/whip", self._offer, scope)

    def _of_a_call(self, path: str) -> Iterator[Request]:
        """At a call that is there."""
        rng = self._rng
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": FRAGMENT}
        fragment = b"a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n"
        for tag in ('"x"', "W/*", '"' + "x" * 3000 + '"', ",,,", '"a", "b"', "**"):
            yield Request("precondition", "PATCH", path, fragment, {**headers, "If-Match": tag})
        yield Request("precondition", "PATCH", path, fragment, headers)
        for bad in (
            b"", b"rubbish", b"a=ice-ufrag:x", fragment[:-9] + b"?\r\n", fragment + b"a=candidate:1\r\n",
            fragment + b"a=ice-ufrag:other\r\n", b"a=b\r\n" * 900, rng.randbytes(40),
            fragment + b"".join(b"a=candidate:%d 1 udp 1 192.0.2.1 9 typ host\r\n" % n for n in range(99)),
        ):  # fmt: skip
            yield Request("patch", "PATCH", path, bad, {**headers, "If-Match": "*"})

    @contextlib.asynccontextmanager
    async def _own_call(self, http: aiohttp.ClientSession) -> AsyncIterator[str]:
        async with http.post(f"{self._base}/whip", data=self._offer, headers=self._good()) as response:
            response.raise_for_status()
            path = response.headers["Location"]
        yield path
        await self._delete(http, path)

    async def _send(self, http: aiohttp.ClientSession, request: Request) -> None:
        """Whatever is taken is given back: places are not what is tried here."""
        url = self._base + request.path
        async with http.request(
            request.method, url, data=request.body or None, headers=request.headers
        ) as response:
            self.statuses[request.kind][response.status] += 1
            await response.read()
            location = response.headers.get("Location")
        if location:
            await self._delete(http, location)

    async def _delete(self, http: aiohttp.ClientSession, path: str) -> None:
        async with http.delete(self._base + path, headers={"Authorization": f"Bearer {self.token}"}):
            pass

    async def _slow(self, kind: str) -> None:
        """A head that never ends, or a body that never comes."""
        head = b"POST /whip HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/sdp\r\n"
        head += f"Authorization: Bearer {self.token}\r\n".encode()
        if kind == "slow":
            head += b"Content-Length: 6000\r\n\r\nv=0\r\n"
        self.statuses[kind][await self._raw(head)] += 1

    async def _speak_no_http(self) -> None:
        rubbish = self._rng.choice((b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET\r\n\r\n", b"\0\0\0\0\r\n\r\n"))
        self.statuses["no http"][await self._raw(rubbish)] += 1

    async def _raw(self, data: bytes) -> int:
        """The status that comes back, 0 when the connection is closed without."""
        host, _, port = self._base.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(data)
            async with asyncio.timeout(WAIT_S):
                line = await reader.readline()
        except ConnectionError:
            line = b""
        finally:
            writer.close()
        return int(line.split()[1]) if line.startswith(b"HTTP/") else 0


def token(secret: str, **claims: object) -> str:
    """One that is good for ten minutes, but for the claims that are given; None leaves one out."""
    now_s = int(time.time())
    good: dict[str, object] = {"sub": "mallory", "aud": "microturn", "scope": "call", "exp": now_s + 600}
    return jwt.encode({k: v for k, v in (good | claims).items() if v is not None}, secret, algorithm="HS256")


def bad_tokens(secret: str, good: str) -> list[str]:
    """Authorization headers that must not pass; "" is none at all."""
    head, body, signature = good.split(".")
    unsigned = (
        base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT"}).encode()).decode().rstrip("=")
    )
    return [
        "",
        "Bearer",
        "Bearer x",
        "Basic bWU6bWU=",
        "Bearer " + "x" * 4000,
        "Bearer " + token(secrets.token_hex(32)),
        "Bearer " + token(secret, exp=int(time.time()) - 60),
        "Bearer " + token(secret, nbf=int(time.time()) + 600),
        "Bearer " + token(secret, aud="others"),
        "Bearer " + token(secret, exp=None),
        "Bearer " + jwt.encode({"aud": "microturn", "scope": "call", "exp": 9e9}, secret * 2, algorithm="HS512"),
        f"Bearer {unsigned}.{body}.",
        f"Bearer {unsigned}.{body}.{signature}",
        f"Bearer {head}.{body}.",
        f"Bearer {head}.{body[:-4]}.{signature}",
    ]  # fmt: skip
