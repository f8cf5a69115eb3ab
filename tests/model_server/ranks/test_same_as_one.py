"""Two rank processes give the tokens of one, and its sound within 1e-3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

import torch

from model_server.engine import personas
from model_server.engine.digits import DigitsEngine
from model_server.engine.registry import CHECKPOINT
from model_server.ranks.engine import EngineOptions
from model_server.ranks.leader import RankedEngine
from model_server.training.synthesise import DATA
from tests.model_server.ranks.lead import CALLS, batch

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[3]
SAMPLE = 1e-3 * 32768
SKILLS = ("connected", "isolated", "stop", "correct", "every", "interpret", "count")


def answer_alike(alone: DigitsEngine, ranked: RankedEngine, turns: int) -> None:
    """The same calls, from their beginning on."""
    for engine in (alone, ranked):
        for slot in range(CALLS):
            engine.open(slot, "")
    for turn in range(turns):
        wanted, found = alone.step(batch(turn)), ranked.step(batch(turn))
        assert found.said == wanted.said, turn
        apart = np.abs(found.pcm_BS.astype(np.int32) - wanted.pcm_BS).max()
        assert apart <= SAMPLE, (turn, apart)
    assert np.abs(wanted.pcm_BS.astype(np.int32)).max() > 1000


def test_a_leader_and_its_follower_answer_as_one_engine_does(two: Path) -> None:
    alone = DigitsEngine(two, products=torch.float32)
    with RankedEngine(EngineOptions(two, personas.DEFAULT, products="float32"), 2) as ranked:
        answer_alike(alone, ranked, 20)
        for slot in range(CALLS):
            ranked.close(slot)
        counted = ranked.meter.fields()
        assert counted["all_reduce"]["way"] == counted["all_gather"]["way"] == "shared_memory"
        assert counted["all_reduce"]["calls"] >= 20 * 2 * 3 and counted["all_reduce"]["bytes"] > 0


@pytest.mark.parametrize(("sums", "way"), [("auto", "shared_memory"), ("gloo", "gloo")])
def test_so_do_ranks_of_the_step_that_a_gpu_repeats(two: Path, sums: str, way: str) -> None:
    pytest.importorskip("triton", reason="the ops need the extra: pip install 'microturn[kernels]'")
    alone = DigitsEngine(two, products=torch.float32)
    told = {"products": "float32", "device": "cpu", "calls": CALLS, "sums": sums}
    with RankedEngine(EngineOptions(two, personas.DEFAULT, **told), 2) as ranked:
        answer_alike(alone, ranked, 12)
        assert ranked.check() == []
        for slot in range(CALLS):
            ranked.close(slot)
        ranked.warm(1)
        counted = ranked.meter.fields()
        assert counted["all_reduce"]["way"] == counted["all_gather"]["way"] == way
        assert counted["all_reduce"]["calls"] >= 12 * 2 * 3
        sums_so_far = sum(each["calls"] for each in counted.values())
        assert ranked.gauges["rank_sums_total"] == sums_so_far and ranked.gauges["graphs_captured"] == 0


def test_a_way_that_ranks_do_not_have_is_refused(two: Path) -> None:
    options = EngineOptions(two, personas.DEFAULT, products="float32", sums="multimem")
    with pytest.raises(ValueError, match="sums = 'multimem': these ranks have shared_memory, gloo; take one"):
        RankedEngine(options, 2)


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")
def test_rehearsed_conversations_with_the_shipped_network(tmp_path: Path) -> None:
    script = Path(__file__).with_name("replay.py")
    done = subprocess.run(
        [sys.executable, str(script), str(CHECKPOINT), str(tmp_path), "1", *SKILLS],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'kernels'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["captions"] >= len(SKILLS), "something was said in them"
    for rank in seen["ranks"]:
        assert rank["texts_apart"] == 0 and rank["texts"] >= len(SKILLS), rank
        assert rank["most_apart_rms"] <= SAMPLE and rank["loudest"] > 10_000, rank
        # A pulse of the voice falls between two samples: where it moves to the next one, some differ by more.
        assert rank["samples_apart"] <= 1e-4 * rank["samples"] and rank["most_apart"] <= 10 * SAMPLE, rank
