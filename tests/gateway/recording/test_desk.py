"""What may be asked of recordings, against a worker that answers as real ones do."""

from __future__ import annotations

import asyncio

import pytest

from gateway import control
from gateway.recording.desk import Recorded, RecordingDesk, RecordingEvent, Refused


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


def ready() -> control.Ready:
    return control.Ready("sip-0", 1, 5070, 4, 8000, "2.17", True, [])


def test_a_pause_goes_to_the_calls_worker_and_its_event_comes_back() -> None:
    async def story() -> None:
        desk, inner, sent = RecordingDesk(), Inner(), []
        door = desk.door(inner, lambda call_id: f"t-{call_id}")
        events: list[RecordingEvent] = []
        desk.watchers.append(events.append)

        def send(packet: bytes) -> None:
            asked = control.decode_main(packet)
            assert isinstance(asked, control.Record)
            sent.append((asked.call, asked.what))
            door.hear("sip-0", told("paused", 900, "api"))
            door.hear("sip-0", control.RecordDone(asked.id, 200))

        door.welcome(ready(), send)
        door.hear("sip-0", told("allowed"))
        door.hear("sip-0", told("began"))
        assert desk.find("t-id") == Recorded("t-id", "on", "file-1")
        await desk.pause("t-id")
        assert sent == [("id", "pause")]
        assert desk.find("t-id") == Recorded("t-id", "paused", "file-1")
        assert events[-1] == RecordingEvent("t-id", "paused", "file-1", 900, "api")
        door.hear("sip-0", control.CallEnded("id"))
        assert desk.find("t-id") is None and inner.heard == [control.CallEnded("id")]
        with pytest.raises(Refused) as refused:
            await desk.stop("t-id")
        assert refused.value.status == 404

    asyncio.run(story())


def test_who_waits_for_a_worker_that_dies_or_is_silent_is_told() -> None:
    async def story() -> None:
        desk = RecordingDesk(answer_s=0.05)
        door = desk.door(Inner())
        door.welcome(ready(), lambda packet: None)
        door.hear("sip-0", told("allowed"))
        with pytest.raises(Refused) as silent:
            await desk.start("id")
        assert silent.value.status == 504
        waiting = asyncio.create_task(desk.start("id"))
        await asyncio.sleep(0)
        assert door.lose("sip-0") == 1
        with pytest.raises(Refused) as gone:
            await waiting
        assert gone.value.status == 503

    asyncio.run(story())
