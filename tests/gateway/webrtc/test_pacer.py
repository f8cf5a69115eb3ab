"""The clock of all calls, struck by hand."""

from __future__ import annotations

from gateway.webrtc.pacer import CROWD_NS, SLOTS, STEP_NS, Pacer
from media.timebase import FRAME_NS, NS_PER_MS


class Speaker:
    def __init__(self) -> None:
        self.spoken: list[int] = []
        self.failed: list[Exception] = []

    def speak(self, due_ns: int) -> None:
        self.spoken.append(due_ns)

    def fail(self, wrong: Exception) -> None:
        self.failed.append(wrong)


class Broken(Speaker):
    def speak(self, due_ns: int) -> None:
        raise RuntimeError("no voice")


def test_each_speaks_every_20_ms_at_its_own_place() -> None:
    pacer, speaker = Pacer(), Speaker()
    pacer.add(speaker, 7 * NS_PER_MS)
    for step in range(10 * SLOTS):
        pacer.strike(step)
    gaps = {b - a for a, b in zip(speaker.spoken, speaker.spoken[1:], strict=False)}
    assert len(speaker.spoken) == 10 and gaps == {FRAME_NS}
    wait_ns = (speaker.spoken[0] - 7 * NS_PER_MS) % FRAME_NS
    assert wait_ns < STEP_NS


def test_a_crowd_spreads_to_the_places_behind() -> None:
    pacer, speakers = Pacer(), [Speaker() for _ in range(60)]
    for speaker in speakers:
        pacer.add(speaker, 0)
    for step in range(SLOTS):
        pacer.strike(step)
    waits = [speaker.spoken[0] % FRAME_NS for speaker in speakers]
    fullest = max(waits.count(wait) for wait in set(waits))
    assert waits[0] == 0
    assert len(set(waits)) >= 3
    assert fullest * CROWD_NS <= 3 * STEP_NS + CROWD_NS  # a place is left when the next ones are cheaper


def test_who_breaks_is_taken_off_and_the_others_speak_on() -> None:
    pacer, broken, speaker = Pacer(), Broken(), Speaker()
    pacer.add(broken, 0)
    pacer.add(speaker, 0)
    for step in range(3 * SLOTS):
        pacer.strike(step)
    assert len(broken.failed) == 1
    assert len(speaker.spoken) == 3


def test_who_left_speaks_no_more() -> None:
    pacer, speaker = Pacer(), Speaker()
    pacer.add(speaker, 0)
    pacer.remove(speaker)
    pacer.remove(speaker)
    for step in range(SLOTS):
        pacer.strike(step)
    assert speaker.spoken == []
