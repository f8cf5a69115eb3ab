"""One gateway's part in a cluster, put together: what its main process has, and asks.

Without a server (`redis = "off"`) there is no announcement and no other gateway; caps then hold for this one alone.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gateway.api.forward import Forward
from gateway.api.problem import Problem
from gateway.cluster.desk import Desk
from gateway.cluster.node import Node
from gateway.cluster.registry import ClusterCounters, Registry
from gateway.cluster.spend import Book, OwnBook, RedisBook, Spend
from gateway.config import GatewaySettings
from gateway.telephones import Telephones
from gateway.webrtc.pool import WebrtcPool, WentOn

if TYPE_CHECKING:
    from gateway.cluster.homes import Homes
    from gateway.sip.stir.verifier import Verifier
    from gateway.state.records import Session
    from gateway.state.sessions import Sessions

ADOPTION_S: Final = 5.0
"""After a restart, workers have told of their calls by then."""

AskModel = Callable[[], Awaitable[dict[str, Any] | None]]


class Cluster:
    """`ask_model` gives the model server's figures, `spawn` runs a task until the process ends."""

    def __init__(
        self,
        settings: GatewaySettings,
        telephones: Telephones,
        pool: WebrtcPool | None,
        sessions: Sessions | None,
        ask_model: AskModel,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self.url = settings.node_url
        """Where other gateways reach this one's HTTP; set once the port is known."""
        self.forward = Forward(settings.node_name)
        self.key = secrets.token_hex(32)
        """See `Node.key`."""
        self.draining = False
        self._settings, self._telephones, self._pool = settings, telephones, pool
        self._sessions, self._ask_model = sessions, ask_model
        self._host, self._born_s = socket.gethostname(), time.monotonic()
        self.registry = self._registry()
        self.verifier = self._verifier()
        self.desk = Desk(
            settings.make_parties(),
            self.registry,
            telephones.edge,
            pool,
            sessions,
            spawn,
            settings.sip_retry_after_s,
            settings.make_rules(),
            settings.make_doorman(),
            self.verifier,
            lambda trunk: settings.stir_of(settings.trunks.get(trunk)),
            lambda trunk: settings.rtp_source_of(settings.trunks.get(trunk)),
        )
        self.desk.has_engine = telephones.has_engine
        telephones.further = self.desk.admit
        telephones.edge.marks = self.desk.marks
        telephones.edge.policy = lambda request: settings.policy_of(self.desk.trunk_of(request))
        telephones.edge.policy_of = settings.policy_of
        telephones.switchboard.limits = self.desk
        self.spend = self._spend(spawn)
        telephones.switchboard.spending = self.spend
        telephones.switchboard.watchers.append(self.spend.happened)
        self._homes = self._find_homes()

    def _registry(self) -> Registry:
        address = self._settings.state_address
        if address is None:
            return Registry(None, "", self._settings.node_name, self._facts)
        from gateway.state.sessions import make_client

        return Registry(
            lambda: make_client(self._settings, address), self._settings.redis_namespace,
            self._settings.node_name, self._facts,
        )  # fmt: skip

    def _spend(self, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> Spend:
        settings = self._settings
        book: Book = OwnBook()
        if self._sessions is not None:
            book = RedisBook(self._sessions.store.script, settings.redis_namespace)
        return Spend(settings.tenants, settings.trunks, book, spawn)

    def _verifier(self) -> Verifier | None:
        if not self._settings.stir_anchors:
            return None
        from gateway.sip.stir.verifier import open_verifier

        return open_verifier(self._settings)

    def _find_homes(self) -> Homes | None:
        if self._sessions is None:
            return None
        from gateway.cluster.homes import Homes

        return Homes(self.registry, self._sessions, self._settings.node_name, self._host)

    # -- its life

    async def run(self) -> None:
        """Announce until cancelled."""
        await self.registry.run()

    def drain(self) -> None:
        """The others hear at once that nothing new is taken here."""
        self.draining = True
        self.registry.tell()

    async def close(self) -> None:
        """Gone for the others."""
        await self.registry.leave()
        await self.forward.close()
        if self.verifier is not None:
            await self.verifier.close()

    # -- browsers' calls

    async def home_of(self, call: str) -> Node | None:
        """The other gateway that has this call."""
        return await self._homes.of(call) if self._homes is not None else None

    def reachable(self) -> list[Node]:
        """All other gateways that are alive and can be asked."""
        return [node for node in self.registry.others() if node.is_reachable_from(self._host)]

    def roomiest(self, engine: str = "") -> Node | None:
        """Another gateway with room for a browser that calls that engine."""
        return self._homes.roomiest(engine) if self._homes is not None else None

    def remember(self, call: str, node: str) -> None:
        """That gateway has taken a call that was offered here."""
        if self._homes is not None and call:
            self._homes.remember(call, node)

    async def go_on(self, token: str) -> tuple[Session, WentOn] | Problem | None:
        """A call of a dead gateway, which is ours now; why it is not; None where nothing is known of others."""
        if self._homes is None:
            return None
        taken = await self._homes.go_on(token)
        if taken == "unknown":
            told = "it is not known where that call is: the state of calls is away"
            return Problem(503, "not-ready", told, {"Retry-After": "1"}) if self.registry.had_others else None
        if taken == "gone":
            return Problem(404, "gone", "that call is gone")
        if taken == "not-yet":
            told = "the gateway with this call is away: it goes on here when its lease has run out"
            return Problem(503, "not-ready", told, {"Retry-After": "1"})
        self.desk.take_over(taken[0])
        return taken

    def hand_back(self, call: str) -> None:
        """No worker of ours has taken it."""
        self.registry.give(call)
        if self._sessions is not None:
            self._sessions.hand_back(call)

    # -- what it shows

    @property
    def counters(self) -> ClusterCounters:
        """Live; read only."""
        return self.registry.counters

    def gauges(self) -> dict[str, float]:
        """Of now."""
        return {
            "cluster_nodes": float(len(self.registry.nodes)),
            "cluster_permits": float(len(self.registry.permits)),
        }

    def nodes(self) -> list[Node]:
        """All that are alive, by name, for anybody to see."""
        nodes = self.registry.nodes
        return [msgspec.structs.replace(nodes[name], key="") for name in sorted(nodes)]

    async def _facts(self) -> Node:
        """Once a second, and what has come to nothing is swept."""
        self.desk.sweep()
        if time.monotonic() - self._born_s > ADOPTION_S and not (self._sessions and self._sessions.recalling):
            self.registry.permits.settle()
        told = await self._ask_model() or {}
        gauges: dict[str, Any] = told.get("gauges", {})
        free = gauges.get("slots", 0) - gauges.get("slots_leased", 0) - gauges.get("slots_resting", 0)
        takes = max(0, gauges.get("free_calls", free))
        edge, pool = self._telephones.edge, self._pool
        sip, port = edge.address
        return Node(
            node=self._settings.node_name,
            host=self._host,
            url=self.url,
            sip=f"sip:{self._settings.sip_public_host or sip}:{port}",
            ready=self._telephones.is_ready and (pool is None or pool.is_ready),
            draining=self.draining,
            slots_free=max(0, free),
            sip_free=max(0, min(edge.room, takes)) if self._telephones.is_ready else 0,
            web_free=max(0, min(pool.room, takes)) if pool is not None else 0,
            engines={name: pool.room_for(name) for name in self._settings.engines if pool.has_engine(name)}
            if pool is not None
            else {},
            step_predicted_ns=gauges.get("step_predicted_full_ns", 0),
            step_limit_ns=gauges.get("step_limit_ns", 0),
            key=self.key,
        )
