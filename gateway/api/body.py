"""Bodies of requests: of one media type, bounded in length and in time."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from gateway.api.problem import Problem

MOST_BYTES: Final = 32 * 1024
"""An offer of a browser with audio, video and data has some 6 KiB."""
BODY_S: Final = 10.0


async def read_text(request: web.Request, content_type: str, told_in: str = "Accept-Post") -> str:
    """The body; `Problem` when it is of another type, which a header of that name says, too long, too slow, or no
    UTF-8."""
    if request.content_type != content_type:
        told = f"a body of {content_type} is taken here, not of {request.content_type[:80]}"
        raise Problem(415, "wrong-type", told, {told_in: content_type})
    if (request.content_length or 0) > MOST_BYTES:
        raise Problem(413, "too-long", f"{request.content_length} bytes: at most {MOST_BYTES} are taken")
    try:
        async with asyncio.timeout(BODY_S):
            body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise Problem(413, "too-long", f"at most {MOST_BYTES} bytes are taken") from None
    except TimeoutError:
        raise Problem(408, "too-slow", f"the body did not come within {BODY_S:g} s") from None
    try:
        return body.decode()
    except UnicodeDecodeError as wrong:
        raise Problem(400, "malformed", f"byte {wrong.start} of the body is no UTF-8") from None
