# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of a verification, in one of a few words, and how a call that needs another is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Level = Literal["", "A", "B", "C"]
Why = Literal[
    "header", "compact", "ppt", "algorithm", "claims", "stale", "orig", "dest", "info", "fetch", "busy", "timeout",
    "certificate", "untrusted", "expired", "tn-list", "number", "signature", "error",
]  # fmt: skip

_INVALID: Final = (438, "Invalid Identity Header")
_CREDENTIAL: Final = (437, "Unsupported Credential")
_INFO: Final = (436, "Bad Identity Info")
STATUS: Final[dict[Why, tuple[int, str]]] = {
    "header": _INVALID,  # it is no Identity header
    "compact": _INVALID,  # RFC 8588 needs the full form: attest and origid stand nowhere else
    "ppt": (428, "Use Supported PASSporT Format"),
    "algorithm": _INVALID,  # not ES256
    "claims": _INVALID,
    "stale": (403, "Stale Date"),
    "orig": _INVALID,  # another number calls
    "dest": _INVALID,  # another number is called
    "info": _INFO,  # no https, or a host that nobody allows
    "fetch": _INFO,
    "busy": _INFO,  # more certificates on their way than there may be
    "timeout": _INFO,
    "certificate": _CREDENTIAL,  # unreadable, or with another kind of key
    "untrusted": _CREDENTIAL,  # no chain to an anchor
    "expired": _CREDENTIAL,  # or not valid yet
    "tn-list": _CREDENTIAL,  # without a TNAuthList that can be read
    "number": _CREDENTIAL,  # which does not have the number
    "signature": _INVALID,
    "error": _INVALID,  # a bug of ours, caught and logged
}
"""RFC 8224 section 6.2.2."""
USE_IDENTITY: Final = (428, "Use Identity Header")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Verified with a level of attestation, failed, or (neither) without an Identity header."""

    level: Level = ""
    why: Why | Literal[""] = ""
    told: str = ""
    """For the log: never a number."""

    @property
    def text(self) -> str:
        """As records have it."""
        if self.level:
            return f"verified {self.level}"
        return f"failed {self.why}" if self.why else "absent"

    @property
    def word(self) -> str:
        """As rules have it."""
        return self.level or ("failed" if self.why else "absent")

    @property
    def refusal(self) -> tuple[int, str] | None:
        """Status and reason for those who need a verified caller; None for one."""
        if self.level:
            return None
        return STATUS[self.why] if self.why else USE_IDENTITY


ABSENT: Final = Verdict()


class Distrust(Exception):
    """Why a caller is not verified."""

    def __init__(self, why: Why, told: str = "") -> None:
        super().__init__(told or why)
        self.why, self.told = why, told

    @property
    def verdict(self) -> Verdict:
        return Verdict("", self.why, self.told)


@dataclass(slots=True)
class StirCounters:
    """Since the start of this process; one of the results for each INVITE that was looked at."""

    verified_a: int = 0
    verified_b: int = 0
    verified_c: int = 0
    absent: int = 0
    failed_header: int = 0
    failed_compact: int = 0
    failed_ppt: int = 0
    failed_algorithm: int = 0
    failed_claims: int = 0
    failed_stale: int = 0
    failed_orig: int = 0
    failed_dest: int = 0
    failed_info: int = 0
    failed_fetch: int = 0
    failed_busy: int = 0
    failed_timeout: int = 0
    failed_certificate: int = 0
    failed_untrusted: int = 0
    failed_expired: int = 0
    failed_tn_list: int = 0
    failed_number: int = 0
    failed_signature: int = 0
    failed_error: int = 0
    refused: int = 0
    """Of them, calls that were not taken for it."""
    fetches: int = 0
    """Certificates that were not in the cache."""
    fetches_failed: int = 0

    def count(self, verdict: Verdict) -> None:
        """One more of that kind."""
        name = verdict.text.replace(" ", "_").replace("-", "_").lower()
        setattr(self, name, getattr(self, name) + 1)
