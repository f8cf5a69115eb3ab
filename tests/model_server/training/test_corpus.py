"""Who is in which part of the data."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from model_server.training.corpus import DIGITS, Part, manifest, noises, part_of_speakers, rooms, words


def test_no_speaker_is_in_two_parts(data: Path) -> None:
    parts = part_of_speakers(manifest(data))
    members = {part: {speaker for speaker, theirs in parts.items() if theirs is part} for part in Part}
    assert all(members[a] and not members[a] & members[b] for a, b in combinations(Part, 2))
    spoken = {part: {clip.speaker for clip in words(part, data)} for part in (Part.VALIDATION, Part.TEST)}
    assert spoken[Part.TEST] <= members[Part.TEST] and spoken[Part.VALIDATION] <= members[Part.VALIDATION]


def test_a_third_of_the_digit_speakers_of_speech_commands_is_held_out(data: Path) -> None:
    held_out = [
        clip
        for clip in words(Part.TEST, data)
        if clip.speaker.startswith("sc_") and clip.words[0].label in DIGITS
    ]
    assert len({clip.speaker for clip in held_out}) == 22
    assert len(held_out) >= 45 and set(Counter(clip.words[0].label for clip in held_out)) == set(DIGITS)


def test_connected_digits_are_never_read(data: Path) -> None:
    sources = [clip.source for part in (Part.VALIDATION, Part.TEST) for clip in words(part, data)]
    assert sources and not any("connected_digits" in source for source in sources)
    rows = {row.speaker for row in manifest(data) if "connected_digits" in row.path}
    assert not rows & set(part_of_speakers(manifest(data)))


def test_noises_and_rooms_of_the_test_are_others(data: Path) -> None:
    assert set(noises(Part.TEST, data)) == {"running_tap", "sb_noise4"}
    assert not set(noises(Part.TRAIN, data)) & set(noises(Part.TEST, data))
    for room in rooms(Part.TRAIN, data) + rooms(Part.TEST, data):
        assert np.sum(room * room) == pytest.approx(1.0, rel=1e-4) and abs(room[0]) == np.abs(room).max()


def test_missing_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="needs the data set"):
        manifest(tmp_path)
