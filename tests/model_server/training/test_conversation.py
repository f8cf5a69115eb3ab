"""Conversations: the same from the same seed, our voice heard a turn later, targets within the grid's limits."""

from __future__ import annotations

import numpy as np
import pytest

from media.timebase import TURN_SAMPLES
from model_server.model.config import DIGITS
from model_server.model.micro_turn import Kind
from model_server.model.vocabulary import HEARD, IDS
from model_server.training.bank import WordBank
from model_server.training.batches import (
    NOTHING,
    OTHER_WORD,
    PADDED_TO,
    SCENES,
    SHARES,
    Length,
    Lesson,
    Source,
    example_of,
    frames_of,
)
from model_server.training.channel import Codec, Line
from model_server.training.conversation import Conversation, Surroundings, rendered
from model_server.training.mouth import VoiceTable
from model_server.training.partner import SAY_LIMIT
from model_server.training.skills.read_back import ReadBack
from model_server.training.stage import Said
from tests.model_server.training.scenes import scored, tone

CLEAN = Line(Codec.OPUS, -20.0, 90.0)
AROUND = Surroundings([tone(3000, 2.0)], [], [tone(700, 3.0)])
LESSON = Lesson(SHARES, Length(40, 60))


def _source(bank: WordBank, table: VoiceTable) -> Source:
    return Source(bank, table, AROUND, DIGITS)


def _same(a: Conversation, b: Conversation) -> bool:
    return (
        a.turns == b.turns
        and np.array_equal(a.caller, b.caller)
        and np.array_equal(a.own, b.own)
        and np.array_equal(a.made_up, b.made_up)
    )


@pytest.mark.parametrize("scene", SCENES)
def test_the_same_seed_gives_the_same_conversation_and_another_another(
    bank: WordBank, table: VoiceTable, scene: str
) -> None:
    source = _source(bank, table)
    first = source.conversation(5, 2, LESSON, scene)
    assert _same(first, _source(bank, table).conversation(5, 2, LESSON, scene))
    assert not _same(first, source.conversation(5, 3, LESSON, scene))


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("number", range(4))
def test_targets_keep_to_the_vocabulary_and_to_the_voice(
    bank: WordBank, table: VoiceTable, scene: str, number: int
) -> None:
    conversation = _source(bank, table).conversation(1, number, LESSON, scene)
    assert len(conversation.caller) == len(conversation.own) == len(conversation.turns) * TURN_SAMPLES
    assert conversation.made_up.shape == (len(conversation.turns) * 4,)
    before = (-1, 0)
    for turn in conversation.turns:
        assert len(turn.say) <= SAY_LIMIT and set(turn.say) | set(turn.inject) <= set(IDS)
        said = [token for token in turn.say if token.startswith("say:")]
        row, at = turn.voice
        if said:
            assert (table.rows[said[0]], 0) == turn.voice and len(said) == 1
        elif row >= 0:
            assert (row, at) == (before[0], before[1] + 1) and at < table.turns(row)
        before = turn.voice


def test_what_is_said_in_a_turn_is_heard_in_the_next(bank: WordBank, table: VoiceTable) -> None:
    score = scored(bank, table, [ReadBack(1)], [("seven", 0.5, 0.9)], 12)
    conversation = rendered(score, table, np.random.default_rng(0), Surroundings(), CLEAN)
    assert conversation.turns[4].say == ("heard:7", "<expect:1>", "say:7")
    heard = conversation.own.reshape(12, TURN_SAMPLES)
    word = table.sounds[table.rows["say:7"]].reshape(2, TURN_SAMPLES)
    assert np.array_equal(heard[5:7], word) and not heard[:5].any() and not heard[7:].any()


def test_positions_are_those_of_the_conversation(bank: WordBank, table: VoiceTable) -> None:
    source = _source(bank, table)
    conversation = source.conversation(1, 0, LESSON, "stop")
    example = example_of(conversation, DIGITS)
    assert [turn.say for turn in example.turns] == [
        tuple(IDS[token] for token in turn.say) for turn in conversation.turns
    ]
    assert example.turns[0].text == tuple(IDS[token] for token in conversation.turns[0].inject)
    assert example.voice.tolist() == [list(turn.voice) for turn in conversation.turns]


def test_batches_are_numbered_so_that_a_run_can_resume(bank: WordBank, table: VoiceTable) -> None:
    first, again = (_source(bank, table).batch(3, 1, 2, LESSON) for _ in range(2))
    assert first.scenes == again.scenes and first.inputs.kinds.equal(again.inputs.kinds)
    assert first.inputs.heard.equal(again.inputs.heard) and first.voice.equal(again.voice)
    assert first.frames.equal(again.frames) and first.inputs.kinds.shape[1] % PADDED_TO == 0
    hear, speak = (int((first.inputs.kinds == kind).sum()) for kind in (Kind.HEAR, Kind.SPEAK))
    assert len(first.voice) * 4 == len(first.frames) == len(first.inputs.heard) == hear == speak


def test_an_easy_lesson_disturbs_no_line(bank: WordBank, table: VoiceTable) -> None:
    source, easy = _source(bank, table), Lesson({"stop": 1.0}, Length(40, 60), hardness=0.0)
    for number in range(20):
        conversation = source.conversation(1, number, easy)
        line = conversation.line
        assert conversation.scene == "stop" and not conversation.made_up.any()
        assert line.noise is None and line.room is None and line.echo_db is None and line.snr_db >= 40


def test_frames_say_what_was_spoken_fifty_ms_before() -> None:
    def word(label: str, token: str | None, start_ms: int, end_ms: int) -> Said:
        return Said(label, token, start_ms * 16, end_ms * 16)

    words = [word("seven", "heard:7", 50, 250), word("happy", None, 300, 400)]
    seven = 2 + 2 * HEARD.index("heard:7")
    expected = [NOTHING] * 2 + [seven] * 2 + [seven + 1] * 2 + [NOTHING] + [OTHER_WORD] * 2 + [NOTHING]
    assert frames_of(words, 10).tolist() == expected


def test_a_camera_gives_patches_every_turn_until_it_is_switched_off(
    bank: WordBank, table: VoiceTable
) -> None:
    source, lasted = _source(bank, table), set()
    for number in range(8):
        example = example_of(source.conversation(1, number, Lesson(SHARES, Length(8, 8)), "count"), DIGITS)
        patches = [turn.patches for turn in example.turns]
        shown = [picture for picture in patches if picture is not None]
        assert all(picture is None for picture in patches[len(shown) :])
        assert len({picture.shape for picture in shown}) == 1 and shown[0].dtype == np.float32
        lasted.add(len(shown))
    assert max(lasted) == 8 > min(lasted)


def test_what_a_picture_completes_moved_and_a_swing_moves_more_often(
    bank: WordBank, table: VoiceTable
) -> None:
    source, moved, seen = _source(bank, table), [], []
    for number in range(8):
        example = example_of(source.conversation(3, number, Lesson(SHARES, Length(30, 40)), "count"), DIGITS)
        shown = sum(turn.patches is not None for turn in example.turns)
        assert len(example.moved) == len(example.seen) == shown and example.moved[0] == 0
        moved.append(int(example.moved.sum()))
        seen.append(int(example.seen.sum()))
        assert bool(example.moved[example.seen == 1].all())
    assert moved != seen and all(a >= b for a, b in zip(moved, seen, strict=True))
