"""The recording of one call, and what its caller hears before anything else.

    announcing --heard to its end--> off --rule, `start`--> on <--`pause`, `resume`--> paused
                                      ^------`stop`------- on, paused;  any --call over--> off

Turns begin when the announcements are over (`is_announcing`): the model is asked then, and what is recorded begins
there. Where the consent to be recorded is announced, nothing of the time before is kept. Who may begin one is not
decided here: `allowed` is the rule's word.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import structlog

from gateway import control
from gateway.recording.announcements import read_announcement
from gateway.recording.options import AnnouncementOptions, RecordingOptions
from gateway.recording.writer import Recording, RecordingWriter
from media.leg import Leg
from media.tape import Tape
from media.timebase import FRAME_MS, NS_PER_S, samples_of

log = structlog.get_logger()

By = Literal["rule", "api", "model", "end"]
Tell = Callable[[control.RecordingTold | control.Announced], None]
ACTION: Final = "recording"
"""What the model writes, with `pause` or `resume` behind it."""


@dataclass(slots=True)
class Counters:
    """Of one worker's recordings, since its start; samples at the rate of the call."""

    recordings_paused: int = 0
    recordings_samples_paused: int = 0
    recordings_samples_said_late: int = 0
    recordings_samples_heard_late: int = 0
    announcements_heard: int = 0
    """To their end."""


class Recorder:
    """What the recordings of a worker share, whose calls have that rate. `ValueError` for announcements that cannot
    be read."""

    def __init__(
        self, recording: RecordingOptions | None, announcements: AnnouncementOptions, rate_hz: int
    ) -> None:
        self.counters = Counters()
        self._rate_hz = rate_hz
        self.writer = (
            RecordingWriter(Path(recording.folder), recording.make_key()) if recording is not None else None
        )
        self.disclosure, self.consent = (  # before the first call: reading takes milliseconds
            read_announcement(Path(file), rate_hz) if file else None
            for file in (announcements.disclosure, announcements.consent)
        )
        """int16 [n]: what tells callers that they talk to a machine, and that they are recorded."""

    def report(self) -> dict[str, int]:
        """Counters, by their short names in the metrics; of samples, their time in us."""
        counters = asdict(self.counters)
        counters |= asdict(self.writer.counters) if self.writer is not None else {}
        told: dict[str, int] = {}
        for name, count in counters.items():  # whoever sums them up knows no rate
            if "_samples_" in name:
                name, count = name.replace("_samples_", "_") + "_us", count * 1_000_000 // self._rate_hz
            told[name] = count
        return told

    def stop(self) -> None:
        """Write what waits."""
        if self.writer is not None:
            self.writer.stop()


