"""Of other programs: the model server, background workers, Kamailio; and of any process."""

from __future__ import annotations

from typing import Final

from gateway import histogram
from gateway.catalogue.family import (
    GPU,
    LATE,
    LINES,
    LOST,
    MODEL,
    NOTHING,
    NS,
    REFUSED,
    STATE,
    STRANGERS,
    WORK,
    Family,
    Kind,
    count,
    count_by,
    distribution,
    gauge,
)

OF_MODEL = (
    gauge("model.up", "1: the model server answered at this scrape; without it nothing of the rest is shown",
       MODEL),
    Family("microturn_model_start_timestamp_seconds", "gauge", "when the model server began to serve", MODEL,
           {"model.start_timestamp_seconds": ()}),
    count("model.turns_total", "replies published", LATE),
    count("model.turns_overdue_total", "of them, after the budget that their worker was told", LATE),
    count("model.turns_looked_for_total", "of them, to chunks that were there at a second look only", LATE),
    count("model.turns_missed_total", "turns of calls that had no chunk at their tick", LATE),
    count("model.turns_late_total", "chunks that came after their tick: taken in, no reply", LATE),
    count("model.turns_shed_total", "replies made while something was left out", LATE),
    gauge("model.misses_per_million", "of turns whose chunk was there, whose reply was late or not published",
       LATE,
       name="model_misses_ratio", scale=1e-6),
    distribution("model_step_seconds", "from a tick's begin until its replies are published", None, LATE,
       "model.step_ns"),
    distribution("model_slack_seconds", "the budget minus the time from tick to publication, the least of the "
       "batch; below 0 "
       "is late. No sum and count, as it may be negative: the bucket `+Inf` has the count", None, LATE,
       "model.slack_ns"),
    distribution("model_tick_lateness_seconds", "how long after a tick was due it was begun", None, LATE,
       "model.tick_lateness_ns"),
    count("model.ticks_total", "ticks", LATE),
    count("model.ticks_skipped_total", "of them, overslept", LATE),
    count("model.passes_total", "passes of the network", LATE),
    gauge("model.passes_limit", "passes of the network in a turn, at most", LATE),
    gauge("model.shedding", "what is left out: 0 nothing, 1 pictures, 2 tokens, 3 new calls", LATE),
    gauge("model.step_fixed_ns", "what a predicted step takes whatever is in it", LATE,
       name="model_step_fixed_seconds", scale=NS),
    gauge("model.step_per_row_ns", "what it takes more for each call", LATE, name="model_step_per_row_seconds",
       scale=NS),
    gauge("model.step_per_position_ns", "what it takes more for each position that calls keep", LATE,
       name="model_step_per_position_seconds", scale=NS),
    gauge("model.step_predicted_full_ns", "a predicted step of a full group, 99th percentile", LATE,
       name="model_step_predicted_full_seconds", scale=NS),
    gauge("model.step_limit_ns", "what a step may take by prediction", LATE,
       name="model_step_limit_seconds", scale=NS),
    gauge("model.slots", "rows of the slot table", REFUSED),
    gauge("model.slots_leased", "of them, with a call", REFUSED),
    gauge("model.slots_resting", "of them, just freed", REFUSED),
    gauge("model.free_calls", "calls that admission would take now, one after another", REFUSED),
    count("model.leases_total", "slots that were leased", REFUSED),
    count("model.workers_attached_total", "workers that attached", MODEL),
    count("model.workers_gone_total", "workers whose connection ended", LOST),
    count("model.messages_bad_total", "messages of workers that make no sense; stays 0", MODEL),
    count("model.rows_torn_total", "rows of chunks that were written over while they were read", MODEL),
    count("model.rows_stale_total", "rows of chunks that were another tenant's", MODEL),
    count("model.publishes_refused_total", "replies without room in the worker's ring", LATE),
    count("model.resyncs_total", "times that a call's lasting lateness was taken for good", LATE),
    count("model.checks_failed_total", "what the engine keeps that was not whole; stays 0", MODEL),
    gauge("model.calls_rebuilding", "calls of a server before, whose past is appended", MODEL),
    count("model.turns_rebuilt_total", "turns that were appended from logs", MODEL),
    count("model.turns_not_rebuilt_total", "turns of logs that there was no time for", MODEL),
    count("model.calls_moved_total", "calls taken over from a server that leaves", MODEL),
    gauge("model.leaving", "1: its calls are to move to another server", MODEL),
    count("model.video_frames_total", "pictures that the engine was given", LINES),
    count("model.video_frames_missed_total", "pictures written over before they could be given", LATE),
    count("model.video_frames_overwritten_total", "pictures written over during their step", LATE),
)  # fmt: skip
OF_DIGITS = (
    gauge("model.layers_compiled", "1, or 0 where there is no C compiler: half as many calls", LATE),
    gauge("model.graphs_captured", "with a device: passes captured as CUDA graphs; 0 on a CPU", LATE),
    count("model.rank_sums_total", "with ranks: sums and gathers among them", LATE),
    count("model.rank_sum_bytes_total", "what rank 0 gave to them", LATE),
    count("model.rank_sum_ns", "time of rank 0 in them, waiting for others included; not what a GPU replays", LATE,
       name="model_rank_sum_seconds", scale=NS),
)  # fmt: skip
OF_SGLANG = (
    gauge("model.sglang_sessions", "sessions that SGLang holds", MODEL),
    gauge("model.sglang_tokens_held", "tokens of its pool that sessions hold", MODEL),
    gauge("model.sglang_tokens_limit", "what its pool has", MODEL),
    count("model.sglang_sessions_opened_total", "sessions that were opened", MODEL),
    count("model.sglang_sessions_rolled_total", "left before their share of tokens was used up", MODEL),
    count("model.sglang_sessions_given_up_total", "left after a turn without an answer; stays 0", MODEL),
    count("model.sglang_turns_unanswered_total", "turns that got silence for it; stays 0", MODEL),
    count("model.sglang_sequences_lost_total", "calls that began anew with their past words; stays 0", MODEL),
)  # fmt: skip
OF_MOSHI = (
    gauge("model.moshi_row_bytes", "memory of one call", MODEL),
    gauge("model.moshi_context_frames", "frames of 80 ms that the network remembers", MODEL),
    gauge("model.moshi_calls_beyond_context", "calls that are longer than that", MODEL),
    count("model.moshi_turns_unheard_total", "turns of its speech that nobody heard: they came late", LATE),
    count("model.moshi_lines_unread_total", "text and events, which it cannot read", WORK),
)  # fmt: skip
OF_GPU = tuple(
    Family(f"microturn_model_gpu_{name}", "gauge", told, GPU, {f"model.gpu_{name}": ()}, ("gpu",),
           listed="0, 1 ... as CUDA counts them in that process")
    for name, told in (
        ("up", "1: it answers; 0: CUDA has an error that it does not come back from, or the card is gone"),
        ("memory_used_bytes", "memory of the GPU that is taken, by whomever"),
        ("memory_total_bytes", "memory of the GPU"),
        ("memory_reserved_bytes", "of it, held by the model server's own process (torch's allocator)"),
    )
)  # fmt: skip
OF_WORKER = (
    gauge("worker_connected", "1: Redis answers", STATE),
    gauge("worker_tasks_running", "tasks that this worker is at", WORK),
    gauge("worker_tasks_limit", "how many at most (`background_tasks`)", WORK),
    count_by("worker_tasks", "tasks that are over here, by what became of them", WORK, "result",
        worker__done="done", worker__failed="failed", worker__timed_out="timed-out",
        worker__withdrawn="withdrawn", worker__broken="broken", worker__given_back="given-back"),
    count("worker.taken_over", "tasks of workers that gave no sign of life", WORK),
    distribution("worker_task_seconds", "a task from when it was taken to its end here", histogram.TASK, WORK,
       "task_time"),
    count("tools.begun", "plain functions that were called", WORK),
    count("tools.left", "of them, that nobody waits for any more", WORK),
    count("tools.left_ended", "of these, that came back after all", WORK),
    count("tools.refused", "calls of functions that hang", WORK),
)  # fmt: skip
OF_EDGE = (
    Family("microturn_proxy_refused_total", "counter", "requests that Kamailio did not pass on", STRANGERS, {},
           ("reason",), listed="banned, stranger, scanner, rate, malformed, screened, too-many-calls, "
              "no-gateway"),
    Family("microturn_proxy_gateways_active", "gauge", "1: a gateway answers OPTIONS", NOTHING, {}),
)  # fmt: skip
_OF_A_PROCESS: Final[tuple[tuple[str, Kind, str], ...]] = (
    ("process_cpu_seconds_total", "counter", "CPU of this process"),
    ("process_resident_memory_bytes", "gauge", "memory of this process"),
    ("process_virtual_memory_bytes", "gauge", "address space of this process"),
    ("process_start_time_seconds", "gauge", "when it began, Unix time"),
    ("process_open_fds", "gauge", "open descriptors"),
    ("process_max_fds", "gauge", "how many there may be"),
)
OF_PROCESS = (
    Family("microturn_build_info", "gauge", "1; the version that runs", MODEL, {"build_info": ()}, ("version",),
           listed="one"),
    *(Family(name, kind, told, "", {}) for name, kind, told in _OF_A_PROCESS),
)  # fmt: skip
