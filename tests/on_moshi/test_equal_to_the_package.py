"""What a call is answered is what the package's own loop answers it, alone or beside others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media.resample import Resampler
from media.timebase import MODEL_HZ, TURN_SAMPLES
from model_server.engine.moshi.frames import FRAME_HZ, lead_of
from tests.model_server.engine.conftest import batch_of, chunk_of
from tests.on_moshi import tiny
from tests.on_moshi.conftest import SLOTS, Recorder, assert_equal, packages_own, speech
from tests.support.moshi_here import needs_moshi

pytestmark = needs_moshi

TURNS = 25
"""5 s: the rings of 1.92 s (language model) and 0.8 s (codec) come round."""


def test_one_call(model_folder: Path, engine: Any, recorded: Recorder) -> None:
    pcm = speech(1, TURNS)
    engine.open(3, "")
    replies = [engine.step(batch_of({3: turn}, {3: pcm[turn]})) for turn in range(TURNS)]
    theirs = packages_own(model_folder, list(pcm))
    assert len(theirs.text) == TURNS * 5 // 2 - 1 > 2 * tiny.CONTEXT
    assert len(set(theirs.text)) > 5 and len(set(theirs.codes)) > len(theirs.codes) // 2
    assert_equal(recorded.of[3], theirs)
    assert [results.passes for results in replies[:4]] == [2, 3, 2, 3]
    heard = np.concatenate([results.pcm_BS[0] for results in replies])
    said = np.concatenate([np.zeros(lead_of(1), np.int16), *recorded.of[3].pcm])[: len(heard) * 3 // 2]
    assert np.array_equal(heard, Resampler(FRAME_HZ, MODEL_HZ).push(said))
    words = "".join(results.said[0].text for results in replies if 0 in results.said)
    assert words and words == "".join(map(engine._pieces.begun().read, recorded.of[3].text))


def test_eight_calls_that_begin_pause_and_end_at_different_times(model_folder: Path, engine: Any) -> None:
    """A slot is used twice, turns come late or not at all; each call is as if it were alone."""
    recorded = Recorder(engine)
    begins = {0: 0, 1: 0, 2: 1, 3: 2, 4: 5, 5: 6, 6: 9, 7: 12}
    ends = {0: 30, 1: 11, 2: 30, 3: 17, 4: 30, 5: 21, 6: 30, 7: 30}
    again = {1: 14, 3: 19}
    """A second call in the slot of one that ended."""
    absent = {0: {7, 8, 9}, 2: {4}, 5: {10, 11}, 6: {20}}
    """Ticks without a chunk: they come later, all at once, or, for slot 6, in mid-call, a turn late."""
    pcm = {slot: speech(20 + slot, 31) for slot in begins}
    more = {slot: speech(40 + slot, 31) for slot in again}
    whole: list[tuple[Any, list[Any]]] = []
    sent: dict[int, list[Any]] = {}
    late: dict[int, list[Any]] = {slot: [] for slot in begins}
    turn_of: dict[int, int] = {}
    for tick in range(31):
        for slot in begins:
            if tick == begins[slot] or tick == again.get(slot):
                engine.open(slot, "")
                turn_of[slot], sent[slot] = 0, []
                recorded.of.pop(slot, None)
            elif slot in turn_of and (tick == ends[slot] or (slot == 3 and tick == 26)):
                engine.close(slot)
                whole.append((recorded.of.pop(slot), sent.pop(slot)))
                del turn_of[slot]
        turns, now, earlier = {}, {}, {}
        for slot, turn in turn_of.items():
            source = more[slot] if slot in again and tick >= again[slot] else pcm[slot]
            sent[slot].append(source[turn])
            turn_of[slot] += 1
            if tick in absent.get(slot, ()):
                late[slot].append(chunk_of(turn, source[turn]))
                continue
            turns[slot], now[slot] = turn, source[turn]
            if late[slot]:
                earlier[slot], late[slot] = late[slot], []
        engine.step(batch_of(turns, now, earlier=earlier))
    for slot in turn_of:
        whole.append((recorded.of[slot], sent[slot]))
    assert len(whole) == SLOTS + len(again) and engine.check() == []
    assert engine.gauges["moshi_turns_unheard_total"] == sum(map(len, absent.values()))
    for ours, turns_of_call in whole:
        assert_equal(ours, packages_own(model_folder, turns_of_call))


def test_a_turn_that_never_comes_is_silence(model_folder: Path, engine: Any, recorded: Recorder) -> None:
    pcm = speech(5, 12)
    engine.open(0, "")
    for turn in (0, 1, 2, 5, 6, 7, 8, 9, 10, 11):
        engine.step(batch_of({0: turn}, {0: pcm[turn]}))
    pcm[3:5] = 0
    assert_equal(recorded.of[0], packages_own(model_folder, list(pcm)))


def test_a_row_that_does_not_take_part_is_left_as_it_is(engine: Any) -> None:
    """Every tensor that is kept of it, bit for bit but for the place in a ring that its next frame writes."""
    import torch

    pcm = speech(6, 40)
    for slot in (0, 1):
        engine.open(slot, "")
    for turn in range(20):
        engine.step(batch_of({0: turn, 1: turn}, {0: pcm[turn], 1: pcm[turn + 20]}))
    rows = [
        part
        for state in engine.sequences._states()
        for part in (state, getattr(state, "kv_cache", None))
        if part
    ]
    before = [
        {name: value.clone() for name, value in vars(part).items() if torch.is_tensor(value)} for part in rows
    ]
    for turn in range(20, 24):
        engine.step(batch_of({0: turn}, {0: pcm[turn]}))
    engine.open(5, "")
    engine.close(5)
    for part, kept in zip(rows, before, strict=True):
        for name, value in kept.items():
            now = getattr(part, name)
            if (
                name == "cache" and value.dim() == 5
            ):  # a ring: its oldest two places are written first, and again
                written = [int(part.end_offset[1] + more) % part.capacity for more in range(2)]
                value[:, 1, :, written] = now[:, 1, :, written] = 0
                assert torch.equal(now[:, 1], value[:, 1])
            elif name not in ("exec_mask", "initial"):
                assert torch.equal(now[1], value[1]), (type(part).__name__, name)


@pytest.mark.parametrize("poison", (float("nan"), 1e30))
def test_nothing_of_a_call_is_left_for_the_next_in_its_slot(
    model_folder: Path, engine: Any, recorded: Recorder, poison: float
) -> None:
    engine.open(2, "")
    pcm = speech(7, 15)
    for turn in range(9):
        engine.step(batch_of({2: turn}, {2: pcm[turn]}))
    for state in engine.sequences._states():
        ring = getattr(state, "kv_cache", None)
        if ring is not None:
            ring.cache[:, 2] = poison
        if hasattr(state, "previous"):
            state.previous[2] = poison
    if poison != poison:
        assert any("numbers that are none" in line for line in engine.check())
    engine.close(2)
    recorded.of.clear()
    engine.open(2, "")
    for turn in range(15):
        engine.step(batch_of({2: turn}, {2: pcm[turn]}))
    assert_equal(recorded.of[2], packages_own(model_folder, list(pcm)))


def test_a_call_is_told_once_that_the_model_forgets(engine: Any) -> None:
    pcm = speech(8, 40)
    engine.open(0, "")
    told = {}
    for turn in range(40):
        results = engine.step(batch_of({0: turn}, {0: pcm[turn]}))
        if 0 in results.said and results.said[0].events:
            told[turn] = results.said[0].events
    assert told == {-(-(tiny.CONTEXT + 1) * 2 // 5) - 1: ("memory rolling 1",)}
    assert engine.gauges["moshi_calls_beyond_context"] == 1


def test_what_is_kept_of_a_call_is_what_was_reckoned(engine: Any) -> None:
    reckoned = engine.weights.bytes_a_call(4)
    assert 0 < reckoned - engine.sequences.bytes_a_row < 1.1 * 2**20
    networks = (engine.sequences.lm, engine.sequences.mimi)
    whole = sum(value.numel() * 4 for network in networks for value in network.state_dict().values())
    assert abs(engine.weights.bytes_of_both(4) - whole) < 20_000  # the codec's header
    assert engine._heard_RS.shape == (SLOTS, TURN_SAMPLES * 3 // 5)


def test_the_published_size_is_the_packages_and_so_is_its_memory(tmp_path: Path) -> None:
    """On the device `meta`, where nothing takes memory: one call of the package's own networks."""
    import torch
    from moshi.models import loaders

    from model_server.engine.moshi import weights
    from model_server.engine.moshi.sequences import _tensors

    assert loaders._lm_kwargs == weights.MOSHI_7B
    lm = loaders.get_moshi_lm(None, dict(weights.MOSHI_7B), device="meta", dtype=torch.bfloat16)
    mimi = loaders.get_mimi(None, None, device="meta")
    with lm.streaming(1), mimi.streaming(1):
        states = [*lm.get_streaming_state().values(), *mimi.get_streaming_state().values()]
        kept = sum(tensor.numel() * tensor.element_size() for state in states for tensor in _tensors(state))
    for name in (weights.LM_NAME, weights.MIMI_NAME, weights.TOKENIZER_NAME):
        (tmp_path / name).touch()
    reckoned = weights.find(str(tmp_path)).bytes_a_call(2)
    assert 0 <= reckoned - kept < 2**20, (reckoned, kept)
    parameters = sum(parameter.numel() for parameter in lm.parameters())
    assert 15.3e9 < 2 * parameters < 15.5e9
