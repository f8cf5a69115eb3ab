"""Of clients of `/v1/realtime`: their ways in, what they send, and what they are sent."""

from __future__ import annotations

from gateway.catalogue.family import LATE, LINES, LOST, NOTHING, REFUSED, US, count

OF_REALTIME = (
    count("webrtc.attended", "clients that asked for a call", REFUSED),
    count("realtime_http.handed_over", "of them, whose connection a worker has taken", REFUSED),
    count("realtime_http.pumped", "of them, by the main process, which ends their TLS", REFUSED),
    count("realtime_http.pumped_bytes", "of them, both ways", NOTHING),
    count("realtime_events_received", "events of clients", NOTHING),
    count("realtime_events_sent", "events to them", NOTHING),
    count("realtime_errors", "of those, `error`: a client's event was not taken, or not all of it", NOTHING),
    count("realtime_left_aside", "wishes for a session that have no bearing here: voices, detectors", NOTHING),
    count("realtime_responses", "responses that were begun", NOTHING),
    count("realtime_functions", "calls of clients' functions", NOTHING),
    count("realtime_received_us", "sound of clients, what was refused included", LINES,
       name="realtime_received_seconds", scale=US),
    count("realtime_refused_us", "of it, beyond what may wait: the client was told", LATE,
       name="realtime_refused_seconds", scale=US),
    count("realtime_dropped_us", "of it, left out to catch up, or cleared by the client", LATE,
       name="realtime_dropped_seconds", scale=US),
    count("realtime_concealed_us", "silence in the middle of a live client's sound, which came late", LINES,
       name="realtime_concealed_seconds", scale=US),
    count("realtime_sounds_dropped", "frames of 20 ms that a client who does not read was not sent", LINES),
    count("realtime_clients_stuck", "calls ended since their client did not read at all", LOST),
    count("realtime_clients_slowed", "times that a client waited since it sent too many events", LINES),
)  # fmt: skip
