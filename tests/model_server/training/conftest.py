"""A word bank of tones and a voice of tones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from model_server.model.vocabulary import SAID
from model_server.training.bank import WordBank, write
from model_server.training.corpus import DATA, DIGITS
from model_server.training.mouth import VoiceTable, table_of
from model_server.training.partner import Skill
from tests.model_server.training.scenes import Times, scored, spoken, tone

Perform = Callable[..., dict[int, tuple[str, ...]]]


@pytest.fixture(scope="session")
def data() -> Path:
    if not (DATA / "MANIFEST.tsv").exists():
        pytest.skip(f"needs the data set in {DATA}")
    return DATA


@pytest.fixture(scope="session")
def table() -> VoiceTable:
    """Every word lasts two turns, `okay` one."""
    return table_of({token: tone(500, 0.15 if token == "say:okay" else 0.35) for token in SAID})


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory) -> WordBank:
    """Two voices of digits, one of all other words."""
    folder = tmp_path_factory.mktemp("bank")
    digits = [spoken(label) for label in (*DIGITS, "oh")] + [
        spoken("seven", "two"),
        spoken("one", "nine", "six"),
    ]
    others = [
        spoken(label) for label in ("stop", "every", "seconds", "count", "plus", "minus", "times", "happy")
    ]
    lines = [spoken("three", "plus", "four"), spoken("how many", "happy"), spoken("every", "five", "seconds")]
    write(folder, [("a", "fsdd", digits), ("b", "espeak", digits[:8]), ("c", "sc words", others + lines)])
    return WordBank(folder)


@pytest.fixture
def perform(bank: WordBank, table: VoiceTable) -> Perform:
    """Turn -> what the partner wrote, for the turns in which it wrote."""

    def performed(
        skills: Sequence[Skill], times: Times, turns: int, **more: Any
    ) -> dict[int, tuple[str, ...]]:
        score = scored(bank, table, skills, times, turns, **more)
        return {at: turn.say for at, turn in enumerate(score.turns) if turn.say}

    return performed
