"""What the page shows, in its order."""

from __future__ import annotations

from dataclasses import dataclass, field

from loadtests.page.rows import Fits, Row


@dataclass(frozen=True, slots=True)
class Line:
    """One number of a row."""

    what: str
    column: str
    form: str = "{:.1f}"
    beside: str = ""
    """Column of the same row that it is to be compared with."""
    limit: str = ""
    """What it has to keep, or cannot be better than, and who says so."""
    summary: str = ""
    """Its name in the README's table; empty where it is not in there."""


@dataclass(frozen=True, slots=True)
class Part:
    """One row, its numbers below each other; or, with `key`, the rows of one run, their numbers side by side."""

    title: str
    file: str
    """Below loadtests/results."""
    command: str
    """That makes such a row."""
    fits: Fits
    lines: tuple[Line, ...]
    plot: str = ""
    beside: str = ""
    """Heading of the column of what it is compared with."""
    key: str = ""
    about: str = ""
    ours: tuple[str, ...] = field(default=())
    """Values of `key` whose numbers are in the README's table."""


def _all(row: Row) -> bool:
    return True


def _of(column: str, wanted: str) -> Fits:
    """Rows with that value there."""
    return lambda row: row.get(column) == wanted


PARTS = (
    Part(
        "The same callers at other programs", "peers.csv", "python -m loadtests peers", _all,
        (
            Line("calls at once", "calls", "{:.0f}"),
            Line("CPU a call, % of a core", "cpu_percent_per_call", "{:.2f}"),
            Line("calls a core", "calls_a_core", "{:.0f}", summary="calls a core"),
            Line("MB a call", "mb_per_call", "{:.2f}"),
            Line("said to heard again, p50 ms", "echo_ms_p50", "{:.0f}", summary="said to heard again, p50 ms"),
            Line("p99 ms", "echo_ms_p99", "{:.0f}"),
            Line("grew, ms", "delay_grew_ms"),
            Line("not heard, %", "not_heard_percent", "{:.2f}"),
            Line("version", "version", "{}"),
            Line("does", "does", "{}"),
        ),
        plot="peers.png", key="peer",
        about="Each answers the same calls, one program after the other in one run on one machine, and sends back "
        "what it hears. Ours does so through everything that a model's call goes through: jitter buffer, "
        "resampling, 200 ms chunks, shared memory, the model server's clock, playout; so it is 200 ms later by "
        "design. sipp and asterisk do not decode: they are what the line itself costs. A program of one process "
        "that has fewer calls a core than it was given is beyond its limit, and sounds so. On the telephone side "
        "most of our cost at 40 calls is what runs anyway (the clocks of worker and model server, the spare): 100 "
        "calls cost less each (below), and the library alone is in C from end to end.",
    ),
    Part(
        "Receive paths under 5 % loss with 60 ms of jitter", "peers-lab.csv", "python -m loadtests peers", _all,
        (
            Line("MOS", "ours.mos", "{:.2f}", "aiortc.mos", "4.24 without loss",
                 "MOS at 5 % loss with 60 ms of jitter (aiortc's receive path, which Pipecat has, too)"),
            Line("delay, p50 ms", "ours.delay_ms.p50", "{:.0f}", "aiortc.delay_ms.p50"),
            Line("delay when it is over, ms", "ours.delay_ms.after", "{:.0f}", "aiortc.delay_ms.after"),
            Line("back at its floor after, ms", "ours.recovery_ms", "{:.0f}", "aiortc.recovery_ms"),
        ),
        beside="aiortc (Pipecat has its)",
        about="The same packets, in memory (`python -m loadtests netem --leg memory`). An empty field: never.",
    ),
    Part(
        "100 telephone calls", "sip.csv", "python -m loadtests sip --calls 100 --seconds 60",
        lambda row: row["calls"] == "100" and "--target" not in row["command"] and row["engine"] == "echo",
        (
            Line("answered", "answered", "{:.0f}"),
            Line("turns", "turns.total", "{:.0f}"),
            Line("of them missed", "turns.missed", "{:.0f}"),
            Line("delay beyond the chunk, p50 ms", "delay_ms.p50", limit="two packets of 20 ms, 8 ms to wake up"),
            Line("p99 ms", "delay_ms.p99"),
            Line("set-up, p50 ms", "setup_ms.p50"),
            Line("CPU a call, % of a core", "cpu_percent_per_call.total", "{:.3f}"),
            Line("sound that did not come back, ms", "gap_ms", "{:.0f}"),
        ),
        plot="sip-100.png",
    ),
    Part(
        "40 browser calls", "webrtc.csv", "python -m loadtests webrtc --calls 40 --seconds 40",
        lambda row: row["calls"] == "40" and row["system"] == "microturn" and row["loss"] == "0.0",
        (
            Line("turns", "turns.total", "{:.0f}"),
            Line("of them missed", "turns.missed", "{:.0f}"),
            Line("delay beyond the chunk, p50 ms", "delay_ms.p50"),
            Line("p99 ms", "delay_ms.p99"),
            Line("offer to first sound, p50 ms", "setup_ms.p50"),
            Line("CPU a call, % of a core", "cpu_percent_per_call.total", "{:.3f}"),
            Line("MB a call", "rss_mb_per_call", "{:.2f}"),
        ),
        plot="webrtc-microturn-40.png",
    ),
    Part(
        "How many calls a machine holds", "capacity.csv", "python -m loadtests capacity --case mixed",
        lambda row: row["case"] == "mixed",
        (
            Line("telephone (two of three) and browser calls held", "held", "{:.0f}", "beyond.calls",
                 summary="telephone and browser calls held on the machine of the row"),
            Line("of them answered", "at_limit.answered", "{:.0f}", "beyond.answered"),
            Line("refused with Retry-After", "at_limit.refused_with_retry_after", "{:.0f}",
                 "beyond.refused_with_retry_after"),
            Line("turns missed, %", "at_limit.missed_percent", "{:.3f}", "beyond.missed_percent", "0.1"),
            Line("delay beyond the chunk, p99 ms", "at_limit.delay_p99_ms", "{:.0f}", "beyond.delay_p99_ms", "100"),
            Line("CPU, % of a core", "at_limit.cpu_percent", "{:.0f}", "beyond.cpu_percent"),
            Line("as a herd in one second: set-up, p99 ms", "herd.setup_p99_ms", "{:.0f}"),
            Line("answered", "herd.answered", "{:.0f}"),
        ),
        plot="capacity-mixed.png", beside="half as many more",
    ),
    Part(
        "Calls for hours", "soak.csv", "python -m loadtests soak --minutes 120", _all,
        (
            Line("minutes", "minutes", "{:.0f}"),
            Line("calls", "calls", "{:.0f}", "answered"),
            Line("turns missed, %", "turns_missed_percent", "{:.3f}"),
            Line("delay beyond the chunk, p99 ms, last round", "delay_p99_ms_last", "{:.0f}", "delay_p99_ms_first"),
            Line("memory of all, last round, MB", "mb_last", "{:.0f}", "mb_first"),
            Line("kinds of processes that leak", "leaks", "{}", limit="none"),
        ),
        plot="soak.png", beside="answered, and in the first round",
    ),
    Part(
        "60 talking calls of the model `digits` on one core, 10 minutes", "many-calls.csv",
        "python -m model_server.bench many-calls", lambda row: row["calls"] == "60",
        (
            Line("turns", "turns", "{:.0f}"),
            Line("missed, % of them", "misses_percent", "{:.3f}", limit="0.1 (our SLO)",
                 summary="60 talking calls of `digits` on one core: turns missed, %"),
            Line("step, mean ms", "step_mean_ms"),
            Line("step, p99 at most ms", "step_at_most_ms:p99", "{:.0f}", limit="100"),
        ),
    ),
    Part(
        "Admission", "cost-curve.csv", "python -m model_server.bench cost-curve", _all,
        (
            Line("calls admitted", "admitted", "{:.0f}", "true_limit"),
            Line("of the true limit", "admitted_of_true", "{:.2f}", limit="within 0.1 of 1"),
            Line("a step, fixed ms", "fixed_ms"),
            Line("a call more, ms", "per_call_ms", "{:.2f}"),
        ),
        plot="cost-curve.png", beside="true limit",
    ),
    Part(
        "A call of four hours", "four-hours.csv", "python -m model_server.bench four-hours", _all,
        (
            Line("kept of a call when young, bytes", "kept_bytes_a_call:0", "{:.0f}"),
            Line("and when old", "kept_bytes_a_call:1", "{:.0f}"),
            Line("step time grew by", "step_grew", "{:.1%}", limit="5 %"),
            Line("strings right when old", "accuracy_old", "{:.0%}", "accuracy_young"),
        ),
        plot="four-hours.png", beside="when young",
    ),
    Part(
        "The model server killed under 60 calls", "killed.csv", "python -m model_server.bench killed",
        lambda row: row["calls"] == "60",
        (
            Line("calls lost", "calls_lost", "{:.0f}", limit="0",
                 summary="calls lost when the model server is killed under 60"),
            Line("gap, p50 s", "gap_s:p50", "{:.2f}"),
            Line("gap, longest s", "gap_s:max", "{:.2f}", limit="2", summary="the longest gap, s"),
        ),
        plot="killed-60.png",
    ),
    *(
        Part(
            f"digits-bench, in Full-Duplex-Bench's layout, {said}", "fdb.csv",
            f"python -m loadtests fdb --leg {leg}", _of("leg", leg),
            (
                Line("calls", "calls", "{:.0f}"),
                Line("take-over in pauses (1.0)", "figures.v1_0/digits_pause_handling.tor", "{:.2f}", limit="0",
                     summary=f"digits-bench, {said}: take-over in pauses"),
                Line("take-over at turns", "figures.v1_0/digits_turn_taking.tor", "{:.2f}", limit="1"),
                Line("latency of turns, mean s", "figures.v1_0/digits_turn_taking.latency_mean_s", "{:.2f}",
                     summary=f"digits-bench, {said}: latency where nobody says how many digits come, mean s"),
                Line("latency after an interruption, mean s",
                     "figures.v1_0/digits_user_interruption.latency_mean_s", "{:.2f}"),
                Line("\"stop\": goes on for, p50 s", "figures.v1_5/user_interruption.spoke_on_p50_s", "{:.2f}",
                     "figures.v1_5/user_interruption.clean_spoke_on_p50_s"),
                Line("\"yes\": goes on for, p50 s", "figures.v1_5/user_backchannel.spoke_on_p50_s", "{:.2f}",
                     "figures.v1_5/user_backchannel.clean_spoke_on_p50_s"),
                Line("somebody beside: goes on for, p50 s", "figures.v1_5/background_speech.spoke_on_p50_s",
                     "{:.2f}", "figures.v1_5/background_speech.clean_spoke_on_p50_s"),
            ),
            plot=f"fdb-digits-bench-{leg}.png", beside="undisturbed",
        )
        for leg, said in (("sip", "by telephone"), ("webrtc", "as a browser"))
    ),
    Part(
        "tau-voice's ticks against a live call", "tau.csv", "python -m loadtests tau",
        lambda row: (row["through"], row["engine"], row["stall_ms"]) == ("ticks", "echo", "0"),
        (
            Line("ticks", "ticks", "{:.0f}"),
            Line("a tick, p50 ms", "took_ms.p50", "{:.2f}", limit="200"),
            Line("late", "late_ticks", "{:.0f}"),
            Line("bytes missing", "missing_bytes", "{:.0f}"),
            Line("the echo comes back after, ms", "lag_ms", "{:.0f}"),
        ),
        plot="tau-echo-ticks.png",
    ),
    Part(
        "Faults", "faults.csv", "python -m loadtests faults", lambda row: float(row["cases"] or 0) >= 10,
        (
            Line("what has to hold", "promise", "{}"),
            Line("held", "held", "{}"),
            Line("calls", "calls", "{:.0f}"),
            Line("ended by it", "ended_calls", "{:.0f}"),
            Line("longest gap in one call, ms", "gap_ms_worst", "{:.0f}"),
            Line("in a call that it is not of, ms", "gap_ms_others", "{:.0f}"),
            Line("last gap, s after its end", "back_s_worst", "{:.2f}"),
            Line("delay changed by at most, ms", "lag_change_ms_worst", "{:.1f}"),
            Line("what did not hold", "broken", "{}"),
        ),
        plot="faults.png", key="case",
        about="What is done to a gateway under live calls of `echo`, and what its callers miss of what they say. A "
        "fault that holds for some seconds costs what was said meanwhile.",
    ),
    Part(
        "A rolling restart of the gateways under live calls", "rollout.csv", "python -m loadtests rollout", _all,
        (
            Line("calls live when it begins", "live_at_begin", "{:.0f}"),
            Line("calls placed in all", "placed", "{:.0f}"),
            Line("dropped", "dropped", "{:.0f}", limit="0",
                 summary="calls dropped in a rolling restart of the gateways"),
            Line("refused", "refused", "{:.0f}", limit="0"),
            Line("delay beyond the chunk, p50 ms", "delay_ms.p50"),
        ),
        plot="rollout.png",
    ),
    Part(
        "50 calls while Redis is away", "state-away.csv", "python -m loadtests state --case away",
        _all,
        (
            Line("turns missed", "turns_missed", "{:.0f}"),
            Line("calls begun in the outage", "begun_in_outage", "{:.0f}"),
            Line("sessions complete afterwards", "sessions_complete", "{:.0f}", "calls"),
            Line("CDRs complete afterwards", "cdrs_complete", "{:.0f}", "calls"),
            Line("written again after, s", "replayed_s"),
        ),
        plot="state-away.png", beside="calls",
    ),
    Part(
        "A gateway drained", "state-drain.csv", "python -m loadtests state --case drain", _all,
        (
            Line("calls live at SIGTERM", "live_at_sigterm", "{:.0f}"),
            Line("ended by their callers", "ended_by_caller", "{:.0f}"),
            Line("dropped", "dropped", "{:.0f}", limit="0"),
        ),
        plot="state-drain.png",
    ),
    Part(
        "One of two gateways killed", "state-killed.csv", "python -m loadtests state --case killed", _all,
        (
            Line("calls live then", "live_at_kill", "{:.0f}"),
            Line("its last lease gone after, s", "leases_expired_s"),
            Line("calls with two owners", "owned_twice", "{:.0f}", limit="0"),
            Line("calls charged twice", "charged_twice", "{:.0f}", limit="0"),
        ),
        plot="state-killed.png",
    ),
    Part(
        "100,000 requests of scanners beside live calls", "flood.csv", "python -m loadtests flood", _all,
        (
            Line("requests a second", "per_s", "{:.0f}"),
            Line("turns missed", "flood.turns_missed", "{:.0f}", "quiet.turns_missed",
                 summary="turns missed in a flood of 5,000 SIP requests a second"),
            Line("delay beyond the chunk, p99 ms", "flood.delay_ms.p99", "{:.1f}", "quiet.delay_ms.p99"),
            Line("CPU of the gateway, %", "flood.cpu_percent.gateway", "{:.1f}", "quiet.cpu_percent.gateway"),
        ),
        beside="without the flood",
    ),
    Part(
        "Recording", "recording.csv", "python -m loadtests recording", _all,
        (
            Line("CPU a call, % of a core", "cpu_percent_per_call.recorded", "{:.3f}",
                 "cpu_percent_per_call.plain"),
            Line("times a call that is not recorded", "ratio", "{:.2f}", limit="1.15"),
            Line("samples dropped", "samples_dropped", "{:.0f}", limit="0"),
        ),
        beside="not recorded",
    ),
    Part(
        "A policy of 400 rules", "safety.csv", "python -m loadtests safety --rules 400",
        lambda row: row["rules"] == "400",
        (
            Line("a reply with words, p50 us", "words_on_us.p50", "{:.0f}", "words_off_us.p50"),
            Line("p99 us", "words_on_us.p99", "{:.0f}", "words_off_us.p99", "a turn is 200,000"),
        ),
        beside="without a policy",
    ),
    Part(
        "A look at the metrics", "scrape.csv", "python -m loadtests scrape --calls 500", _all,
        (
            Line("60 real calls, p99 ms", "scrape_ms.live_60.p99", "{:.1f}"),
            Line("fed as 500 calls feed it, p99 ms", "scrape_ms.fed_500.p99", "{:.1f}",
                 "scrape_ms.fed_0.p99", "50"),
            Line("series at 500 calls", "series.fed_500", "{:.0f}", "series.fed_0"),
        ),
        plot="scrape.png", beside="no calls",
    ),
    Part(
        "Parsers against libFuzzer", "fuzz.csv", "python -m loadtests fuzz --seconds 40", _all,
        (
            Line("tries", "tries", "{:.0f}"),
            Line("edges reached", "edges", "{:.0f}"),
            Line("what broke it", "broken", "{}"),
        ),
        plot="fuzz.png", key="target",
    ),
)  # fmt: skip
