"""A child that dies comes back at once, one that keeps dying does not spin, and the end is the end."""

from __future__ import annotations

import asyncio
import sys

import pytest

from gateway.supervise import MOST_PATIENCE_S, Child, command, patience_s


def test_the_first_death_costs_nothing_and_more_cost_ever_more() -> None:
    waits = [patience_s(deaths) for deaths in range(20)]
    assert waits[:4] == [0.0, 0.0, 0.1, 0.2] and waits == sorted(waits) and waits[-1] == MOST_PATIENCE_S


@pytest.mark.processes
def test_a_killed_child_comes_back_and_a_stopped_one_does_not() -> None:
    async def story() -> tuple[int, int, int]:
        died = asyncio.Event()
        child = Child("sleeper", command([sys.executable, "-c", "input()"], quiet=True), died=died.set)
        died.clear()
        keeper = asyncio.create_task(child.keep())  # `input` ends at once: standard input is empty
        await asyncio.wait_for(died.wait(), 10)
        await child.stop(5)
        await asyncio.wait_for(keeper, 10)
        return child.restarts, child.pid, int(keeper.done())

    restarts, pid, done = asyncio.run(story())
    assert restarts >= 1 and pid == 0 and done == 1


@pytest.mark.processes
def test_one_that_was_replaced_may_end_and_the_other_is_kept_alive() -> None:
    async def story() -> None:
        sleeper = command([sys.executable, "-c", "import time; time.sleep(60)"], quiet=True)
        child = Child("sleeper", sleeper)
        keeper = asyncio.create_task(child.keep())
        while child.process is None:
            await asyncio.sleep(0.01)
        first, second = child.process, await sleeper()
        child.replace(second)
        first.kill()
        await first.wait()
        await asyncio.sleep(0.05)
        assert child.process is second and child.restarts == 0
        second.kill()
        while child.process is second or child.process is None:
            await asyncio.sleep(0.01)
        assert child.restarts == 1
        await child.stop(5)
        await keeper

    asyncio.run(asyncio.wait_for(story(), 20))
