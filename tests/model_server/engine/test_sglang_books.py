"""What the engine `sglang` decides without SGLang: limits, rows and sessions, the form of a turn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.engine.registry import make_engine  # noqa: E402
from model_server.engine.sglang.limits import Limits, most_of_turn  # noqa: E402
from model_server.engine.sglang.rows import Rows  # noqa: E402
from model_server.engine.sglang.turn_item import HEAR, IMAGE, LEVELS, SPEAK, Header, TurnItem  # noqa: E402
from model_server.model.config import DIGITS  # noqa: E402
from model_server.model.inputs import TurnInputs  # noqa: E402

LIMITS = Limits(calls=2, most_of_turn=20, session_tokens=60)


def test_a_turn_of_digits_is_bounded() -> None:
    assert most_of_turn(DIGITS) == 3 * 2 + 64 + 4 + 4 + 4


def test_limits_follow_from_the_calls() -> None:
    assert LIMITS.running_requests == 5 and LIMITS.total_tokens == 240
    assert LIMITS.context > LIMITS.session_tokens + LIMITS.most_of_turn


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(calls=0), "calls = 0: expected at least 1"),
        (dict(running_requests=4), "running_requests = 4 with calls = 2: expected more than 2 a call"),
        (dict(session_tokens=39), "session_tokens = 39: expected at least 40"),
        (dict(total_tokens=239), "total_tokens = 239 with calls = 2 of 60: expected at least 240"),
        (dict(turn_s=60.0), "turn_s = 60.0: expected between 0 and 60.0"),
    ],
)
def test_what_sglang_would_hang_with_is_refused_at_start(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=f"engine = 'sglang': {said}"):
        Limits(**{**dict(calls=2, most_of_turn=20, session_tokens=60), **wrong})  # type: ignore[arg-type]


def test_a_call_more_than_there_are_rows_is_refused_until_one_ends() -> None:
    rows = Rows(LIMITS)
    rows.open(7)
    rows.open(3)
    with pytest.raises(ValueError, match="2 calls hold all sessions; expected no more.*--slots"):
        rows.open(5)
    rows.opened(7, "a")
    assert rows.close(7) == "a"
    rows.open(5)
    assert rows[5].row == 0 and rows[5].call not in (1, 2) and rows.check() == []


def test_a_session_is_left_before_a_turn_might_not_fit() -> None:
    rows = Rows(LIMITS)
    rows.open(0)
    rows.opened(0, "a")
    turns = 0
    while not rows.full(0):
        rows.appended(0, positions=8, written=1)
        turns += 1
        assert rows.check() == []
    assert turns == 5  # 50 tokens: a turn of 20 may be more than 60 allow
    assert rows[0].session == "" and rows.tokens_held == 0 and rows[0].turn == 5
    assert rows[0].positions == 45 and rows.counts.sessions_rolled_total == 1


def test_a_session_that_does_not_answer_is_left_and_the_sequence_goes_on() -> None:
    rows = Rows(LIMITS)
    rows.open(0)
    serial = rows[0].call
    rows.opened(0, "a")
    rows.appended(0, positions=8, written=0)
    assert rows.unanswered(0) == "a"
    assert (rows[0].call, rows[0].turn, rows[0].session) == (serial, 2, "")
    rows.begin_anew(0)
    assert rows[0].call != serial and rows[0].turn == 0
    assert rows.counts.turns_unanswered_total == rows.counts.sessions_given_up_total == 1


def item(patches: int = 0) -> TurnItem:
    rng = np.random.default_rng(1)
    seen = {0: torch.from_numpy(rng.random((patches, 2, 40, 40, 3), np.float32))} if patches else {}
    inputs = TurnInputs(
        torch.from_numpy(rng.integers(0, 16, (1, 4, 80), np.uint8)),
        torch.from_numpy(rng.integers(0, 16, (1, 4, 80), np.uint8)),
        torch.from_numpy(rng.integers(0, 4, (1, 4), np.uint8)),
        text={0: (9, 8, 7)},
        patches=seen,
    )
    return TurnItem.of(inputs, 0, row=5, call=2**20, turn=77, say_limit=3)


@pytest.mark.parametrize("patches", [0, 6])
def test_a_turn_travels_whole_within_the_process_and_as_a_url(patches: int) -> None:
    sent = item(patches)
    assert sent.input_ids == [*[IMAGE] * bool(patches), 9, 8, 7, HEAR, *[SPEAK] * 4]
    assert sent.header == Header(5, 2**20, 77, 3, patches, 3) and sent.header.positions == patches + 3 + 8
    for came in (TurnItem.from_media(sent.media()), TurnItem.from_media(sent.url())):
        assert came.header == sent.header
        assert came.levels.shape == (4, LEVELS) and np.array_equal(came.levels, sent.levels)
        assert (came.patches is None) == (patches == 0)
        assert not patches or np.array_equal(came.patches, sent.patches)  # type: ignore[arg-type]


def test_what_is_no_turn_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="a micro-turn of 7 bytes"):
        TurnItem.unpack(b"7 bytes")
    with pytest.raises(ValueError, match="expected data:audio/x-micro-turn"):
        TurnItem.from_media("https://elsewhere/sound.wav")


def test_a_mark_is_gone_back_to_after_others_had_their_pass() -> None:
    """SGLang may step other calls between the passes of a turn; `rewind` knows the last pass alone."""
    from model_server.model.interaction import Interaction

    small = replace(DIGITS, layers=2)
    model = Interaction(small).eval().requires_grad_(False)
    model.initialise(seed=1)
    rows = torch.randn(3, 5, small.hidden, generator=torch.Generator().manual_seed(2))
    marked, plain = model.state(2), model.state(2)
    for state in (marked, plain):
        state.open(0)
        state.open(1)
    model.trunk.append(rows[:1], marked, [0])
    marked.mark(4)
    model.trunk.append(rows[1:2], marked, [1])
    marked.mark(4)
    marked.go_back([0], 4)
    found = model.trunk.append(rows[2:], marked, [0])
    model.trunk.append(rows[:1, :1], plain, [0])
    expected = model.trunk.append(rows[2:], plain, [0])
    assert torch.allclose(found, expected, atol=1e-5)
    assert marked.positions.tolist() == [6, 5]


def test_the_engine_is_not_cut_by_our_ranks() -> None:
    with pytest.raises(ValueError, match="ranks = 2: engine = 'sglang' divides by SGLang's own means"):
        make_engine("sglang", ranks=2)


def test_where_sglang_is_missing_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sglang" else find(name))
    with pytest.raises(ValueError, match="engine = 'sglang': sglang not installed; .*make setup-sglang"):
        make_engine("sglang", slots=2)
