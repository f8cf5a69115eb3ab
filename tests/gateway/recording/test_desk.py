"""What is known of recordings, from a worker that tells as real ones do."""

from __future__ import annotations

from gateway import control
from gateway.recording.desk import Recorded, RecordingDesk, RecordingEvent


class Inner:
    """Whoever else hears the worker."""

    def __init__(self) -> None:
        self.heard: list[control.WorkerMessage] = []

    def welcome(self, ready: control.Ready | control.WebrtcReady, send: object) -> int:
        return 0

    def hear(self, worker: str, message: control.WorkerMessage) -> None:
        self.heard.append(message)

    def lose(self, worker: str) -> int:
        return 1


def told(kind: str, at_ms: int = 0, by: str = "rule") -> control.RecordingTold:
    return control.RecordingTold("id", kind, "file-1", at_ms, by)  # type: ignore[arg-type]


def test_what_becomes_of_a_recording_is_known_and_passed_on_until_its_call_ends() -> None:
    desk, inner = RecordingDesk(), Inner()
    door = desk.door(inner, lambda call_id: f"t-{call_id}")
    events: list[RecordingEvent] = []
    desk.watchers.append(events.append)
    assert desk.find("t-id") is None
    door.hear("sip-0", told("allowed"))
    assert desk.find("t-id") == Recorded("t-id", "off") and not events
    door.hear("sip-0", told("began"))
    assert desk.find("t-id") == Recorded("t-id", "on", "file-1")
    door.hear("sip-0", told("paused", 900, "api"))
    assert desk.find("t-id") == Recorded("t-id", "paused", "file-1")
    assert events[-1] == RecordingEvent("t-id", "paused", "file-1", 900, "api")
    door.hear("sip-0", told("resumed"))
    door.hear("sip-0", told("allowed"))  # the main process is new, its worker is not
    assert desk.find("t-id") == Recorded("t-id", "on", "file-1")
    door.hear("sip-0", control.CallEnded("id"))
    assert desk.find("t-id") is None and inner.heard == [control.CallEnded("id")]


def test_who_has_heard_our_announcements_is_told_outside_by_its_name() -> None:
    desk, heard = RecordingDesk(), []
    desk.announced.append(lambda *what: heard.append(what))
    desk.door(Inner(), lambda call_id: f"t-{call_id}").hear("sip-0", control.Announced("id", True, False))
    assert heard == [("t-id", True, False)]


def test_calls_of_a_worker_that_is_gone_are_known_no_more() -> None:
    desk = RecordingDesk()
    door = desk.door(Inner())
    door.hear("sip-0", told("allowed"))
    assert door.lose("sip-1") == 1 and desk.find("id") is not None
    assert door.lose("sip-0") == 1 and desk.find("id") is None
