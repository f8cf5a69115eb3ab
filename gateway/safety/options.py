"""What a worker is told about the policy at its start."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.safety.policy import Policy


@dataclass(frozen=True, slots=True)
class SafetyOptions:
    """What is looked for in the calls of one worker."""

    policy: Policy
    persona: str = ""
    """The usual one, of calls that name none."""
    moderated: bool = False
    """Calls may be cut at somebody else's word."""
