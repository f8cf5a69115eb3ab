"""How much there is of what SGLang hangs without: rows, tokens, time. Wrong settings are refused at start.

With all request rows or all tokens of its pool held by idle sessions SGLang answers no turn any more, not even one
of these sessions, and says nothing. So there are twice as many rows as calls, every call has its own share of the
tokens and is rolled over to a new session before it is used up, and every turn has a deadline.
"""

from __future__ import annotations

from dataclasses import dataclass

from model_server.model.config import ModelConfig
from model_server.model.micro_turn import HEAR_POSITIONS, SPEAK_POSITIONS, TEXT_LIMIT

ROWS_A_CALL = 2
SESSION_TOKENS = 2_048
"""Of a session before the next one: 30 s to 40 s of turns. Small, since SGLang walks over it."""
INKLING_SESSION_TOKENS = 16_384
"""With SGLang's own trunk, where a session is all that is kept of a call: 5 to 7 minutes of turns."""
TURN_S = 0.6
"""Three turns. A reply is of no use after one; this is for a scheduler that does not answer at all."""
STUCK_S = 5.0
"""Without a word of SGLang's; then the process ends, and the next one takes over."""
IDLE_S = 60.0
"""Calls send a chunk every 200 ms, held ones, too."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one engine. `ValueError` names the value, what is expected and why."""

    calls: int
    """Sessions at once."""
    most_of_turn: int
    """Tokens that a turn may add: pictures, text, sound, what is written."""
    session_tokens: int = SESSION_TOKENS
    running_requests: int = 0
    """SGLang's `max_running_requests`; 0 is what `calls` need."""
    total_tokens: int = 0
    """SGLang's `max_total_tokens`; 0 is what `calls` need."""
    turn_s: float = TURN_S
    stuck_s: float = STUCK_S
    idle_s: float = IDLE_S

    def __post_init__(self) -> None:
        if not self.running_requests:
            object.__setattr__(self, "running_requests", ROWS_A_CALL * self.calls + 1)
        if not self.total_tokens:
            object.__setattr__(self, "total_tokens", ROWS_A_CALL * self.calls * self.session_tokens)
        checks = (
            (self.calls >= 1, f"calls = {self.calls}: expected at least 1"),
            (
                self.calls * ROWS_A_CALL < self.running_requests,
                f"running_requests = {self.running_requests} with calls = {self.calls}: expected more than "
                f"{ROWS_A_CALL} a call, since idle sessions hold rows and SGLang hangs without free ones",
            ),
            (
                self.session_tokens >= 2 * self.most_of_turn,
                f"session_tokens = {self.session_tokens}: expected at least {2 * self.most_of_turn}, two turns",
            ),
            (
                self.total_tokens >= ROWS_A_CALL * self.calls * self.session_tokens,
                f"total_tokens = {self.total_tokens} with calls = {self.calls} of {self.session_tokens}: expected "
                f"at least {ROWS_A_CALL * self.calls * self.session_tokens}: idle sessions are never evicted, it "
                "hangs when its pool is full, and a session that is given up holds its tokens a while longer",
            ),
            (0 < self.turn_s < self.idle_s, f"turn_s = {self.turn_s}: expected between 0 and {self.idle_s}"),
        )
        for holds, wrong in checks:
            if not holds:
                raise ValueError(f"engine = 'sglang': {wrong}")

    @property
    def context(self) -> int:
        """Tokens that a session could have at most, for SGLang's tables."""
        return self.session_tokens + self.most_of_turn + 8


def most_of_turn(config: ModelConfig) -> int:
    """Tokens that a turn of this model adds to a session at most."""
    width, height = config.picture_size
    patches = (width // config.patch_side + config.extra_column) * (height // config.patch_side)
    written = config.say_limit + 1
    return patches + TEXT_LIMIT + HEAR_POSITIONS + SPEAK_POSITIONS + written
