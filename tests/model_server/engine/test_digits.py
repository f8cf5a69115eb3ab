"""The engine on a small random network: a call's reply depends on that call alone."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media.chunk import PCM, Chunk, Flags, VideoFrame
from media.timebase import TURN_SAMPLES
from model_server.batch import Said
from model_server.engine.registry import make_engine
from model_server.shedding import Shed
from tests.model_server.engine.conftest import batch_of, chunk_of, voice

TURNS = 24
UNHEARD = 0
"""Samples of ours that were played: rounding would come back through our own voice, a level of it moved."""
ROUNDING = 8
"""Of 32768: a matrix product of other shapes adds in another order."""


def heard_alone(engine: Any, slot: int, pcm: PCM, persona: str = "") -> tuple[list[PCM], list[str]]:
    """Sound and text of a call that has the engine for itself."""
    engine.open(slot, persona)
    sounds, texts = [], []
    for turn in range(len(pcm)):
        results = engine.step(batch_of({slot: turn}, {slot: pcm[turn]}, played=UNHEARD))
        sounds.append(results.pcm_BS[0])
        texts.append(results.said[0].text if 0 in results.said else "")
    engine.close(slot)
    return sounds, texts


def assert_same(found: tuple[list[PCM], list[str]], wanted: tuple[list[PCM], list[str]]) -> None:
    assert found[1] == wanted[1]
    worst = np.abs(np.array(found[0], np.int32) - np.array(wanted[0], np.int32)).max()
    assert worst <= ROUNDING, worst


def test_a_call_is_answered_the_same_alone_and_among_others(engine: Any) -> None:
    voices = {slot: voice(slot, TURNS) for slot in (2, 3, 7, 9, 11, 12)}
    alone = {slot: heard_alone(engine, slot, pcm) for slot, pcm in voices.items()}
    assert any(text for text in alone[2][1]) and np.abs(np.array(alone[2][0])).max() > 1000
    assert alone[2][1] != alone[3][1]
    together: dict[int, tuple[list[PCM], list[str]]] = {slot: ([], []) for slot in voices}
    started: dict[int, int] = {}
    for tick in range(TURNS + 12):
        for at, slot in enumerate(voices):  # they come one by one, and leave when they have said all
            if tick == 2 * at:
                engine.open(slot, "")
                started[slot] = tick
            if slot in started and tick == started[slot] + TURNS:
                engine.close(slot)
        now = {slot: tick - at for slot, at in started.items() if tick - at < TURNS}
        if not now:
            continue
        results = engine.step(
            batch_of(now, {slot: voices[slot][turn] for slot, turn in now.items()}, played=UNHEARD)
        )
        for b, slot in enumerate(sorted(now)):
            together[slot][0].append(results.pcm_BS[b])
            together[slot][1].append(results.said[b].text if b in results.said else "")
    for slot, wanted in alone.items():
        assert_same(together[slot], wanted)


def test_a_slot_that_is_opened_again_knows_nothing_of_the_call_before(engine: Any) -> None:
    pcm = voice(1, TURNS)
    first = heard_alone(engine, 5, pcm)
    heard_alone(engine, 5, voice(2, TURNS))
    assert_same(heard_alone(engine, 5, pcm), first)


def test_a_turn_that_comes_late_is_appended_before_the_next_and_gets_no_reply(engine: Any) -> None:
    pcm = voice(3, 12)
    for slot in (0, 1):
        engine.open(slot, "")
    for turn in range(5):
        engine.step(batch_of({0: turn, 1: turn}, {0: pcm[turn], 1: pcm[turn]}))
    engine.step(batch_of({1: 5}, {1: pcm[5]}, missing=[0]))
    late = {0: [chunk_of(5, pcm[5])]}
    results = engine.step(batch_of({0: 6, 1: 6}, {0: pcm[6], 1: pcm[6]}, earlier=late))
    assert results.pcm_BS.shape == (2, TURN_SAMPLES)
    positions = [
        int(group.trunk.positions[group.row(slot)])
        for slot in (0, 1)
        for group in engine._groups
        if slot in group
    ]
    assert positions[0] > 0 and abs(positions[0] - positions[1]) <= 2 * engine.config.say_limit


def test_a_turn_that_never_comes_is_heard_as_made_up_silence(engine: Any) -> None:
    pcm = voice(4, 4)

    def positions_after(turns: list[int]) -> int:
        engine.open(0, "")
        for turn, at in enumerate(turns):
            engine.step(batch_of({0: at}, {0: pcm[turn]}))
        count = int(engine._groups[0].trunk.positions[0])
        engine.close(0)
        return count

    whole, gap, chasm = positions_after([0, 1]), positions_after([0, 3]), positions_after([0, 1000])
    assert gap >= whole + 2 * 8 and chasm >= whole + 5 * 8
    assert chasm < whole + 10 * 16


def test_a_masked_call_stays_where_it_is(engine: Any) -> None:
    pcm = voice(5, 8)
    for slot in (0, 1):
        engine.open(slot, "")
    for turn in range(4):
        engine.step(batch_of({0: turn, 1: turn}, {0: pcm[turn], 1: pcm[turn]}))
    group = engine._groups[0]
    before = [buffer[group.row(0)].clone() for layer in group.trunk.layers for buffer in layer.buffers()]
    for turn in range(4, 8):
        engine.step(batch_of({1: turn}, {1: pcm[turn]}, missing=[0]))
    after = [buffer[group.row(0)] for layer in group.trunk.layers for buffer in layer.buffers()]
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


def test_a_chunk_that_is_late_alone_makes_no_reply(engine: Any) -> None:
    pcm = voice(6, 2)
    engine.open(4, "")
    engine.step(batch_of({4: 0}, {4: pcm[0]}))
    results = engine.step(batch_of({}, {}, earlier={4: [chunk_of(1, pcm[1])]}))
    assert len(results.pcm_BS) == 0 and not results.said


def test_the_persona_is_the_first_thing_that_is_read(engine: Any) -> None:
    pcm = voice(7, 16)
    assert heard_alone(engine, 0, pcm, "correct 482913")[1] != heard_alone(engine, 0, pcm, "interpret")[1]


def test_a_typed_persona_begins_the_sequence_anew(engine: Any) -> None:
    pcm = voice(8, 12)
    wanted = heard_alone(engine, 0, pcm, "interpret")
    engine.open(0, "count")
    for turn in range(3):
        engine.step(batch_of({0: turn}, {0: voice(9, 3)[turn]}))
    line = chunk_of(3, pcm[0], text="persona interpret")
    engine.step(batch_of({0: 3}, {0: pcm[0]}, chunks={0: line}))
    assert int(engine._groups[0].trunk.positions[0]) < 2 + 8 + 3 + 1
    nonsense = {0: chunk_of(4, pcm[1], text="persona nonsense")}
    told = engine.step(batch_of({0: 4}, {0: pcm[1]}, chunks=nonsense)).said[0].text
    assert told.startswith("[persona = 'nonsense': expected one of: read-back")
    later = engine.step(batch_of({0: 5}, {0: pcm[2]})).said
    assert 0 not in later or "nonsense" not in later[0].text, "told once"
    assert int(engine._groups[0].trunk.positions[0]) > 16 and wanted


def test_unknown_personas_say_which_there_are(engine: Any) -> None:
    with pytest.raises(ValueError, match=r"persona = 'sing': expected one of: read-back"):
        engine.open(0, "sing")
    engine.open(0, "")  # nothing is left of the refused one


def test_pictures_are_looked_at_by_the_persona_that_counts(engine: Any) -> None:
    pcm = voice(10, 1)[0]
    frame = VideoFrame(0, np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8))
    counts = {}
    for persona in ("count", "interpret"):
        engine.open(0, persona)
        engine.step(batch_of({0: 0}, {0: pcm}, chunks={0: chunk_of(0, pcm, video=(frame,))}))
        counts[persona] = int(engine._groups[0].trunk.positions[0])
        assert engine.pictures(0) == (persona == "count")
        engine.close(0)
    assert counts["count"] >= 2 + 6 + 8 and counts["interpret"] < 2 + 6 + 8
    torn = VideoFrame(0, frame.rgb, check=lambda: False)
    engine.open(0, "count")
    engine.step(batch_of({0: 0}, {0: pcm}, chunks={0: chunk_of(0, pcm, video=(torn,))}))
    assert int(engine._groups[0].trunk.positions[0]) < 2 + 6 + 8


def test_silence_in_the_middle_of_a_word_cuts_what_is_queued(engine: Any) -> None:
    from collections import deque

    from model_server.engine.due import Call

    call = Call(deque(), False)
    loud = np.full(TURN_SAMPLES, 5000, np.int16)
    assert engine._reply(call, loud, ()).flags == Flags.NONE
    tail = np.zeros(TURN_SAMPLES, np.int16)
    tail[:300] = 2000
    assert engine._reply(call, tail, ()).flags == Flags.FLUSH
    assert not tail.any()
    ending = np.concatenate([loud[:2000], np.zeros(1200, np.int16)])
    assert engine._reply(call, ending, ()).flags == Flags.NONE
    assert engine._reply(call, np.zeros(TURN_SAMPLES, np.int16), ()).flags == Flags.NONE


def test_what_a_call_keeps_does_not_grow(engine: Any) -> None:
    """8,000 positions and more: rings of 24 and 60 go round many times."""
    engine.open(0, "")
    pcm = voice(11, 50)
    sizes = []
    for turn in range(1000):
        engine.step(batch_of({0: turn}, {0: pcm[turn % 50]}))
        if turn in (100, 999):
            call, group = engine._calls[0], engine._groups[0]
            sizes.append((group.trunk.rows, engine.kept_bytes_a_call, len(call.text)))
            assert len(call.talk.context()) <= 400
    assert sizes[0] == sizes[1] == (4, sizes[0][1], 0)
    assert len(engine._calls[0].talk._words) <= 256


def test_closing_gives_the_rows_back(engine: Any) -> None:
    pcm = voice(12, 1)[0]
    for _ in range(3):
        for slot in range(9):
            engine.open(slot, "")
        engine.step(batch_of(dict.fromkeys(range(9), 0), dict.fromkeys(range(9), pcm)))
        for slot in range(9):
            engine.close(slot)
    assert len(engine._groups) == 1 and len(engine._groups[0]) == 0 and engine._groups[0].trunk.rows == 16


def test_without_a_checkpoint_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no checkpoint .*; train one .* or take --engine echo"):
        make_engine("digits", checkpoint=tmp_path / "none.safetensors")


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"not one")
    with pytest.raises(ValueError, match="expected a safetensors file"):
        make_engine("digits", checkpoint=path)


def test_silence_that_is_not_computed_is_the_silence_that_would_be(engine: Any) -> None:
    import torch

    from model_server.model.vocoder import FEATURES, LOG_F0, Vocoder

    features = torch.full((1, 16, FEATURES), -3.51)
    features[..., LOG_F0] = 5.0
    sound, after = Vocoder()(features, Vocoder().start(1))
    assert not sound.any() and not after.tail.any()
    assert engine._flow_head.mean[0] > -4  # the small network is never so quiet: the others test sound


def test_what_is_shed_is_left_out_and_nothing_else(engine: Any) -> None:
    """Video, which does not change what is written here; tokens stay, which it was taught to write in one turn."""
    pcm = voice(4, TURNS)
    lengths: dict[Shed, int] = {}
    for shed in (Shed.NOTHING, Shed.VIDEO, Shed.TOKENS):
        engine.open(0, "")
        written = 0
        for turn in range(TURNS):
            batch = replace(batch_of({0: turn}, {0: pcm[turn]}, played=UNHEARD), shed=shed)
            results = engine.step(batch)
            words = results.said[0].text.split() if 0 in results.said else []
            written += len(words)
            assert results.passes <= engine.most_passes + 1
        lengths[shed] = written
        engine.close(0)
    assert lengths[Shed.NOTHING] == lengths[Shed.VIDEO] == lengths[Shed.TOKENS] > 0


def test_a_step_says_what_its_sequences_keep(engine: Any) -> None:
    pcm = voice(1, 40)
    for slot in (0, 1):
        engine.open(slot, "")
    kept = [
        engine.step(batch_of({0: turn, 1: turn}, {0: pcm[turn], 1: pcm[turn]}, played=UNHEARD)).positions
        for turn in range(40)
    ]
    assert kept[0] >= 2 * 8 and kept == sorted(kept)
    assert kept[-1] == 2 * engine.most_positions
    assert engine.check() == []


def test_a_sequence_that_is_not_whole_is_found(engine: Any) -> None:
    import torch

    pcm = voice(1, 3)
    for slot in (4, 6):
        engine.open(slot, "")
    for turn in range(3):
        engine.step(batch_of({4: turn, 6: turn}, {4: pcm[turn], 6: pcm[turn]}))
    assert engine.check() == []
    group = engine._groups[0]
    with torch.inference_mode():
        group.trunk.layers[1].attended.values[group.row(6), 0, 0, 0] = float("nan")
    assert engine.check() == ["slot 6: layer 1 keeps what is not a number"]
    with torch.inference_mode():
        group.trunk.positions[group.row(4)] = -1
    assert len(engine.check()) == 2


def test_a_compacted_call_goes_on_with_its_past_as_text(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model_server.engine.digits import DigitsEngine
    from model_server.engine.due import PAST_TOKENS

    monkeypatch.setattr("model_server.engine.digits.LOUD_END", 1e9)  # this network sounds all the time
    engine, pcm = DigitsEngine(checkpoint, compact_after=120), voice(5, 60)
    engine.open(0, "")
    furthest = 0
    for turn in range(60):
        engine.step(batch_of({0: turn}, {0: pcm[turn]}, played=UNHEARD))
        for group in engine._groups:
            furthest = max([furthest, *group.trunk.positions.tolist()])
        call = engine._calls[0]
        assert len(call.past) <= PAST_TOKENS
        if call.text:
            assert tuple(call.text)[: len(call.persona)] == call.persona
            assert tuple(call.text)[len(call.persona) :] == tuple(call.past)
    assert 100 <= furthest < 120 + 2 * (8 + 3 + PAST_TOKENS + len(call.persona))
    engine.close(0)


def test_an_aged_call_has_the_same_rings(engine: Any) -> None:
    pcm = voice(7, 30)
    for slot in (0, 1):
        engine.open(slot, "")
    sounds: list[list[PCM]] = [[], []]
    for turn in range(30):
        if turn == 20:
            assert engine.age(1, 500) >= 500
        results = engine.step(batch_of({0: turn, 1: turn}, {0: pcm[turn], 1: pcm[turn]}, played=UNHEARD))
        for slot in (0, 1):
            sounds[slot].append(results.pcm_BS[slot])
    assert_same((sounds[1], []), (sounds[0], []))


def test_an_answer_that_comes_at_once_waits_until_it_may_be_read() -> None:
    from model_server.engine.due import ANSWER_TURNS, Call, answered

    call = Call(deque(), False)
    answered(call, (1, 2))
    assert list(call.text) == [1, 2], "nothing was asked: typed, it is read at once"
    call.text.clear()
    call.turns = call.asked = 40
    answered(call, (3, 4))
    for call.turns in range(41, 40 + ANSWER_TURNS):
        answered(call, ())
        assert not call.text
    call.turns += 1
    answered(call, (5,))
    assert list(call.text) == [3, 4, 5] and not call.early


def test_a_call_that_is_rebuilt_from_its_log_goes_on_as_if_nothing_had_been(
    engine: Any, checkpoint: Path
) -> None:
    from model_server.engine.digits import DigitsEngine

    pcm, died = voice(5, TURNS), 15
    late = 9  # it came after its tick: in the state, but no reply was made to it
    texts = {3: "persona count", 6: "result 1 2"}

    def turn_of(turn: int, **more: Any) -> Chunk:
        return chunk_of(turn, pcm[turn], text=texts.get(turn, ""), **more)

    def say(on: Any, turn: int) -> tuple[PCM, Said]:
        earlier = {0: [turn_of(late)]} if turn == late + 1 else {}
        results = on.step(batch_of({0: turn}, {0: pcm[turn]}, chunks={0: turn_of(turn)}, earlier=earlier))
        return results.pcm_BS[0], results.said.get(0, Said())

    def goes_on(on: Any) -> list[tuple[PCM, Said]]:
        return [say(on, turn) for turn in range(died, TURNS)]

    heir = DigitsEngine(checkpoint)
    for one in (engine, heir):
        one.open(0, "")
    for turn in range(died):
        if turn != late:
            say(engine, turn)
    for turn in range(died):
        answered = Flags.NONE if turn == late else Flags.ANSWERED
        heir.step(batch_of({}, {}, earlier={0: [turn_of(turn, flags=answered)]}))
    lived, rebuilt = goes_on(engine), goes_on(heir)
    assert [said for _, said in rebuilt] == [said for _, said in lived]
    assert any(said.text for _, said in lived)
    worst = max(np.abs(a.astype(np.int32) - b).max() for (a, _), (b, _) in zip(lived, rebuilt, strict=True))
    assert worst <= ROUNDING, worst
    empty = DigitsEngine(checkpoint)
    empty.open(0, "")
    assert [said for _, said in goes_on(empty)] != [said for _, said in lived], "the past makes no difference"
