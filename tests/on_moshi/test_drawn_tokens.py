"""Tokens that are drawn, as the published weights are run: a call's own, in the shares that they are to have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from media.chunk import Flags
from model_server.config import set_environment
from tests.model_server.engine.conftest import batch_of, chunk_of
from tests.on_moshi import tiny
from tests.on_moshi.conftest import Recorder, assert_equal, packages_own, speech
from tests.support.moshi_here import needs_moshi

pytestmark = needs_moshi

HOW = {"temp": 0.8, "temp_text": 0.7, "top_k": 20, "top_k_text": 10}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    set_environment(NO_TORCH_COMPILE="1")
    return tiny.write(tmp_path_factory.mktemp("drawn"), lm_gen_config=HOW)


def test_calls_that_begin_at_different_times_draw_as_if_each_were_alone(model_folder: Path) -> None:
    import torch

    from model_server.engine.moshi.engine import MoshiEngine
    from model_server.engine.moshi.noise import Noise
    from model_server.engine.moshi.weights import find

    engine = MoshiEngine(find(str(model_folder)), calls=3)
    recorded = Recorder(engine)
    begins, pcm = {0: 0, 1: 3, 2: 4}, {slot: speech(80 + slot, 14) for slot in range(3)}
    for tick in range(14):
        for slot, begin in begins.items():
            if tick == begin:
                engine.open(slot, "")
        live = {slot: tick - begin for slot, begin in begins.items() if tick >= begin}
        engine.step(batch_of(live, {slot: pcm[slot][turn] for slot, turn in live.items()}))
    noise = Noise(1, 1 + tiny.CODEBOOKS, 20, torch.device("cpu"))
    for slot, begin in begins.items():
        theirs = packages_own(model_folder, list(pcm[slot][: 14 - begin]), noise, **HOW)
        assert_equal(recorded.of[slot], theirs)
    greedy = packages_own(model_folder, list(pcm[0]))
    assert greedy.codes != recorded.of[0].codes


def test_a_call_that_is_made_again_from_its_log_goes_on_as_it_was(model_folder: Path) -> None:
    """Another server's engine, with other calls, says what the first one would have said."""
    from model_server.engine.moshi.engine import MoshiEngine
    from model_server.engine.moshi.weights import find

    pcm, others = speech(90, 12), speech(91, 12)
    first, heir = (MoshiEngine(find(str(model_folder)), calls=2) for _ in range(2))
    first.open(0, "")
    before = [first.step(batch_of({0: turn}, {0: pcm[turn]})).pcm_BS[0] for turn in range(12)]
    heir.open(0, "")
    for turn in range(3):
        heir.step(batch_of({0: turn}, {0: others[turn]}))
    heir.open(1, "")
    log = [chunk_of(turn, pcm[turn], flags=Flags.ANSWERED) for turn in range(9)]
    heir.step(batch_of({}, {}, earlier={1: log[:5]}))
    heir.step(batch_of({0: 3}, {0: others[3]}, earlier={1: log[5:]}))
    for turn in range(9, 12):
        again = heir.step(batch_of({0: turn - 5, 1: turn}, {0: others[turn], 1: pcm[turn]})).pcm_BS[1]
        assert np.abs(again.astype(int) - before[turn]).max() <= 2
        assert np.abs(again.astype(int)).max() > 1_000
    assert heir.gauges["moshi_turns_unheard_total"] == 0


def test_shares_are_those_of_the_probabilities() -> None:
    import torch
    from moshi.utils.sampling import sample_token

    from model_server.engine.moshi.noise import POSITIONS, Noise

    noise = Noise(POSITIONS, 2, 5, torch.device("cpu"))
    shares = torch.tensor([0.5, 0.25, 0.15, 0.1])
    with noise.at(torch.arange(POSITIONS)):
        first = sample_token(shares.log().expand(POSITIONS, 4), True, 1.0, 4)
        second = sample_token(shares.log().expand(POSITIONS, 4), True, 1.0, 4)
    for drawn in (first, second):
        found = np.bincount(drawn.numpy(), minlength=4) / POSITIONS
        assert np.all(np.abs(found - shares.numpy()) < 4 * np.sqrt(0.25 / POSITIONS)), found
    assert 0.2 < float((first == second).float().mean()) < 0.5
    assert sample_token(shares.log()[None], True, 1.0, 4).shape == (1,)  # the package's own is back


def test_a_way_of_drawing_without_numbers_is_refused(tmp_path: Path) -> None:
    from model_server.engine.moshi.engine import MoshiEngine
    from model_server.engine.moshi.weights import find

    folder = tiny.write(tmp_path / "all", lm_gen_config={"top_k": 0})
    with pytest.raises(ValueError, match="top_k = 0; expected 1 or more"):
        MoshiEngine(find(str(folder)), calls=1)
