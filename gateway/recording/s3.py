"""Where recordings go: an S3-compatible store, one object a file, path style.

An upload is believed when the store says so twice: it takes the body against its SHA-256 (signed, and as
`x-amz-checksum-sha256`), and, asked afterwards, it has an object of that length and that hash, or that MD5.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from gateway.recording.sigv4 import Signer, encoded

EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
PIECE_BYTES: Final = 1 << 18
UPLOAD_S: Final = 600.0
"""One file: 5 GiB is the most that one request may bring, and 70 Mbit/s then."""
ANSWER_S: Final = 30.0


class NotUploaded(Exception):
    """The file is not there, or not known to be: it stays here. `is_final` where asking again is of no use."""

    def __init__(self, text: str, *, is_final: bool = False) -> None:
        super().__init__(text)
        self.is_final = is_final


@dataclass(frozen=True, slots=True)
class Digest:
    """Of a file."""

    size: int
    sha256: bytes
    md5: bytes


def digest_of(path: Path) -> Digest:
    """Reads all of it."""
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as file:
        while some := file.read(PIECE_BYTES):
            sha256.update(some)
            md5.update(some)
            size += len(some)
    return Digest(size, sha256.digest(), md5.digest())


class Bucket:
    """A folder in it."""

    def __init__(
        self, url: str, signer: Signer, session: aiohttp.ClientSession,
        unix_s: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """`url` is scheme://HOST/BUCKET/PREFIX."""
        parts = urlsplit(url)
        self._origin, self._host = f"{parts.scheme}://{parts.netloc}", parts.netloc
        self._folder = parts.path.rstrip("/")
        self._signer, self._session, self._unix_s = signer, session, unix_s

    async def put(self, path: Path, digest: Digest) -> None:
        """Upload it, and see that it is there. Raises `NotUploaded`."""
        checksum = base64.b64encode(digest.sha256).decode()
        headers = {"content-length": str(digest.size), "x-amz-checksum-sha256": checksum}
        async with self._ask("PUT", path.name, headers, digest.sha256.hex(), _pieces(path)) as answer:
            if answer.status != 200:
                raise await _refused("PUT", answer)
        await self._verify(path.name, digest, checksum)

    async def _verify(self, name: str, digest: Digest, checksum: str) -> None:
        async with self._ask("HEAD", name, {"x-amz-checksum-mode": "ENABLED"}, EMPTY_SHA256) as answer:
            if answer.status != 200:
                raise await _refused("HEAD", answer)
            size, told = answer.headers.get("Content-Length", ""), answer.headers.get("x-amz-checksum-sha256")
            etag = answer.headers.get("ETag", "").strip('"')
        if size != str(digest.size) or not (told == checksum or (told is None and etag == digest.md5.hex())):
            raise NotUploaded(
                f"HEAD: it has {size} bytes, ETag {etag[:64]!r}, SHA-256 {told!r}: not what was sent"
            )

    @contextlib.asynccontextmanager
    async def _ask(
        self, method: str, name: str, headers: dict[str, str], sha256: str,
        body: AsyncIterator[bytes] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:  # fmt: skip
        """Faults of the network are `NotUploaded`."""
        path = f"{self._folder}/{name}"
        signed = self._signer.sign(method, self._host, path, headers, sha256, self._unix_s())
        url = URL(self._origin + encoded(path), encoded=True)
        timeout = aiohttp.ClientTimeout(total=UPLOAD_S if body else ANSWER_S, sock_connect=ANSWER_S)
        try:
            async with self._session.request(
                method, url, headers=signed, data=body, timeout=timeout
            ) as answer:
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as wrong:
            raise NotUploaded(f"{type(wrong).__name__}: {wrong}"[:200]) from None


async def _refused(method: str, answer: aiohttp.ClientResponse) -> NotUploaded:
    """403 and 404 may be put right by the operator: they are asked again, too."""
    try:
        told = (await answer.content.read(2_000)).decode(errors="replace")
    except (aiohttp.ClientError, TimeoutError):
        told = ""
    return NotUploaded(f"{method}: {answer.status} {told[:200]!r}", is_final=answer.status in (400, 413))


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while some := file.read(PIECE_BYTES):
            yield some
