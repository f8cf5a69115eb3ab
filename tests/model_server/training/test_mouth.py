"""Our voice on the grid."""

from __future__ import annotations

import numpy as np
import pytest

from media.timebase import TURN_SAMPLES
from model_server.training.mouth import SILENT, Mouth, VoiceTable, table_of


def test_words_follow_one_another_and_silence_is_at_once(table: VoiceTable) -> None:
    mouth = Mouth(table)
    mouth.say("7", "okay")
    rows = table.rows["say:7"], table.rows["say:okay"]
    assert mouth.step(1) == (("say:7",), (rows[0], 0)) and mouth.step(1) == ((), (rows[0], 1))
    assert mouth.step(0) == ((), SILENT), "no room for its token"
    assert mouth.step(1) == (("say:okay",), (rows[1], 0)) and mouth.idle
    mouth.say("7", "7")
    mouth.step(1)
    mouth.hush()
    assert mouth.idle and mouth.step(1) == ((), SILENT)


def test_the_newest_word_takes_the_place_of_those_that_wait(table: VoiceTable) -> None:
    mouth = Mouth(table)
    mouth.say("1", "2")
    mouth.step(1)
    mouth.instead("3")
    mouth.step(1)
    assert mouth.waiting == 1 and mouth.step(1)[0] == ("say:3",)


def test_words_are_filled_up_to_whole_turns_and_not_too_long() -> None:
    table = table_of({"say:1": np.ones(4000, np.int16)})
    assert len(table.sounds[0]) == 2 * TURN_SAMPLES and table.turns(0) == 2
    with pytest.raises(ValueError, match="whole turns"):
        table_of({"say:1": np.ones(3 * TURN_SAMPLES + 1, np.int16)})


def test_a_note_stands_before_its_word_and_needs_room(table: VoiceTable) -> None:
    mouth = Mouth(table)
    mouth.say_noted(["7", "2"], ["<expect:1>", "<expect:2>"])
    assert mouth.step(1)[0] == ("say:7",) and mouth.step(3)[0] == ()
    assert mouth.step(1)[0] == () and mouth.step(2)[0] == ("<expect:2>", "say:2")
