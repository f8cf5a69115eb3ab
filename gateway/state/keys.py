"""Every key of a call's state, with how much may be in it and how long it lives.

    microturn:{b-0011223344556677}:session

What stands in braces is the hash tag (Redis Cluster specification, "Hash tags"): all keys of one call lie in one
hash slot, so that one script may touch them together. `microturn` is the setting `redis_namespace`.

| part | type | holds | bound |
|---|---|---|---|
| lease | string | `NODE TOKEN` of the owner | expires after `LEASE_MS` unless renewed |
| fence | string | the newest token that was given out | |
| forget | string | there while a call lives whose data is to go with its end | |
| session | string | `records.Session` | `MOST_RECORD_BYTES` |
| legs | hash by leg | `records.Leg` | `MOST_LEGS` |
| transcript | stream, id `TURN-PLACE` | `records.Line` | `MOST_LINES` of `MOST_LINE_BYTES`; the oldest go first |
| tasks | hash by task | `records.Task` | `MOST_TASKS` of `MOST_RECORD_BYTES` |
| heard | string | `records.Heard` | `MOST_RECORD_BYTES` |
| cdr | hash by begin (Unix ms) | `records.Cdr` | `MOST_CDRS` |

Nothing is without an end: while a call lives, its keys have `LIVE_S` from the last sign of life of its owner; once
it is over, they have what the operator keeps (`redis_keep_s`).
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, Literal

Part = Literal["lease", "fence", "forget", "session", "legs", "transcript", "tasks", "heard", "cdr"]
PARTS: Final[tuple[Part, ...]] = (
    "lease", "fence", "forget", "session", "legs", "transcript", "tasks", "heard", "cdr",
)  # fmt: skip
"""In the order in which the script has them."""

LEASE_MS: Final = 4_500
"""A gateway that is gone keeps its calls from others for so long at most."""
RENEW_MS: Final = 1_500
"""Two renewals may fail before a lease runs out."""
LIVE_S: Final = 3_600
"""State of a call whose owner is gone, and which nobody took over, is gone as well after so long."""

MOST_RECORD_BYTES: Final = 16_384
MOST_LINE_BYTES: Final = 512
"""200 ms of speech are four letters; what is written at once may be more, and goes in pieces."""
MOST_LINES: Final = 16_384
"""An hour and a half of talk without a pause."""
MOST_FIELD_BYTES: Final = 64
"""Name of a task."""
MOST_LEGS: Final = 64
MOST_TASKS: Final = 64
MOST_CDRS: Final = 16
"""A SIP peer may use a Call-ID again: the record of the call before is not its to erase."""

_CALL = re.compile(r"[brt]-[0-9a-f]{16,32}")
_NAMESPACE = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}")


def key(namespace: str, call: str, part: Part) -> str:
    """One key of a call."""
    return f"{namespace}:{{{call}}}:{part}"


def keys(namespace: str, call: str) -> list[str]:
    """All keys of a call, in the order of `PARTS`."""
    return [key(namespace, call, part) for part in PARTS]


def name_of_telephone_call(call_id: str) -> str:
    """The name under which a SIP call is kept: the same after a restart, and nothing of what the peer wrote.

    A Call-ID (RFC 3261 8.1.1.4) may hold the caller's host, braces and 64 kB.
    """
    return f"t-{hashlib.blake2s(call_id.encode(errors='replace'), digest_size=16).hexdigest()}"


def kept_name(call: str) -> str:
    """Of a call by whatever name: that of a worker, which may be a Call-ID, or the one that it is kept under."""
    return call if is_name(call) else name_of_telephone_call(call)


def is_name(call: str) -> bool:
    """Whether a call can be kept under this name."""
    return _CALL.fullmatch(call) is not None


def check_namespace(namespace: str) -> None:
    """`ValueError` in words for the operator."""
    if not _NAMESPACE.fullmatch(namespace):
        raise ValueError(
            f"redis_namespace = {namespace!r}: expected up to 32 small letters, digits, points and hyphens, "
            "such as microturn"
        )
