"""The recording of one call: a leg, an echoing model and real files; announcements, pauses, stops, time by hand."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gateway import control
from gateway.recording import call as module
from gateway.recording.call import CallRecording, Recorder
from gateway.recording.container import Reader
from gateway.recording.finish import sound_of
from gateway.recording.options import AnnouncementOptions, RecordingOptions
from media.chunk import Reply
from media.chunker import Chunker
from media.leg import Leg, Tenancy
from media.timebase import FRAME_NS, NS_PER_MS
from tests.support.frame_store import FrameStore

RATE, FRAME, TURN = 8_000, 160, 1_600
BEGAN_NS = 5_000_000_000


class Call:
    """A telephone call of a worker, turn by turn; the clock is ours."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, allowed: bool = True, disclosure: str = "",
        consent: str = "",
    ) -> None:  # fmt: skip
        self.folder, self.now_ns = folder, BEGAN_NS
        monkeypatch.setattr(module.time, "monotonic_ns", lambda: self.now_ns)
        self.recorder = Recorder(
            RecordingOptions(str(folder)), AnnouncementOptions(disclosure, consent), RATE
        )
        self.store = FrameStore()
        self.leg = Leg(Chunker(RATE, self.store))
        self.leg.lease(Tenancy(slot=0, generation=1, group=0, budget_ns=5 * NS_PER_MS))
        self.told: list[control.RecordingTold | control.Announced] = []
        self.recording = CallRecording(
            self.recorder, "id", "t-1", self.leg, self.told.append, lambda: BEGAN_NS, allowed=allowed
        )
        self.rng = np.random.default_rng(5)
        self.said: list[np.ndarray] = []
        self.heard: list[bytes] = []
        self.frame = self.turns = 0

    def run(self, turns: int) -> None:
        for _ in range(turns):
            for _ in range(10):
                self.now_ns = BEGAN_NS + self.frame * FRAME_NS
                self.said.append(self.rng.integers(-9_000, 9_000, FRAME).astype(np.int16))
                self.store.put(self.frame, self.said[-1], self.now_ns)
                self.heard.append(self.leg.playout.pull())
                if self.leg.tape is not None:
                    self.leg.tape.hear(self.leg.playout.next_frame - 1, self.heard[-1])
                self.frame += 1
            if self.recording.is_announcing:
                continue
            self.leg.intake.look()
            pulled_ns, self.now_ns = self.now_ns, self.now_ns + 8 * NS_PER_MS
            chunk = self.leg.cut(self.now_ns, self.now_ns, pulled_ns)
            assert chunk is not None
            self.turns += 1
            self.leg.receive_reply(Reply(chunk.generation, chunk.turn, self.now_ns, chunk.pcm))
            self.recording.poll()

    def recordings(self) -> list[np.ndarray]:
        """int16 [n, 2] of each file."""
        self.recorder.stop()
        found = []
        for path in sorted(self.folder.glob("*.part")):
            reader = Reader(io.BytesIO(path.read_bytes()))
            found.append(np.concatenate(list(sound_of(reader))))
            assert reader.is_complete
        return found

    def kinds(self) -> list[str]:
        return [told.kind if isinstance(told, control.RecordingTold) else "announced" for told in self.told]


def announcement(path: Path, seconds: float) -> str:
    soundfile.write(path, np.full(int(16_000 * seconds), 0.25, np.float32), 16_000, "PCM_16")
    return str(path)


def test_a_call_is_recorded_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Call(tmp_path, monkeypatch)
    call.run(20)
    call.recording.end()
    (sound,) = call.recordings()
    assert np.array_equal(sound[:, 1], np.frombuffer(b"".join(call.heard), np.int16))
    assert len(sound) == 20 * TURN and sound[2 * TURN :, 0].any()
    assert call.kinds() == ["allowed", "began", "ended"]
    report = call.recorder.report()
    assert (report["recordings_begun"], report["recordings_ended"]) == (1, 1)


