"""A spare worker is there before it is needed, is the one that is taken, and does not outlive its main process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from gateway.spare import Spares

pytestmark = pytest.mark.processes
KIND = "gateway.sip"
WRONG = b'"no options of a worker"'


def test_the_spare_is_taken_and_the_next_is_a_new_one() -> None:
    async def story() -> None:
        spares = Spares()
        await spares.provide(KIND)
        await spares.provide(KIND)  # there is one already
        spare = spares._waiting[KIND]
        taken = await spares.start(KIND, WRONG)
        other = await spares.start(KIND, WRONG)
        assert taken is spare and other.pid != taken.pid
        assert await asyncio.gather(taken.wait(), other.wait()) == [1, 1], "both heard what they were told"

    asyncio.run(asyncio.wait_for(story(), 30))


def test_a_spare_that_died_is_not_taken() -> None:
    async def story() -> None:
        spares = Spares()
        await spares.provide(KIND)
        spare = spares._waiting[KIND]
        os.kill(spare.pid, signal.SIGKILL)
        await spare.wait()
        taken = await spares.start(KIND, WRONG)
        assert taken is not spare and await taken.wait() == 1

    asyncio.run(asyncio.wait_for(story(), 30))


def test_spares_end_with_who_keeps_them() -> None:
    async def story() -> None:
        spares = Spares()
        await spares.provide(KIND)
        spare = spares._waiting[KIND]
        spares.close()
        assert await spare.wait() == 0
        await spares.provide(KIND)
        assert not spares._waiting, "closed"

    asyncio.run(asyncio.wait_for(story(), 30))


def test_a_spare_sees_that_its_main_process_was_killed() -> None:
    main = "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-m', 'gateway.sip'], stdin=-1); "
    main += "print(p.pid, flush=True); time.sleep(60)"

    async def story() -> None:
        keeper = await asyncio.create_subprocess_exec(
            sys.executable, "-c", main, stdout=asyncio.subprocess.PIPE
        )
        assert keeper.stdout is not None
        spare = int(await keeper.stdout.readline())
        watched = os.pidfd_open(spare)
        try:
            keeper.kill()
            await keeper.wait()
            gone = asyncio.Event()
            asyncio.get_running_loop().add_reader(watched, gone.set)
            await gone.wait()
            asyncio.get_running_loop().remove_reader(watched)
        finally:
            os.close(watched)

    asyncio.run(asyncio.wait_for(story(), 30))
