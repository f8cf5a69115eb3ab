"""One rank's death is the death of all; started anew, they go on where the calls' turns are."""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.engine import LOST_STATUS, personas
from model_server.ranks.engine import EngineOptions
from model_server.ranks.leader import RankedEngine
from model_server.ranks.watch import SILENCE_NS

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[3]
PATIENCE_S = 60
SOON_S = 8.0
"""From a death until all are gone. It takes milliseconds; the rest is for a machine that is busy."""


class Leader:
    """`lead.py`, with the ranks that it started."""

    def __init__(self, checkpoint: Path, ranks: int, turns: int) -> None:
        script = Path(__file__).with_name("lead.py")
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'kernels'}{os.pathsep}{ROOT}",
            "OMP_NUM_THREADS": "1",
        }
        self.popen = subprocess.Popen(
            [sys.executable, str(script), str(checkpoint), str(ranks), str(turns)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.others: list[int] = json.loads(self._pids())

    def _pids(self) -> str:
        for line in self.lines():
            if line.startswith("["):
                return line
        raise AssertionError(f"no ranks: {self.popen.communicate()[1][-2000:]}")

    def lines(self) -> Iterator[str]:
        assert self.popen.stdout
        until = time.monotonic() + PATIENCE_S
        while select.select([self.popen.stdout], [], [], max(0, until - time.monotonic()))[0]:
            line = self.popen.stdout.readline()
            if not line:
                return
            yield line

    def ended(self, since: float) -> tuple[int, str, float]:
        """Exit status, what it said, seconds until it and all others were gone."""
        _, said = self.popen.communicate(timeout=PATIENCE_S)
        while any(alive(pid) for pid in self.others):
            assert time.monotonic() - since < PATIENCE_S, self.others
            time.sleep(0.01)
        return self.popen.returncode, said, time.monotonic() - since

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.communicate()


def alive(pid: int) -> bool:
    """Neither gone nor waiting to be asked for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def start() -> Iterator[Callable[..., Leader]]:
    leaders: list[Leader] = []

    def make(*details: object) -> Leader:
        leaders.append(Leader(*details))  # type: ignore[arg-type]
        return leaders[-1]

    yield make
    for leader in leaders:
        leader.end()


def test_a_rank_killed_in_the_middle_of_steps_ends_all_four(four: Path, start: Callable[..., Leader]) -> None:
    leader = start(four, 4, -1)
    assert len(leader.others) == 3
    os.kill(leader.others[1], signal.SIGKILL)
    status, said, seconds = leader.ended(time.monotonic())
    assert status == LOST_STATUS and seconds < SOON_S, seconds
    assert f"rank 2 (process {leader.others[1]}) ended: killed by SIGKILL" in said


def test_killed_between_steps_ranks_end_too_and_start_anew_where_the_call_was(
    two: Path, start: Callable[..., Leader], rebuilt: list[str]
) -> None:
    leader = start(two, 2, 20)
    texts = [json.loads(line) for line in itertools.islice(leader.lines(), 20)]
    assert len(texts) == 20 and len(set(texts)) > 2
    os.kill(leader.others[0], signal.SIGKILL)
    status, said, seconds = leader.ended(time.monotonic())
    assert status == LOST_STATUS and seconds < SOON_S and "a rank is lost" in said, (seconds, said)
    assert rebuilt == texts[12:], "the turns before were given again as chunks that came late"


@pytest.fixture
def rebuilt(two: Path) -> list[str]:
    """What a new team says of turns 12 .. 19, when it is given turns 0 .. 11 at once with the first of them."""
    from media.chunk import Chunk
    from tests.model_server.ranks.lead import CALLS, batch, chunks, texts

    said = []
    with RankedEngine(EngineOptions(two, personas.DEFAULT, products="float32"), 2) as engine:
        for slot in range(CALLS):
            engine.open(slot, "")
        for turn in range(12, 20):
            plan = batch(turn)
            if turn == 12:
                for slot in range(CALLS):
                    older = tuple(Chunk(1, past, 0, chunks(past)[slot]) for past in range(12))
                    plan.earlier[slot] = older  # type: ignore[index]
            said.append(texts(engine.step(plan)))
    return said


def test_without_rank_0_there_are_no_others(two: Path, start: Callable[..., Leader]) -> None:
    leader = start(two, 2, -1)
    leader.popen.kill()
    status, _, seconds = leader.ended(time.monotonic())
    assert status == -signal.SIGKILL and seconds < SOON_S, seconds


def test_a_rank_that_is_stuck_in_a_step_ends_all(two: Path, start: Callable[..., Leader]) -> None:
    leader = start(two, 2, -1)
    os.kill(leader.others[0], signal.SIGSTOP)
    status, said, seconds = leader.ended(time.monotonic())
    assert status == LOST_STATUS and "rank 1 has done nothing for 3 s in the middle of a step" in said
    assert seconds < SILENCE_NS / 1e9 + SOON_S


def test_a_rank_that_cannot_start_is_told_by_rank_0(two: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kv_heads = 2, expected a multiple of the ranks"):
        RankedEngine(EngineOptions(two, personas.DEFAULT, products="float32"), 4)
    missing = tmp_path / "none.safetensors"
    with pytest.raises(ValueError, match="expected a safetensors file"):
        RankedEngine(EngineOptions(missing, personas.DEFAULT, products="float32"), 2)
