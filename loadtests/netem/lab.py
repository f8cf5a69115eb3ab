"""The lab in memory: speech, one link, the receive paths side by side. Seconds of CPU, no process, no clock.

    6 s clean | S s under the profile | 6 s clean         the same seed gives every path the same packets

Each figure is of what was said under the profile; `mos_clean` is the same path on the same speech with nothing
wrong for all the time: the ceiling of codec and path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gateway.caller.analysis import Windows
from loadtests.netem import score, speech
from loadtests.netem.emulator import Link, LinkAccount
from loadtests.netem.profiles import Profile
from loadtests.netem.receivers import RECEIVERS, Arrival, Received
from media.timebase import FRAME_NS, NS_PER_MS, NS_PER_S

BEFORE_S: Final = 6.0
AFTER_S: Final = 6.0
HEADERS_BYTES: Final = 20 + 8 + 12 + 10
"""IPv4, UDP, RTP, and SRTP's tag."""


@dataclass(frozen=True, slots=True)
class Carried:
    """One stream's packets at the far end of a link."""

    arrivals: list[Arrival]
    account: LinkAccount


@dataclass(frozen=True, slots=True)
class Span:
    """When the profile holds, ns of virtual time; before and after it the way is clean."""

    from_ns: int
    until_ns: int

    @classmethod
    def of(cls, seconds: float) -> Span:
        begin_ns = round(BEFORE_S * NS_PER_S)
        return cls(begin_ns, begin_ns + round(seconds * NS_PER_S))


def carry(profile: Profile, seed: int, payloads: Sequence[bytes], span: Span | None) -> Carried:
    """A packet every 20 ms, each leaving when its last sample was said. `span` None: nothing is ever wrong."""
    link: Link[int] = Link(profile.recovered, seed)
    arrivals: list[Arrival] = []
    for index, payload in enumerate(payloads):
        now_ns = (index + 1) * FRAME_NS
        _collect(link, now_ns, arrivals)
        if span is not None:
            for at_ns, change in ((span.from_ns, profile), (span.until_ns, profile.recovered)):
                if now_ns - FRAME_NS < at_ns <= now_ns:
                    link.become(change, now_ns)
        link.send(index, len(payload) + HEADERS_BYTES, now_ns)
    _collect(link, None, arrivals)
    return Carried(arrivals, link.account)


def _collect(link: Link[int], until_ns: int | None, arrivals: list[Arrival]) -> None:
    """All that arrives until then, each at its own time."""
    while (at_ns := link.next_deadline()) is not None and (until_ns is None or at_ns <= until_ns):
        arrivals += [Arrival(index, at_ns) for index in link.poll(at_ns)]


@dataclass(frozen=True, slots=True)
class Measured:
    """One receive path under one profile."""

    figures: dict[str, Any]
    windows: Windows


def measure(profile: Profile, coding: str, seconds: float, seed: int) -> dict[str, Measured]:
    """Figures of every receive path, by its name. Raises OSError without speech."""
    said = speech.joined(speech.sentences(), BEFORE_S + seconds + AFTER_S)
    payloads = speech.CODINGS[coding](said)
    span = Span.of(seconds)
    bad, good = carry(profile, seed, payloads, span), carry(profile, seed, payloads, None)
    until_ns = len(payloads) * FRAME_NS
    found = {}
    for name, receive in RECEIVERS.items():
        clean = receive(payloads, good.arrivals, until_ns)
        dirty = receive(payloads, bad.arrivals, until_ns)
        found[name] = _figures(profile, said, span, clean, dirty)
    return found


