# SPDX-License-Identifier: GPL-3.0-or-later
"""Who verifies the callers of INVITEs: at once where the certificate is known, else within `HOLD_S`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from gateway.sip.message import Request
from gateway.sip.stir.certificate import Trusted, read_anchors
from gateway.sip.stir.fetch import Hosts
from gateway.sip.stir.identity import Claim, claim_of, is_signed
from gateway.sip.stir.store import Store
from gateway.sip.stir.verdict import ABSENT, Distrust, StirCounters, Verdict
from gateway.sip.tls import client_context

if TYPE_CHECKING:
    from gateway.config import GatewaySettings

log = structlog.get_logger()

HOLD_S: Final = 1.5
"""An INVITE is held for no longer (RFC 3261 timer B of the caller's side is 32 s, but people wait)."""
MOST_HELD: Final = 24
"""INVITEs that wait for certificates; with more than that calls are not verified (`busy`), so that others, which
wait for something else, find room."""
TELL_S: Final = 1.0


class Verifier:
    """Of one main process."""

    def __init__(self, store: Store, fresh_s: int, counters: StirCounters, hold_s: float = HOLD_S) -> None:
        self.counters = counters
        self._store, self._fresh_s, self._hold_s = store, fresh_s, hold_s
        self._held = 0
        self._told_s = float("-inf")
        self._untold = 0

    def at_once(self, request: Request, now_s: float) -> Verdict | None:
        """By what is known; None where a certificate is to be asked for, and `verify` says. `now_s` is the wall
        clock."""
        try:
            claim = claim_of(request, self._fresh_s, now_s)
            if claim is None:
                return ABSENT
            found = self._store.known(claim.url)
            if found is None:
                return None if self._held < MOST_HELD else Verdict("", "busy")
            return _verdict(claim, found, now_s)
        except Distrust as wrong:
            return wrong.verdict
        except Exception:
            return self._broken()

    async def verify(self, request: Request, now_s: float) -> Verdict:
        """The same, with the certificate, within `hold_s`."""
        self._held += 1
        try:
            claim = claim_of(request, self._fresh_s, now_s)
            if claim is None:
                return ABSENT
            async with asyncio.timeout(self._hold_s):
                found = await self._store.get(claim.url)
            return _verdict(claim, found, now_s)
        except TimeoutError:
            return Verdict("", "timeout")
        except Distrust as wrong:
            return wrong.verdict
        except Exception:
            return self._broken()
        finally:
            self._held -= 1

    def note(self, verdict: Verdict, source: str, trunk: str, refused: bool, call: str = "") -> None:
        """Count a result, and log one that failed: one line a second at most."""
        self.counters.count(verdict)
        self.counters.refused += refused
        if not verdict.why:
            return
        now_s = time.monotonic()
        if now_s - self._told_s < TELL_S:
            self._untold += 1
            return
        log.warning(
            "caller not verified", call=call, why=verdict.why, told=verdict.told, source=source, trunk=trunk,
            refused=refused, others=self._untold,
        )  # fmt: skip
        self._told_s, self._untold = now_s, 0

    async def close(self) -> None:
        """Nothing is fetched any more."""
        await self._store.close()

    def _broken(self) -> Verdict:
        """A bug of ours ends with the call that met it."""
        if not self.counters.failed_error:
            log.exception("caller not verified: our mistake")
        return Verdict("", "error")


def _verdict(claim: Claim, found: Trusted, now_s: float) -> Verdict:
    found.check(claim.orig, now_s)
    if not is_signed(claim, found.key):
        raise Distrust("signature")
    return Verdict(claim.level)


def open_verifier(settings: GatewaySettings) -> Verifier | None:
    """As it is set; None where nothing is verified. `ValueError` in words for the operator."""
    if not settings.stir_anchors:
        return None
    return make_verifier(
        settings.stir_anchors, settings.stir_hosts, settings.stir_tls_ca, settings.stir_certificates,
        settings.stir_fresh_s,
    )  # fmt: skip


def make_verifier(
    anchors: str, hosts: Sequence[str], tls_ca: str, folder: str, fresh_s: int, hold_s: float = HOLD_S
) -> Verifier:
    """`ValueError` in words for the operator."""
    try:
        context = client_context(tls_ca)
    except ValueError as wrong:
        raise ValueError(str(wrong).replace("sip_tls_ca", "stir_tls_ca")) from None
    if folder and not Path(folder).is_dir():
        raise ValueError(f"stir_certificates = {folder!r} is no folder: give one with PEM files")
    counters, allowed = StirCounters(), Hosts(hosts)
    store = Store(read_anchors(anchors), allowed, context, Path(folder) if folder else None, counters)
    return Verifier(store, fresh_s, counters, hold_s)
