"""Network namespaces; and two with the only way between them, a TUN device in each, whose packets we carry.

    caller 10.88.0.1 -- tun -- (file descriptors, see wire.py) -- tun -- 10.88.0.2 gateway

The namespaces have no names: they live as long as this process and what it started in them. One rule: a thread that
enters one comes back, whatever happens. Linux, root, /dev/net/tun and iproute2.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

CLONE_NEWNET: Final = 0x4000_0000
CALLER, GATEWAY = "10.88.0.1", "10.88.0.2"
DEVICE: Final = "netem0"
TUN: Final = "/dev/net/tun"
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x4004_54CA, 0x0001, 0x1000  # linux/if_tun.h
_OURS: Final = "/proc/thread-self/ns/net"


class Namespace:
    """One network namespace, with its loopback up. Raises OSError where none can be made."""

    def __init__(self) -> None:
        home = os.open(_OURS, os.O_RDONLY)
        try:
            _call("unshare", CLONE_NEWNET)
            self._descriptor = os.open(_OURS, os.O_RDONLY)
            _call("setns", home, CLONE_NEWNET)
        finally:
            os.close(home)
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        self.ip("link set lo up")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, and the processes and threads that it starts, are in it."""
        home = os.open(_OURS, os.O_RDONLY)
        try:
            _call("setns", self._descriptor, CLONE_NEWNET)
            yield
        finally:
            _call("setns", home, CLONE_NEWNET)
            os.close(home)

    def ip(self, arguments: str) -> str:
        """What `ip` says in it; RuntimeError when it fails."""
        with self.entered():
            done = subprocess.run(["ip", *arguments.split()], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"ip {arguments}: {done.stderr.strip()}")
        return done.stdout

    def close(self) -> None:
        """It is gone with the last process in it."""
        os.close(self._descriptor)


class End(Namespace):
    """A namespace with one end of the wire."""

    def __init__(self, address: str, peer: str) -> None:
        super().__init__()
        self.address = address
        with self.entered():
            self.tun = open_tun(DEVICE)
        self.ip(f"address add {address} peer {peer} dev {DEVICE}")
        self.ip(f"link set {DEVICE} up txqueuelen 1000")

    def close(self) -> None:
        os.close(self.tun)
        super().close()


@contextlib.contextmanager
def wired() -> Iterator[tuple[End, End]]:
    """(caller, gateway), gone when the block is left. Raises RuntimeError where they cannot be made."""
    if missing := why_not() or why_no_wire():
        raise RuntimeError(missing)
    with contextlib.ExitStack() as stack:
        ends = []
        for address, peer in ((CALLER, GATEWAY), (GATEWAY, CALLER)):
            ends.append(End(address, peer))
            stack.callback(ends[-1].close)
        yield ends[0], ends[1]


def why_not() -> str:
    """What this machine lacks for namespaces; "" when nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if shutil.which("ip") is None:
        return "the program ip (iproute2) is not on PATH"
    return ""


def why_no_wire() -> str:
    """What it lacks for TUN devices; "" when nothing."""
    if not os.access(TUN, os.R_OK | os.W_OK):
        return f"{TUN} cannot be opened: load the module tun, or give the container that device"
    return ""


def open_tun(name: str) -> int:
    """A descriptor that gives and takes one IP packet at a time. Raises OSError where that is not allowed."""
    descriptor = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _call(name: str, *arguments: int) -> None:
    """A function of the C library; OSError when it fails."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), name)