class CallRecording:
    """Of one call in a worker; all in the thread of its calls."""

    def __init__(
        self, recorder: Recorder, call_id: str, name: str, leg: Leg[Any], tell: Tell,
        first_pull_ns: Callable[[], int], *, allowed: bool, announces: bool = True,
    ) -> None:  # fmt: skip
        """`name` is the call's outside, `first_pull_ns` when its ear was served first (monotonic). Where it
        does not announce, its caller has heard it all before."""
        self._recorder, self._call_id, self._name, self._leg, self._tell = recorder, call_id, name, leg, tell
        self._first_pull_ns, self._rate_hz = first_pull_ns, leg.intake.rate_hz
        self.allowed = allowed and recorder.writer is not None
        self._file: Recording | None = None
        self._by: By = "rule"
        disclosure = recorder.disclosure if announces else None
        consent = recorder.consent if announces and self.allowed else None
        self._discloses, self._asks = disclosure is not None, consent is not None
        self._begun = False
        for sound in (disclosure, consent):
            if sound is not None:
                leg.playout.announce(sound)
        self.tell_again()
        if not leg.playout.is_announcing:
            self._begin_conversation()

    @property
    def is_announcing(self) -> bool:
        """No turn is cut yet."""
        if not self._begun and not self._leg.playout.is_announcing:
            self._begin_conversation()
        return not self._begun

    def tell_again(self) -> None:
        """The main process is new: what it has to know."""
        if self.allowed:
            self._tell(control.RecordingTold(self._call_id, "allowed"))
            if self._file is not None:
                paused = self._leg.tape is not None and self._leg.tape.is_paused
                self._told("paused" if paused else "began", "rule")

    def poll(self) -> None:
        """What both sides have until now goes to the disk: after each turn, and where there are none once a
        second."""
        tape, writer = self._leg.tape, self._recorder.writer
        if tape is None or writer is None:
            return
        block = tape.take()
        if block is not None:
            writer.put(self._opened(), block)

    def do(self, what: str, by: By) -> tuple[int, str]:
        """`start`, `stop`, `pause` or `resume`. A status as in `control.Done`, and why."""
        tape = self._leg.tape
        if not self.allowed:
            return 403, "no rule allows that this call is recorded"
        if not self._begun:
            return 409, "its caller still hears that it is recorded"
        if what == "start":
            if tape is not None:
                return 409, "it is recorded already"
            self._start(self._place(), by)
            return 204, ""
        if tape is None:
            return 409, "it is not recorded now"
        match what:
            case "stop":
                self._stop(by)
            case "pause":
                if tape.is_paused:
                    return 409, "it is paused already"
                tape.pause(self._place())
                self._recorder.counters.recordings_paused += 1
                self._told("paused", by)
            case "resume":
                if not tape.is_paused:
                    return 409, "it is not paused"
                self._recorder.counters.recordings_samples_paused += tape.resume(self._place())
                self._told("resumed", by)
            case _:
                return 400, "expected start, stop, pause or resume"
        return 204, ""

    def act(self, value: str) -> None:
        """The model's action: `pause` or `resume`; it is told when that does not come about."""
        status = self.do(value, "model")[0] if value in ("pause", "resume") else 400
        if status != 204:
            self._leg.receive_event(f"{ACTION} {value[:16]} failed {status}")

    def end(self) -> None:
        """The call is over."""
        if self._leg.tape is not None:
            self._stop("end")

    # -- inside

    def _begin_conversation(self) -> None:
        self._begun = True
        if self._discloses or self._asks:
            self._recorder.counters.announcements_heard += 1
            self._tell(control.Announced(self._call_id, self._discloses, self._asks))
        if self.allowed:
            self._start(self._leg.playout.announced_to * samples_of(FRAME_MS, self._rate_hz), "rule")

    def _place(self) -> int:
        """Of now, on the ear's clock."""
        first_ns = self._first_pull_ns()
        return (time.monotonic_ns() - first_ns) * self._rate_hz // NS_PER_S if first_ns else 0

    def _start(self, not_before: int, by: By) -> None:
        self._leg.tape, self._by = Tape(self._rate_hz, not_before), by

    def _opened(self) -> Recording:
        """Its file; with its first sound, so that calls that come to nothing have none."""
        if self._file is None:
            assert self._recorder.writer is not None
            self._file = self._recorder.writer.open(self._name, self._rate_hz)
            self._told("began", self._by)
        return self._file

    def _stop(self, by: By) -> None:
        tape, writer = self._leg.tape, self._recorder.writer
        assert tape is not None and writer is not None
        counters = self._recorder.counters
        if tape.is_paused:
            counters.recordings_samples_paused += tape.resume(self._place())
        block = tape.take(to_the_end=True)
        if block is not None:
            writer.put(self._opened(), block)
        counters.recordings_samples_said_late += tape.counters.said_late
        counters.recordings_samples_heard_late += tape.counters.heard_late
        if self._file is not None:
            writer.close(self._file, tape.length)
            self._told("ended", by)
        self._leg.tape = self._file = None

    def _told(self, kind: Literal["began", "paused", "resumed", "ended"], by: By) -> None:
        file, tape = self._opened(), self._leg.tape
        at = tape.place_of(self._place()) if tape is not None and kind != "began" else 0
        log.info("recording", call=self._call_id, what=kind, by=by, file=file.name)
        at_ms = at * 1000 // self._rate_hz
        self._tell(control.RecordingTold(self._call_id, kind, file.name, at_ms, by))
