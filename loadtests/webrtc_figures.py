"""Logs of browser calls in figures: the same ones as of telephone calls, and by the same search for what was said.

    log -> sent and received time lines at 8 kHz -> `gateway.caller.analysis` -> CallReport -> figures

Received packets are laid by their RTP time stamps, decoded in order of their sequence numbers. Knows no sockets; a
run is analysed after it ended, call by call, on all cores.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from gateway.caller.analysis import FRAME_MS, ReceivedAudio, SentAudio, find_windows
from gateway.caller.report import CallReport, summarise_delay
from loadtests import report
from loadtests.webrtc_call import CallLog
from loadtests.webrtc_media import ANALYSIS_HZ, OPUS_HZ, OpusEars, Samples
from media.rtp import BadPacket, JitterEstimator, parse_packet, sequence_unwrapper, timestamp_unwrapper

DECIMATION = OPUS_HZ // ANALYSIS_HZ
FAR_S = 5.0  # a time stamp this far from what arrival says cannot be laid anywhere
# Words in the names of counters that tell what became of packets, frames and turns that went an unusual way.
COUNTED = re.compile(
    "conceal|discard|drop|duplicate|early|error|jitter_decoded|jitter_received|late|left_out|lost|malformed|missed|"
    "overflow|overrun|recover|reorder|restart|shortened|skip|stale|stray|stretched|torn|undecodable|unmatched|"
    "unsent|video_frames"
)
START_NS = 500_000_000
POOL_FROM_CALL_SECONDS = 60.0  # below it a pool costs more than it saves


@dataclass(frozen=True, slots=True)
class SystemRun:
    """One system's part of a run."""

    name: str
    logs: Sequence[CallLog]
    voices: Sequence[Samples]  # at ANALYSIS_HZ
    costs: report.Costs | None
    turns: Mapping[str, int | None]
    counted: Mapping[str, int]  # by the system itself, over the run
    generator_cpu_s: float  # in the steady state
    generator_late_ms: float


@dataclass(frozen=True, slots=True)
class _Laid:
    """One packet on the received time line."""

    number: int  # unwrapped sequence
    tick: int  # at OPUS_HZ, from the first packet's
    arrival_ns: int
    payload: bytes


