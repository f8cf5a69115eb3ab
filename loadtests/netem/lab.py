"""The lab in memory: speech, one link, the receive paths side by side. Seconds of CPU, no process, no clock.

    6 s clean | S s under the profile | 6 s clean         the same seed gives every path the same packets

Each figure is of what was said under the profile; `mos_clean` is the same path on the same speech with nothing
wrong for all the time: the ceiling of codec and path.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gateway.caller.analysis import Windows
from loadtests.netem import score, speech
from loadtests.netem.profiles import Profile
from loadtests.netem.receivers import Received, Receiver, aiortc_as_it_comes, ours
from loadtests.netem.way import Span, Way
from media.timebase import FRAME_NS, NS_PER_MS, NS_PER_S

BEFORE_S: Final = 6.0
AFTER_S: Final = 6.0
REPAIRS: Final = ("fec", "nack", "red")
"""What mends losses: in-band FEC alone, with repeats (a browser with our page), or with redundant audio."""


@dataclass(frozen=True, slots=True)
class Sending:
    """A stream as it is coded, what mends it, and the network that it goes through."""

    profile: Profile
    coding: str
    repair: str
    seed: int

    def payloads(self, pcm: speech.Samples) -> list[bytes]:
        """As they are on the wire."""
        packets = speech.CODINGS[self.coding](pcm)
        return speech.redundant(packets) if self.repair == "red" else packets

    def receivers(self) -> dict[str, Receiver]:
        """Those that understand it: aiortc knows no redundant audio."""
        mine = functools.partial(ours, repeats=self.repair == "nack", red=self.repair == "red")
        return {"ours": mine} | ({"aiortc": aiortc_as_it_comes} if self.repair != "red" else {})

    def heard(
        self, receive: Receiver, payloads: Sequence[bytes], span: Span | None, until_ns: int
    ) -> Received:
        """What a receive path makes of the packets; `span` None: of all of them, on a clean way."""
        return receive(payloads, Way(self.profile, self.seed, payloads, span), until_ns)


@dataclass(frozen=True, slots=True)
class Measured:
    """One receive path under one profile."""

    figures: dict[str, Any]
    windows: Windows


def span_of(seconds: float) -> Span:
    """When the profile holds."""
    return Span.of(BEFORE_S, seconds)


def measure(sending: Sending, seconds: float) -> dict[str, Measured]:
    """Figures of every receive path, by its name. Raises OSError without speech."""
    said = speech.joined(speech.sentences(), BEFORE_S + seconds + AFTER_S)
    payloads, span = sending.payloads(said), span_of(seconds)
    until_ns = len(payloads) * FRAME_NS
    found = {}
    for name, receive in sending.receivers().items():
        clean = sending.heard(receive, payloads, None, until_ns)
        dirty = sending.heard(receive, payloads, span, until_ns)
        found[name] = _figures(sending.profile, said, span, clean, dirty)
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
        "repaired_packets": dirty.repaired_packets,
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


def digit_accuracy(sending: Sending, strings: int) -> dict[str, dict[str, float]]:
    """Percent of digits that pocketsphinx hears, under the profile all the time and clean, for every path."""
    chosen = speech.digit_strings()[:strings]
    gap = np.zeros(speech.RATE // 2, np.int16)
    pcm = np.concatenate([gap] + [part for one in chosen for part in (one.pcm, gap)])
    said = [one.text.split() for one in chosen]
    payloads = sending.payloads(pcm)
    until_ns = (len(payloads) + 100) * FRAME_NS
    found: dict[str, dict[str, float]] = {
        "said": {"clean": score.accuracy(said, _hear(pcm, 0, chosen, gap.size))}
    }
    for name, receive in sending.receivers().items():
        row = {}
        for word, span in (("clean", None), (sending.profile.name, Span(1, until_ns))):
            heard = sending.heard(receive, payloads, span, until_ns).heard
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
