"""Whom a call's RTP may come from: the kernel is told, by `connect` of pjmedia's own UDP sockets.

pjmedia itself follows whoever sends (symmetric RTP): packets of another address are left out as long as the one
that it has goes on sending, but ten of them in a row, between two of the caller's, make it listen there and send
there. No setting of pjsua2 forbids that. Of a connected UDP socket the kernel drops what others send before anybody
sees it, and `sendto` goes on as before. The library shows the addresses of its sockets and not their descriptors:
they are looked for, and never closed here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from typing import Final, Literal

from media.timebase import NS_PER_S

Policy = Literal["learn", "lock", "sdp"]
"""As pjmedia does; none but the address that was heard first; none but that of the SDP."""
LEARN_ANEW_NS: Final = 3 * NS_PER_S
"""Without a packet of the address that a call is locked to, until another may be heard: longer than what networks
drop and than pauses between packets of comfort noise, shorter than the silence that ends a call."""
_libc = ctypes.CDLL(None, use_errno=True)
_UNSPECIFIED: Final = bytes(16)  # struct sockaddr of AF_UNSPEC: connected to nobody


def address_of(name: str) -> tuple[str, int] | None:
    """Of `203.0.113.7:4000` or `[2001:db8::7]:4000`, as the library writes it; None for none or a wildcard."""
    host, colon, port = name.rpartition(":")
    is_ipv6 = host.startswith("[") and host.endswith("]")
    try:
        packed = socket.inet_pton(socket.AF_INET6 if is_ipv6 else socket.AF_INET, host.strip("[]"))
        number = int(port)
    except (OSError, ValueError):
        return None
    if not (colon and any(packed) and 0 < number < 65536):
        return None
    # as `getsockname` has it
    return (socket.inet_ntop(socket.AF_INET6, packed) if is_ipv6 else host), number


def hear_only(local: str, peer: tuple[str, int] | None) -> bool:
    """The socket that is bound to `local` hears `peer` alone, or, with None, everybody. False when there is no such
    socket, or the kernel will not. With None a socket whose port the kernel chose loses it; pjmedia chooses."""
    bound = address_of(local)
    descriptor = _descriptor_at(bound) if bound is not None else -1
    if descriptor < 0:
        return False
    if peer is None:
        return int(_libc.connect(descriptor, _UNSPECIFIED, len(_UNSPECIFIED))) == 0
    found = socket.socket(_family(peer), socket.SOCK_DGRAM, 0, descriptor)
    try:
        found.connect(peer)
    except OSError:
        return False
    finally:
        found.detach()
    return True


def _family(address: tuple[str, int]) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def _descriptor_at(address: tuple[str, int]) -> int:
    """The newest first: it is a call's that has just begun."""
    family = _family(address)
    for descriptor in sorted((int(name) for name in os.listdir("/proc/self/fd")), reverse=True):
        try:
            found = socket.socket(family, socket.SOCK_DGRAM, 0, descriptor)
        except OSError as wrong:
            if wrong.errno not in (errno.EBADF, errno.ENOTSOCK):
                raise
            continue
        try:
            if found.getsockname()[:2] == address and found.type == socket.SOCK_DGRAM:
                return descriptor
        except OSError:  # no socket
            continue
        finally:
            found.detach()
    return -1
