"""What is taught when."""

from __future__ import annotations

from model_server.training.batches import SCENES, SHARES
from model_server.training.curriculum import HEARING, lesson


def test_every_skill_is_in_every_lesson_and_no_other() -> None:
    assert set(SHARES) == set(SCENES) and set(HEARING) <= set(SCENES)
    assert abs(sum(SHARES.values()) - 1) < 1e-9 and abs(sum(HEARING.values()) - 1) < 1e-9


def test_lines_get_harder_until_they_are_real() -> None:
    hardness = [lesson(batch, 100, 96).hardness for batch in range(120)]
    assert hardness == sorted(hardness) and set(hardness[:21]) == {0.0} and set(hardness[100:]) == {1.0}
    assert 0.4 < hardness[60] < 0.6 and hardness[99] < 1.0


def test_conversations_become_whole_ones() -> None:
    first, second = lesson(0, 100, 96), lesson(100, 100, 96)
    assert first.shares is HEARING and (first.length.shortest, first.length.longest) == (40, 48)
    assert second.shares is SHARES and (second.length.shortest, second.length.longest) == (80, 96)


def test_every_fourth_batch_has_long_conversations() -> None:
    lengths = [lesson(batch, 0, 96).length.longest for batch in range(8)]
    assert lengths == [96, 96, 96, 192] * 2
