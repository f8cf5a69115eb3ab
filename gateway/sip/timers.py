# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the edge waits for what, in nanoseconds of the monotonic clock."""

from typing import Final

SECOND_NS: Final = 1_000_000_000
PENDING_NS: Final = 180 * SECOND_NS
"""RFC 3261 16.6: timer C is more than 3 minutes at a proxy that can cancel."""
UNACKNOWLEDGED_NS: Final = 64 * SECOND_NS
"""2 * timer H: by then the worker gave the call up."""
BYE_NS: Final = 64 * SECOND_NS
ENDED_NS: Final = 32 * SECOND_NS
"""Timers F, H and J: retransmissions come until then."""