def received_audio(datagrams: Sequence[bytes], arrivals_ns: Sequence[int]) -> ReceivedAudio:
    """The first SSRC's stream on a time line at ANALYSIS_HZ. Bad packets are counted, never raised."""
    packets: list[_Laid] = []
    seen: set[int] = set()
    ssrc: int | None = None
    numbers, stamps = sequence_unwrapper(), timestamp_unwrapper()
    jitter = JitterEstimator(OPUS_HZ)
    other = duplicates = reordered = 0
    for datagram, arrival_ns in zip(datagrams, arrivals_ns, strict=True):
        packet = parse_packet(datagram)
        if isinstance(packet, BadPacket) or not packet.payload or ssrc not in (None, packet.ssrc):
            other += 1
            continue
        number, stamp = numbers.unwrap(packet.sequence), stamps.unwrap(packet.timestamp)
        if ssrc is None:
            ssrc, first_stamp, first_ns = packet.ssrc, stamp, arrival_ns
        tick = stamp - first_stamp
        if abs(tick - (arrival_ns - first_ns) * OPUS_HZ // 1_000_000_000) > FAR_S * OPUS_HZ:
            other += 1
        elif number in seen:
            duplicates += 1
        else:
            reordered += bool(packets) and number < packets[-1].number
            jitter.update(arrival_ns, stamp)
            seen.add(number)
            packets.append(_Laid(number, tick, arrival_ns, packet.payload))
    lost = max(seen) - min(seen) + 1 - len(seen) if seen else 0
    pcm, start, size, arrival = _lay(packets)
    silence_ms = float(np.diff(np.sort(arrival)).max()) / 1e6 if arrival.size > 1 else 0.0
    return ReceivedAudio(
        pcm=pcm,
        rate_hz=ANALYSIS_HZ,
        start=start,
        size=size,
        arrival_ns=arrival,
        packets=len(packets) + duplicates,
        lost=lost,
        duplicates=duplicates,
        reordered=reordered,
        other=other,
        jitter_ms=jitter.jitter_ms,
        longest_silence_ms=silence_ms,
    )


def _lay(
    packets: Sequence[_Laid],
) -> tuple[Samples, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(samples, start, size, arrival) at ANALYSIS_HZ, by position."""
    ears = OpusEars()
    decoded = [(packet, ears.decode(packet.payload)) for packet in sorted(packets, key=lambda p: p.number)]
    decoded = sorted(((p, pcm) for p, pcm in decoded if pcm.size), key=lambda pair: pair[0].tick)
    if not decoded:
        nothing = np.zeros(0, dtype=np.int64)
        return np.zeros(0, dtype=np.int16), nothing, nothing, nothing
    first = decoded[0][0].tick
    wide = np.zeros(max(p.tick - first + pcm.size for p, pcm in decoded), dtype=np.int16)
    for packet, pcm in decoded:
        wide[packet.tick - first : packet.tick - first + pcm.size] = pcm
    start = np.array([packet.tick - first for packet, _ in decoded], dtype=np.int64) // DECIMATION
    size = np.array([pcm.size for _, pcm in decoded], dtype=np.int64) // DECIMATION
    arrival = np.array([packet.arrival_ns for packet, _ in decoded], dtype=np.int64)
    return soxr.resample(wide, OPUS_HZ, ANALYSIS_HZ), start, size, arrival


def sent_audio(log: CallLog, voice: Samples) -> SentAudio:
    """What one call said: its voice from its place, round and round."""
    samples = log.ptime_ms * ANALYSIS_HZ // 1000
    packets = voice.size // samples
    turned = (log.offset + np.arange(len(log.sent_ns))) % packets
    pcm = voice[: packets * samples].reshape(packets, samples)[turned].reshape(-1)
    pcm[: len(log.head)] = log.head[: len(pcm)]
    return SentAudio(
        pcm=pcm,
        rate_hz=ANALYSIS_HZ,
        packet_samples=samples,
        sent_ns=np.array(log.sent_ns, dtype=np.int64),
        carried=np.frombuffer(bytes(log.left), dtype=np.bool_),
    )


def report_call(log: CallLog, voice: Samples) -> CallReport:
    """Analyse a finished call. Its `setup_ms` is from the POST to its 201."""
    received = received_audio(log.datagrams, log.arrivals_ns)
    sent = sent_audio(log, voice)
    heard = sent.sent_ns.size > 0 and received.packets > 0
    windows = find_windows(sent, received, log.listened_until_ns) if heard else None
    return CallReport(
        uri=str(log.index),
        codec="opus",
        status=log.status,
        reason=log.reason,
        retry_after_s=log.retry_after_s,
        ended_by=log.ended_by,
        setup_ms=(log.answered_ns - log.posted_ns) / 1e6 if log.answered_ns else None,
        sent_packets=len(log.sent_ns),
        received_packets=received.packets,
        lost_packets=received.lost,
        duplicate_packets=received.duplicates,
        reordered_packets=received.reordered,
        other_datagrams=received.other + log.forged,
        send_errors=log.send_errors,
        jitter_ms=received.jitter_ms,
        longest_silence_ms=received.longest_silence_ms,
        delay_ms=summarise_delay(windows) if windows is not None else None,
        gap_ms=windows.gap_ms if windows else 0.0,
        active_ms=windows.active_ms if windows else 0.0,
        concealed_ms=received.lost
        * float(np.median(received.size) if received.size.size else 0)
        * 1000
        / ANALYSIS_HZ,
        mos=None,  # no impairment of Opus is known to ITU-T G.113
        windows=windows,
        recording=None,
        rate_hz=ANALYSIS_HZ,
    )


def report_calls(logs: Sequence[CallLog], voices: Sequence[Samples]) -> list[CallReport]:
    """All calls of a run, on all cores when they are many."""
    matching = [voices[log.voice_number] for log in logs]
    packets = sum(len(log.sent_ns) * log.ptime_ms for log in logs)
    workers = min(len(os.sched_getaffinity(0)), len(logs))
    if workers < 2 or packets < POOL_FROM_CALL_SECONDS * 1000:
        return [report_call(log, voice) for log, voice in zip(logs, matching, strict=True)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        return list(pool.map(report_call, logs, matching))


def figures(run: SystemRun, reports: Sequence[CallReport]) -> dict[str, Any]:
    """The keys of DESIGN section 11, and what only browser calls have. A call whose media never came counts as
    neither answered nor refused, but as failed."""
    up = [log.index for log in run.logs if log.first_rtp_ns]
    answered = [item for item in reports if int(item.uri) in set(up)]
    refused = [item for item in reports if not item.answered]
    result = report.figures([*answered, *refused], run.costs, run.turns)
    statuses = [str(log.status) for log in run.logs]
    result["statuses"] = {status: statuses.count(status) for status in sorted(set(statuses))}
    first_ms = [(log.first_rtp_ns - log.posted_ns) / 1e6 for log in run.logs if log.first_rtp_ns]
    connected_ms = [(log.connected_ns - log.posted_ns) / 1e6 for log in run.logs if log.connected_ns]
    result["answer_ms"] = result.pop("setup_ms")
    result["connected_ms"] = report.percentiles(np.array(connected_ms))
    result["setup_ms"] = report.percentiles(np.array(first_ms))
    result["gap_start_ms"] = sum(map(gap_at_start_ms, run.logs, reports))
    result["failed"] = len(run.logs) - len(answered) - len(refused)
    result["heard_percent"] = heard_percent(answered)
    result["packets_per_second"] = _packets_per_second([log for log in run.logs if log.first_rtp_ns])
    result["concealed_ms"] = round(sum(item.concealed_ms for item in answered), 1)
    result["sent_packets"] = sum(item.sent_packets for item in answered)
    result["dropped_packets"] = sum(log.dropped for log in run.logs)
    result["send_errors"] = sum(log.send_errors for log in run.logs)
    result["messages"] = sum(log.messages for log in run.logs)
    result["video"] = {
        "frames": sum(log.video_frames for log in run.logs),
        "key_frames_asked": sum(log.video_restarts for log in run.logs),
        "resent_packets": sum(log.video_resent for log in run.logs),
        "dropped_packets": sum(log.video_dropped for log in run.logs),
    }
    result["counted"] = dict(run.counted)
    result["generator"] = _generator(run, len(answered))
    del result["mos"]
    return result


def gap_at_start_ms(log: CallLog, item: CallReport) -> float:
    """Of a call's gaps, what was said while the other side may not have been ready to hear it."""
    if item.windows is None or not log.sent_ns:
        return 0.0
    return float((item.windows.gap_starts_ns < log.sent_ns[0] + START_NS).sum() * FRAME_MS)


def heard_percent(reports: Sequence[CallReport]) -> float | None:
    """Of the windows that could have come back, how many were found."""
    judged = sum(item.windows.judged for item in reports if item.windows is not None)
    found = sum(item.windows.delay_ms.size for item in reports if item.windows is not None)
    return round(min(100.0, 100 * found / judged), 2) if judged else None


def _packets_per_second(logs: Sequence[CallLog]) -> float | None:
    """That a call gets back, mean of all."""
    rates = [
        (len(log.arrivals_ns) - 1) * 1e9 / (log.arrivals_ns[-1] - log.arrivals_ns[0])
        for log in logs
        if len(log.arrivals_ns) > 1 and log.arrivals_ns[-1] > log.arrivals_ns[0]
    ]
    return round(float(np.mean(rates)), 2) if rates else None


def _generator(run: SystemRun, answered: int) -> dict[str, float | None]:
    """What the callers themselves cost, in the same steady state."""
    seconds = run.costs.steady_s * answered if run.costs is not None else 0.0
    per_call = round(100 * run.generator_cpu_s / seconds, 4) if seconds else None
    return {"cpu_percent_per_call": per_call, "late_ms": round(run.generator_late_ms, 2)}


def parse_counters(exposition: str) -> dict[str, int]:
    """Counters of a Prometheus text exposition that tell of trouble, summed over labels, without prefix and
    `_total`."""
    sums: dict[str, float] = {}
    for line in exposition.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if line.startswith("#") or not name.endswith("_total"):
            continue
        short = name.removeprefix("microturn_").removesuffix("_total")
        if COUNTED.search(short):
            sums[short] = sums.get(short, 0.0) + float(line.rsplit(" ", 1)[1])
    return {name: int(value) for name, value in sums.items()}


def counted_between(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """What grew, and by how much."""
    grown = {name: value - before.get(name, 0) for name, value in sorted(after.items())}
    return {name: value for name, value in grown.items() if value}


def side_by_side(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Names, and one column for each system."""
    flat = {name: report.flatten(result) for name, result in results.items()}
    every = list(dict.fromkeys(key for columns in flat.values() for key in columns))
    groups = list(dict.fromkeys(key.partition(".")[0] for key in every))
    keys = sorted(every, key=lambda key: groups.index(key.partition(".")[0]))
    width = max(map(len, keys))
    lines = [" " * width + "".join(f"  {name:>14}" for name in flat)]
    for key in keys:
        cells = (columns.get(key) for columns in flat.values())
        lines.append(
            f"{key:{width}}" + "".join(f"  {'-' if cell is None else str(cell):>14}" for cell in cells)
        )
    return "\n".join(lines)
