"""The clock of all calls, struck by hand."""

from __future__ import annotations

import asyncio

import pytest

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
    assert len(set(waits)) >= 2
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


class Counted(Speaker):
    """Speaks until it has said enough."""

    def __init__(self, enough: int) -> None:
        super().__init__()
        self.enough, self.said = enough, asyncio.Event()

    def speak(self, due_ns: int) -> None:
        super().speak(due_ns)
        if len(self.spoken) == self.enough:
            self.said.set()


def test_the_clock_runs_while_somebody_is_on_it_and_again_for_the_next() -> None:
    async def story() -> None:
        pacer = Pacer()
        before = Counted(3)
        pacer.add(before, 0)
        running = asyncio.create_task(pacer.run())
        async with asyncio.timeout(10):
            await before.said.wait()
            pacer.remove(before)
            heard = len(before.spoken)
            after = Counted(3)
            pacer.add(after, 5 * NS_PER_MS)
            await after.said.wait()
        assert len(before.spoken) == heard
        assert {at % FRAME_NS for at in after.spoken} == {at % FRAME_NS for at in after.spoken[:1]}
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        spoken = len(after.spoken)
        await asyncio.sleep(0.05)
        assert len(after.spoken) == spoken  # its timer went with it

    asyncio.run(story())


def test_a_fault_of_the_clock_itself_is_told_to_who_runs_it() -> None:
    class Hopeless(Broken):
        def fail(self, wrong: Exception) -> None:
            raise RuntimeError("nor an end")

    async def story() -> None:
        pacer = Pacer()
        pacer.add(Hopeless(), 0)
        async with asyncio.timeout(10):
            with pytest.raises(RuntimeError, match="nor an end"):
                await pacer.run()

    asyncio.run(story())
