"""What is set, as far as the holder of a token may know: a tenant sees what is its own."""

from __future__ import annotations

from collections.abc import Callable

from gateway.api.problem import Problem
from gateway.api.v1 import shapes
from gateway.api.v1.surface import Asked
from gateway.config import GatewaySettings


class Settings:
    """Of one gateway. `drain` begins to take no new calls; `state` says whether it does, and how many live."""

    def __init__(
        self, settings: GatewaySettings, drain: Callable[[], None], state: Callable[[], tuple[bool, int]]
    ) -> None:
        self._settings, self._drain, self._state = settings, drain, state

    async def personas(self, asked: Asked) -> shapes.Personas:
        """Names are for everybody: a tenant sees those that its rules name alone."""
        settings = self._settings
        if asked.holder.tenant:
            rules = [rule for rule in settings.rules if rule.tenant == asked.holder.tenant and rule.persona]
            return shapes.Personas([shapes.Persona(rule.called or rule.name, rule.persona) for rule in rules])
        listed = [shapes.Persona(name, persona) for name, persona in settings.personas.items()]
        return shapes.Personas([shapes.Persona("", settings.persona), *listed])

    async def trunks(self, asked: Asked) -> shapes.Trunks:
        """By name."""
        found = sorted(self._settings.trunks.items())
        return shapes.Trunks(
            [
                shapes.Trunk(name, list(trunk.hosts), trunk.calls, trunk.tenant)
                for name, trunk in found
                if asked.sees(trunk.tenant)
            ]
        )

    async def rules(self, asked: Asked) -> shapes.RuleList:
        """With the names that the log has."""
        found = []
        for at, rule in enumerate(self._settings.rules, 1):
            if asked.sees(rule.tenant):
                name = rule.name or f"rules[{at}]"
                found.append(
                    shapes.Rule(
                        name, rule.called, list(rule.source), dict(rule.headers), rule.persona, rule.tenant,
                        rule.trunk, rule.recording, list(rule.attestation), rule.engine,
                    )
                )  # fmt: skip
        return shapes.RuleList(found, self._settings.calls_without_rule)

    async def get_drain(self, asked: Asked) -> shapes.Drain:
        """Of this gateway."""
        if asked.holder.tenant:
            raise Problem(403, "forbidden", "a gateway is drained by its operator, not by a tenant")
        draining, calls = self._state()
        return shapes.Drain(self._settings.node_name, draining, calls)

    async def drain(self, asked: Asked) -> shapes.Drain:
        """There is no way back but a new start."""
        now = await self.get_drain(asked)
        if not now.draining:
            self._drain()
        return await self.get_drain(asked)