def _figures(
    profile: Profile, said: speech.Samples, span: Span, clean: Received, dirty: Received
) -> Measured:
    calm = score.windows_of(said, 0, clean.heard)
    floor_ms = float(np.median(calm.delay_ms))
    windows = score.windows_of(said, 0, dirty.heard)
    delays = score.between(windows, span.from_ns, span.until_ns) - profile.base_ms
    lag_ms = float(np.median(delays)) + profile.base_ms if delays.size else floor_ms
    p50, p95 = np.percentile(delays, [50, 95]) if delays.size else (np.nan, np.nan)
    figures = {
        "mos": score.mos(said, 0, dirty.heard, lag_ms, span.from_ns, span.until_ns),
        "mos_clean": score.mos(said, 0, clean.heard, floor_ms, span.from_ns, span.until_ns),
        "delay_ms": {
            "floor": round(floor_ms - profile.base_ms, 1),
            "p50": round(float(p50), 1),
            "p95": round(float(p95), 1),
            "max": round(float(delays.max()), 1) if delays.size else None,
            "after": _after(windows, span, profile),
        },
        "recovery_ms": recovery_ms(windows, floor_ms, profile, span, len(said)),
        "concealed_ms": dirty.concealed_ms,
        "recovered_ms": dirty.recovered_ms,
        "stretched_ms": dirty.stretched_ms,
        "shortened_ms": dirty.shortened_ms,
        "silent_ms": dirty.silent_ms,
        "lost_packets": dirty.lost_packets,
        "late_packets": dirty.late_packets,
        "skipped_packets": dirty.skipped_packets,
        "cpu_us_per_turn": _cpu_us(dirty, span),
        "cpu_us_per_turn_clean": _cpu_us(clean, span),
    }
    return Measured(figures, windows)


def _after(windows: Windows, span: Span, profile: Profile) -> float | None:
    """Median delay in the last second: what the call is left with."""
    last = windows.delay_ms[windows.sent_ns > span.until_ns + round((AFTER_S - 2) * NS_PER_S)]
    return round(float(np.median(last)) - profile.base_ms, 1) if last.size else None


def recovery_ms(
    windows: Windows, floor_ms: float, profile: Profile, span: Span, samples: int
) -> float | None:
    """The longest over the events: the end of each stall, and that of the profile; None when one is not over
    at the end."""
    ends_ns = [span.from_ns + round(at_s * NS_PER_S + ms * NS_PER_MS) for at_s, ms in profile.stalls]
    ends_ns = [at_ns for at_ns in ends_ns if at_ns < span.until_ns] + [span.until_ns]
    times = [
        score.recovery_ms(windows, floor_ms, at_ns, samples * NS_PER_S // speech.RATE - NS_PER_S)
        for at_ns in ends_ns
    ]
    found = [value for value in times if value is not None]
    return max(found) if len(found) == len(times) else None


def _cpu_us(received: Received, span: Span) -> float:
    """Mean of a 200 ms, while the profile holds."""
    first, last = (at_ns * 5 // NS_PER_S for at_ns in (span.from_ns, span.until_ns))
    return round(float(np.mean(received.cpu_us[first:last])), 1)


def digit_accuracy(profile: Profile, coding: str, strings: int, seed: int) -> dict[str, dict[str, float]]:
    """Percent of digits that pocketsphinx hears, under the profile all the time and clean, for every path."""
    chosen = speech.digit_strings()[:strings]
    gap = np.zeros(speech.RATE // 2, np.int16)
    pcm = np.concatenate([gap] + [part for one in chosen for part in (one.pcm, gap)])
    said = [one.text.split() for one in chosen]
    payloads = speech.CODINGS[coding](pcm)
    until_ns = (len(payloads) + 100) * FRAME_NS
    whole = Span(1, until_ns)
    found: dict[str, dict[str, float]] = {
        "said": {"clean": score.accuracy(said, _hear(pcm, 0, chosen, gap.size))}
    }
    for name, receive in RECEIVERS.items():
        row = {}
        for word, span in (("clean", None), (profile.name, whole)):
            heard = receive(payloads, carry(profile, seed, payloads, span).arrivals, until_ns).heard
            lag = np.median(score.windows_of(pcm, 0, heard).delay_ms) * NS_PER_MS - heard.start_ns
            row[word] = score.accuracy(
                said, _hear(heard.pcm, int(lag) * speech.RATE // NS_PER_S, chosen, gap.size)
            )
        found[name] = row
    return found


def _hear(pcm: speech.Samples, lag: int, chosen: Sequence[speech.Sentence], gap: int) -> list[list[str]]:
    """Each string with half a gap on either side, moved by `lag` samples."""
    at, found = gap + lag, []
    for one in chosen:
        found.append(score.digits_in(pcm[max(0, at - gap // 2) : at + len(one.pcm) + gap // 2]))
        at += len(one.pcm) + gap
    return found
