"""A live run in figures: what the gateway heard, what the caller heard, how late, and how soon it was over.

Two MOS of their own: PESQ against what was said, and what the E-model expects of that loss and delay (telephone
calls only: no impairment of Opus is known to ITU-T G.113). A telephone call is judged by P.862.1 at 8 kHz, one of a
browser by P.862.2 at 16 kHz; the two scales are not the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import soxr
from numpy.typing import NDArray

from gateway.caller.analysis import Windows
from gateway.caller.codec import find_codec
from loadtests.netem import profiles, score, speech
from loadtests.netem.calls import LiveCall, LivePlan, LiveRun, Spell, ended, spell_ns
from loadtests.netem.listener import Listener
from media.codecs.g711 import G711Decoder, decode_alaw, decode_mulaw
from media.codecs.opus import OpusDecoder
from media.quality import estimate_mos
from media.rtp import BadPacket, parse_packet
from media.sound import Decoder
from media.timebase import FRAME_NS, NS_PER_MS, NS_PER_S, TURN_NS

CHUNK_MS: Final = 200.0
FAR_ENDS: Final = {
    "webrtc": "media/jitter.py",
    "sip": "media/jitter.py, G.711 Appendix I",
    "chromium": "NetEq",
}
"""What hears at the caller's end."""
LAWS: Final = {"PCMU": decode_mulaw, "PCMA": decode_alaw}


def heard_by_caller(call: LiveCall, decoder: Decoder, rate_hz: int, clock_hz: int) -> score.Heard:
    """The call's RTP through our receive path in its own time, at `speech.RATE`."""
    listener = Listener(decoder, rate_hz, clock_hz, call.arrivals_ns[0] + TURN_NS, call.red)
    for index, (datagram, arrival_ns) in enumerate(zip(call.datagrams, call.arrivals_ns, strict=True)):
        packet = parse_packet(datagram)
        if not isinstance(packet, BadPacket) and packet.payload:
            listener.receive(packet, arrival_ns, repeated=index in call.repeated)
    heard = listener.heard()
    if rate_hz == speech.RATE:
        return heard
    return score.Heard(soxr.resample(heard.pcm, rate_hz, speech.RATE), heard.start_ns)


def _heard(call: LiveCall, plan: LivePlan) -> score.Heard:
    if call.heard is not None:
        return call.heard
    if plan.leg == "webrtc":
        return heard_by_caller(call, OpusDecoder(speech.RATE), speech.RATE, speech.OPUS_HZ)
    rate_hz = find_codec(plan.codec).rate_hz
    return heard_by_caller(call, G711Decoder(LAWS[plan.codec]), rate_hz, rate_hz)


def call_figures(call: LiveCall, plan: LivePlan, said: speech.Samples) -> tuple[dict[str, Any], Windows]:
    """Of one call, by spell: PESQ, delay beyond the chunk and the two ways' shortest, and recovery."""
    narrow = plan.leg == "sip"
    up, down = (profiles.find(plan.profile, way) for way in ("up", "down"))
    beyond_ms = CHUNK_MS + up.base_ms + down.base_ms
    heard, said_ns = _heard(call, plan), call.said_ns or call.began_ns - FRAME_NS
    windows = score.windows_of(said, said_ns, heard)
    found: dict[str, Any] = {}
    spells = {spell.name: spell_ns(call, spell) for spell in plan.timeline.spells}
    floor_ms = _median(score.between(windows, *spells["clean"]))
    for name, (from_ns, until_ns) in spells.items():
        delays = score.between(windows, from_ns, until_ns)
        lag_ms = _median(delays) if delays.size else floor_ms
        found[f"mos_{name}"] = score.mos(said, said_ns, heard, lag_ms, from_ns, until_ns, narrow=narrow)
        found[f"delay_{name}"] = delays - beyond_ms
    network = {spell.name: _network_ns(call, spell) for spell in plan.timeline.spells}
    ends = {"up": _events(up, *network["up"]), "down": _events(down, *network["down"])}
    last_ns = heard.start_ns + len(heard.pcm) * NS_PER_S // speech.RATE - round(floor_ms * NS_PER_MS)
    until = {"up": network["down"][0] - NS_PER_S, "down": last_ns - NS_PER_S}
    for way, events in ends.items():
        times = [score.recovery_ms(windows, floor_ms, at_ns, until[way]) for at_ns in events]
        found[f"recovery_{way}"] = None if None in times else max(time for time in times if time is not None)
    return found, windows


def _network_ns(call: LiveCall, spell: Spell) -> tuple[int, int]:
    """When the wire, which counts from the first packet, took it to be said."""
    return call.began_ns + round(spell.from_s * NS_PER_S), call.began_ns + round(spell.until_s * NS_PER_S)


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
        "far_end": FAR_ENDS[plan.leg],
        "repair": None if plan.leg == "sip" else plan.repair,
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
        "cpu_us_per_turn": _cpu_us(run, plan, "up"),
        "cpu_us_per_turn_clean": _cpu_us(run, plan, "clean"),
        "caller": _sums([call.counted for call in up]),
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


def _cpu_us(run: LiveRun, plan: LivePlan, name: str) -> float | None:
    """Of the workers for 200 ms of one call, both ways and all else of it, while X was said under `name`."""
    spell = next(spell for spell in plan.timeline.spells if spell.name == name)
    spent = [run.watch.cpu_s(*spell_ns(call, spell)) for call in ended(run.calls)[:1]]
    if not spent or spent[0] is None:
        return None
    return round(1e6 * spent[0] / (plan.seconds * NS_PER_S / TURN_NS) / plan.calls, 1)


def _sums(counted: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for one in counted for name in one)
    return {name: sum(one.get(name, 0) for one in counted) for name in names}


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
