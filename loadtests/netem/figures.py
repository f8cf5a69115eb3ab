"""A live run in figures: what the gateway heard, what the caller heard, how late, and how soon it was over.

Two MOS of their own: PESQ against what was said, and what the E-model expects of that loss and delay (telephone
calls only: no impairment of Opus is known to ITU-T G.113). A telephone call is judged by P.862.1 at 8 kHz, one of a
browser by P.862.2 at 16 kHz; the two scales are not the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import soxr
from numpy.typing import NDArray

from gateway.caller.analysis import Windows
from gateway.caller.codec import find_codec
from loadtests.netem import profiles, score, speech
from loadtests.netem.calls import LiveCall, LivePlan, LiveRun, ended, spell_ns
from media.codecs.opus import OpusDecoder
from media.conceal import extend
from media.jitter import JitterBuffer
from media.quality import estimate_mos
from media.rtp import BadPacket, parse_packet
from media.sound import Decoder
from media.timebase import FRAME_NS, NS_PER_MS, NS_PER_S, TURN_NS

CHUNK_MS: Final = 200.0


class TelephoneDecoder:
    """G.711 with the concealment of its Appendix I: a telephone's receiving half."""

    def __init__(self, codec: str) -> None:
        self._codec = find_codec(codec)
        self._history = np.zeros(0, np.int16)
        self._made_up = 0

    def decode(self, payload: bytes) -> speech.Samples:
        pcm = self._codec.decode(payload)
        self._made_up = 0
        self._history = np.concatenate((self._history, pcm))[-self._codec.rate_hz // 20 :]
        return pcm

    def recover(self, following: bytes, samples: int) -> speech.Samples:
        return self.conceal(samples)

    def conceal(self, samples: int) -> speech.Samples:
        pcm = extend(self._history, samples, self._codec.rate_hz, self._made_up)
        self._made_up += samples
        return pcm

    def duration(self, payload: bytes) -> int:
        return len(payload) * self._codec.samples_per_tick

    def recoverable(self, payload: bytes) -> int:
        return 0

    def is_pause(self, payload: bytes) -> bool:
        return False


def heard_by_caller(call: LiveCall, decoder: Decoder, rate_hz: int, clock_hz: int) -> score.Heard:
    """The call's RTP through our `JitterBuffer` in its own time, at `speech.RATE`."""
    buffer = JitterBuffer(decoder, rate_hz, clock_hz)
    begin_ns = call.arrivals_ns[0] + TURN_NS
    at_ns, parts = begin_ns, []
    for datagram, arrival_ns in zip(call.datagrams, call.arrivals_ns, strict=True):
        while at_ns < arrival_ns:
            parts.append(buffer.cut(at_ns).pcm)
            at_ns += TURN_NS
        packet = parse_packet(datagram)
        if not isinstance(packet, BadPacket) and packet.payload:
            buffer.receive_packet(packet.ssrc, packet.sequence, packet.timestamp, packet.payload, arrival_ns)
    pcm = np.concatenate(parts) if parts else np.zeros(0, np.int16)
    if rate_hz != speech.RATE:
        pcm = soxr.resample(pcm, rate_hz, speech.RATE)
    return score.Heard(pcm, begin_ns - TURN_NS)


def _heard(call: LiveCall, plan: LivePlan) -> score.Heard:
    if plan.leg == "webrtc":
        return heard_by_caller(call, OpusDecoder(speech.RATE), speech.RATE, speech.OPUS_HZ)
    rate_hz = find_codec(plan.codec).rate_hz
    return heard_by_caller(call, TelephoneDecoder(plan.codec), rate_hz, rate_hz)


def call_figures(call: LiveCall, plan: LivePlan, said: speech.Samples) -> tuple[dict[str, Any], Windows]:
    """Of one call, by spell: PESQ, delay beyond the chunk and the two ways' shortest, and recovery."""
    narrow = plan.leg == "sip"
    up, down = (profiles.find(plan.profile, way) for way in ("up", "down"))
    beyond_ms = CHUNK_MS + up.base_ms + down.base_ms
    heard, said_ns = _heard(call, plan), call.began_ns - FRAME_NS
    windows = score.windows_of(said, said_ns, heard)
    found: dict[str, Any] = {}
    spells = {spell.name: spell_ns(call, spell) for spell in plan.timeline.spells}
    floor_ms = _median(score.between(windows, *spells["clean"]))
    for name, (from_ns, until_ns) in spells.items():
        delays = score.between(windows, from_ns, until_ns)
        lag_ms = _median(delays) if delays.size else floor_ms
        found[f"mos_{name}"] = score.mos(said, said_ns, heard, lag_ms, from_ns, until_ns, narrow=narrow)
        found[f"delay_{name}"] = delays - beyond_ms
    ends = {"up": _events(up, *spells["up"]), "down": _events(down, *spells["down"])}
    until = {"up": spells["down"][0] - NS_PER_S, "down": call.arrivals_ns[-1] - NS_PER_S}
    for way, events in ends.items():
        times = [score.recovery_ms(windows, floor_ms, at_ns, until[way]) for at_ns in events]
        found[f"recovery_{way}"] = None if None in times else max(time for time in times if time is not None)
    return found, windows


def _events(profile: profiles.Profile, from_ns: int, until_ns: int) -> list[int]:
    """When something was over: each stall, and the bad spell, which began `EARLY_S` before."""
    began_ns = from_ns - NS_PER_S
    ends = [began_ns + round(at_s * NS_PER_S + ms * NS_PER_MS) for at_s, ms in profile.stalls]
    return [at_ns for at_ns in ends if at_ns < until_ns] + [until_ns]


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if values.size else float("nan")


def figures(run: LiveRun, plan: LivePlan) -> tuple[dict[str, Any], list[Windows]]:
    """The JSON object of one run (DESIGN section 11). `mos` is what the gateway heard of the caller through the
    bad way up, `mos_caller` what the caller heard through the bad way down, `mos_clean` both with nothing wrong."""
    up = ended(run.calls)
    rows, windows = [], []
    for call in up:
        row, found = call_figures(call, plan, run.said)
        rows.append(row)
        windows.append(found)
    delays = {name: _together([row[f"delay_{name}"] for row in rows]) for name in ("clean", "up", "down")}
    result: dict[str, Any] = {
        "profile": plan.profile,
        "leg": plan.leg,
        "codec": plan.codec if plan.leg == "sip" else "opus",
        "answered": len(up),
        "failed": plan.calls - len(up),
        "mos": _mean([row["mos_up"] for row in rows]),
        "mos_clean": _mean([row["mos_clean"] for row in rows]),
        "mos_caller": _mean([row["mos_down"] for row in rows]),
        "mos_scale": "P.862.1 narrowband" if plan.leg == "sip" else "P.862.2 wideband",
        "mos_expected": _expected(run, plan, delays["up"]),
        "delay_ms": _percentiles(np.concatenate((delays["up"], delays["down"]))),
        "delay_clean_ms": _percentiles(delays["clean"]),
        "delay_up_ms": _percentiles(delays["up"]),
        "delay_down_ms": _percentiles(delays["down"]),
        "recovery_ms": _worst([row[f"recovery_{way}"] for row in rows for way in ("up", "down")]),
        "recovery_up_ms": _worst([row["recovery_up"] for row in rows]),
        "recovery_down_ms": _worst([row["recovery_down"] for row in rows]),
        "missed_turns": run.turns.get("missed"),
        "turns": dict(run.turns),
        "counted": dict(run.counted),
        "wire": dict(run.wire),
        "link": "tun",
        "cpu_percent_per_call": dict(run.cpu_percent),
    }
    return result, windows


def _expected(run: LiveRun, plan: LivePlan, delays: NDArray[np.float64]) -> float | None:
    """E-model of the way up: what the wire lost of its packets while it was bad, and half the round trip."""
    if plan.leg != "sip" or not delays.size:
        return None
    account = run.wire.get("up", {})
    gone = account.get("lost", 0) + account.get("overflowed", 0)
    bad_packets = (plan.seconds + 1) * NS_PER_S / FRAME_NS * plan.calls
    profile = profiles.find(plan.profile)
    round_trip_ms = float(np.median(delays)) + CHUNK_MS + 2 * profile.base_ms
    return round(estimate_mos(plan.codec, round_trip_ms / 2, min(100.0, 100 * gone / bad_packets)), 2)


def _together(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate(parts) if parts else np.zeros(0)


def _percentiles(values: NDArray[np.float64]) -> dict[str, float | None]:
    if not values.size:
        return dict.fromkeys(("p50", "p95", "p99", "max"))
    found = [*np.percentile(values, [50, 95, 99]), values.max()]
    return {
        name: round(float(value), 1) for name, value in zip(("p50", "p95", "p99", "max"), found, strict=True)
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 2) if known else None


def _worst(values: Sequence[float | None]) -> float | None:
    """None when one never recovered, or there is none."""
    known = [value for value in values if value is not None]
    return round(max(known), 1) if values and len(known) == len(values) else None