def test_nothing_of_the_time_before_the_end_of_the_announcements_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Call(
        tmp_path, monkeypatch, disclosure=announcement(tmp_path / "machine.wav", 0.5),
        consent=announcement(tmp_path / "recorded.wav", 0.75),
    )  # fmt: skip
    call.run(6)
    assert call.turns == 0 and call.recording.is_announcing and call.kinds() == ["allowed"]
    assert call.recording.do("start", "api")[0] == 409
    call.run(14)
    call.recording.end()
    heard = np.frombuffer(b"".join(call.heard), np.int16)
    over = (25 + 38) * FRAME  # whole frames of each
    assert np.abs(heard[100 : 24 * FRAME] - 8_192).max() <= 200
    (sound,) = call.recordings()
    # turns begin at the first cut after it, at 14 * 200 ms less what a turn is long
    assert len(sound) <= 20 * TURN - over
    assert np.array_equal(sound[:, 1], heard[len(heard) - len(sound) :])
    assert not np.isin(sound[:, 1], [8_191, 8_192]).sum() > 50
    assert call.kinds() == ["allowed", "announced", "began", "ended"]
    assert call.told[1] == control.Announced("id", disclosure=True, consent=True)


def test_who_may_not_be_recorded_hears_no_consent_and_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Call(tmp_path, monkeypatch, allowed=False, consent=announcement(tmp_path / "recorded.wav", 0.75))
    call.run(3)
    assert call.turns == 3 and call.kinds() == []
    assert call.recording.do("start", "api") == (403, "no rule allows that this call is recorded")
    call.recording.end()
    assert call.recordings() == []


def test_a_pause_by_the_model_leaves_silence_and_the_model_is_told_what_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Call(tmp_path, monkeypatch)
    call.run(10)
    call.recording.act("pause")
    begin = 9 * TURN + 9 * FRAME + 64  # 8 ms after the newest frame was pulled
    call.run(5)
    assert call.recording.do("pause", "api") == (409, "it is paused already")
    call.recording.act("resume")
    call.run(5)
    call.recording.act("resume")
    call.recording.end()
    (sound,) = call.recordings()
    heard = np.frombuffer(b"".join(call.heard), np.int16)
    assert not sound[begin : begin + 5 * TURN].any()
    assert np.array_equal(sound[:begin, 1], heard[:begin])
    assert np.array_equal(sound[begin + 5 * TURN :, 1], heard[begin + 5 * TURN :])
    assert call.kinds() == ["allowed", "began", "paused", "resumed", "ended"]
    paused = call.told[2]
    assert isinstance(paused, control.RecordingTold) and (paused.by, paused.at_ms) == ("model", begin // 8)
    report = call.recorder.report()
    assert (report["recordings_paused"], report["recordings_paused_us"]) == (1, 5 * 200_000)
    chunk = call.leg.cut(call.now_ns, call.now_ns, call.now_ns)
    assert chunk is not None and chunk.events == ("recording resume failed 409",)


def test_stop_and_start_make_two_files_and_nothing_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Call(tmp_path, monkeypatch)
    call.run(5)
    assert call.recording.do("stop", "api") == (204, "")
    assert call.recording.do("pause", "api")[0] == 409
    call.run(5)
    assert call.recording.do("start", "api") == (204, "")
    assert call.recording.do("start", "api")[0] == 409
    call.run(5)
    call.recording.end()
    first, second = call.recordings()
    heard = np.frombuffer(b"".join(call.heard), np.int16)
    assert np.array_equal(first[:, 1], heard[: len(first)]) and len(first) == 5 * TURN
    assert np.array_equal(second[:, 1], heard[len(heard) - len(second) :])
    assert 0 <= 5 * TURN - len(second) < FRAME
    assert call.kinds() == ["allowed", "began", "ended", "began", "ended"]


def test_a_call_that_came_to_nothing_has_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Call(tmp_path, monkeypatch)
    call.recording.end()
    assert call.recordings() == [] and call.kinds() == ["allowed"]
