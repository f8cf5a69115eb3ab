"""A call of ours as it is wished, who may forbid it, and how it is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, Protocol

MOST_RING_S: Final = 180.0
"""Timer C of the edge: nobody may ring for longer."""

Model = Literal["speaks", "listens"]


@dataclass(frozen=True, slots=True)
class OutboundCall:
    """Who is to be called, and how.

    `to` is a number, or a name that the trunk knows; `caller_id` and `caller_name` are what the other end sees
    (default: the trunk's). Without a first ringing in `ring_s`, or an answer in `answer_s`, both from the INVITE,
    it is given up. `persona` is what the model is to be in it, `tenant` whose call it is (default: the trunk's).
    `recording` has it recorded, where its trunk allows that.
    """

    to: str
    trunk: str
    caller_id: str = ""
    caller_name: str = ""
    persona: str = ""
    tenant: str = ""
    ring_s: float = 20.0
    answer_s: float = 60.0
    recording: bool = False
    minutes: float = 0.0
    """It is ended after so long, or what its trunk allows where that is less; 0 is as its trunk has it."""
    joins: str = ""
    """Name of the call whose caller and model whoever answers joins."""
    model: Model = "speaks"
    """What it does meanwhile."""
    engine: str = ""
    """What answers, one of the setting `engines`; "" is the usual one. Whoever joins has none."""

    def __post_init__(self) -> None:
        for name in ("ring_s", "answer_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 1.0 <= value <= MOST_RING_S):
                raise ValueError(f"{name} = {value}: expected 1 to {MOST_RING_S:.0f} seconds")


class Refused(Exception):
    """It is not done. `status` is HTTP's for it: 404 no such call, trunk or target, 403 not allowed, 409 not now,
    400 not understood, 402 it may cost too much, 503 no room or no model server, 504 a worker does not answer."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status, self.code, self.text = status, code, text


class Spending(Protocol):
    """Who knows what calls may cost: `cluster.spend.Spend`."""

    def check(self, wish: OutboundCall) -> None: ...
    def minutes(self, wish: OutboundCall) -> float: ...
    async def reserve(self, wish: OutboundCall, ticket: str) -> None: ...
    def placed(self, ticket: str, call: str) -> None: ...
    def give(self, ticket: str) -> None: ...


class Limits(Protocol):
    """Who knows how many calls a tenant and a trunk may have: `cluster.desk.Desk`."""

    async def permit(self, wish: OutboundCall, ticket: str) -> str: ...
    def placed(self, wish: OutboundCall, ticket: str, call_id: str) -> None: ...
    def not_placed(self, ticket: str) -> None: ...
