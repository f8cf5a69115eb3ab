"""What a call is estimated to cost, by prices; `gateway.config.GatewaySettings` has these fields, too."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import Field
from pydantic_settings import BaseSettings


@dataclass(frozen=True, slots=True)
class Prices:
    """In one currency, that of the background model's prices."""

    per_minute: float = 0.0
    per_engine_s: float = 0.0

    def cost(self, length_ms: int, engine_ms: int) -> float:
        """Of a call without its tasks, whose cost is known as it is."""
        return self.per_minute * max(0, length_ms) / 60_000 + self.per_engine_s * engine_ms / 1_000


def cost_of_trunk(per_minute: float, length_ms: int) -> float:
    """Of a call that we placed: each second that has begun counts, as with `cluster.spend`."""
    return per_minute * math.ceil(max(0, length_ms) / 1_000) / 60


class PriceSettings(BaseSettings):
    """Of one gateway."""

    price_minute: float = Field(
        0.0, ge=0, description="of a minute of a call: its line, and its part of machines"
    )
    price_engine_s: float = Field(
        0.0, ge=0, description="of a second of the model server's steps, a call's part of them: its GPU"
    )

    @property
    def prices(self) -> Prices:
        """For the records of calls."""
        return Prices(self.price_minute, self.price_engine_s)
