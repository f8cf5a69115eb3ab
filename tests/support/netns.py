"""A small internet of network namespaces: a caller, a router with a firewall, and the servers.

    with laid_out() as net:                     10.77.1.2  caller  10.77.2.2
        with net.servers.entered():                   |               |
            ...  # what starts here, lives here   10.77.1.1  router  10.77.2.1      one of the two at a time
        net.drop_udp()                                    10.77.0.1
        net.unplug(); net.plug_in()                           |
                                                 servers  10.77.0.2 10.77.0.3

The namespaces are those of `loadtests/netem/namespaces.py`: they live as long as this process and what it started
in them. Linux, root and iproute2 only; skips the test elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.netem.namespaces import Namespace, why_not

GATEWAY, RELAY = "10.77.0.2", "10.77.0.3"  # both addresses of the servers


class Internet:
    """The three, wired; the caller is at its first interface."""

    def __init__(self, servers: Namespace, router: Namespace, caller: Namespace) -> None:
        self.servers, self.router, self.caller = servers, router, caller
        self._interface = 0
        self._wire(servers, "eth0", "servers", 0)
        servers.ip(f"address add {RELAY}/24 dev eth0")
        self._forward()
        self.plug_in()

    def drop_udp(self) -> None:
        """As a strict firewall: nothing tells the caller that its datagrams go nowhere."""
        self.router.ip(f"rule add pref 10 iif caller{self._interface} ipproto udp blackhole")

    def unplug(self) -> None:
        """The caller's interface vanishes, and its address."""
        self.caller.ip(f"link delete eth{self._interface}")

    def plug_in(self) -> None:
        """Another one comes, with another address."""
        self._interface += 1
        number = self._interface
        self._wire(self.caller, f"eth{number}", f"caller{number}", number)
        self.caller.ip(f"route add default via 10.77.{number}.1")

    def _wire(self, end: Namespace, name: str, name_at_router: str, net: int) -> None:
        self.router.ip(f"link add {name_at_router} type veth peer name {name} netns {end.path}")
        self.router.ip(f"address add 10.77.{net}.1/24 dev {name_at_router}")
        self.router.ip(f"link set {name_at_router} up")
        end.ip(f"address add 10.77.{net}.2/24 dev {name}")
        end.ip(f"link set {name} up")

    def _forward(self) -> None:
        self.servers.ip("route add default via 10.77.0.1")
        with self.router.entered():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


@contextlib.contextmanager
def laid_out() -> Iterator[Internet]:
    """All of it, gone when the block is left. Skips the test where it cannot be made."""
    needs_namespaces()
    with contextlib.ExitStack() as stack:
        spaces = [Namespace() for _ in range(3)]
        for space in spaces:
            stack.callback(space.close)
        yield Internet(*spaces)


def needs_namespaces() -> None:
    """Skips the test where none can be made."""
    if missing := why_not():
        pytest.skip(missing)
    try:
        Namespace().close()
    except OSError as wrong:
        pytest.skip(f"no network namespace can be made here: {wrong.strerror}")
