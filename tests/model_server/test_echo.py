from __future__ import annotations

import numpy as np
import pytest

from media.chunk import Chunk
from media.ring import META
from media.timebase import TURN_SAMPLES
from model_server.batch import Batch
from model_server.engine.echo import EchoEngine
from model_server.engine.registry import make_engine


def chunk(turn: int, **more: object) -> Chunk:
    return Chunk(1, turn, 0, np.full(TURN_SAMPLES, turn, np.int16), **more)  # type: ignore[arg-type]


def batch(slots: list[int], chunks=None, earlier=None) -> Batch:
    meta = np.zeros(len(slots), META)
    pcm = np.repeat(np.array(slots, np.int16)[:, None], TURN_SAMPLES, axis=1)
    return Batch(0, np.array(slots, np.intp), meta, pcm, chunks or {}, earlier or {})


@pytest.fixture
def echo():
    engine = EchoEngine()
    for slot in range(8):
        engine.open(slot, "")
    return engine


def test_samples_come_back_as_they_went(echo):
    results = echo.step(batch([1, 5]))
    assert results.pcm_BS[:, 17].tolist() == [1, 5] and not results.said


def test_text_and_digits_come_back_as_text(echo):
    said = echo.step(batch([1, 5], {1: chunk(0, text="hi", events=("hold", "dtmf 5", "dtmf #"))})).said
    assert {b: s.text for b, s in said.items()} == {1: "hi\ndtmf 5\ndtmf #"}


def test_what_a_late_chunk_said_is_in_the_next_reply(echo):
    none = echo.step(batch([1], earlier={5: (chunk(0, events=("dtmf 1",)),)})).said
    assert not none
    late = {5: (chunk(1, text="b"), chunk(2))}
    said = echo.step(batch([1, 5], {1: chunk(3, text="c")}, late)).said
    assert {b: s.text for b, s in said.items()} == {1: "dtmf 1\nb\nc"}
    assert not echo.step(batch([1, 5])).said


def test_a_new_tenant_hears_nothing_of_the_one_before(echo):
    echo.step(batch([], earlier={5: (chunk(0, text="secret"),)}))
    echo.close(5)
    echo.open(5, "")
    assert not echo.step(batch([5], {0: chunk(0)})).said


def test_it_passes_typed_questions_on(echo):
    said = echo.step(batch([1], {0: chunk(0, text="hi\ndelegate 3 plus 4\ndelegate")})).said[0]
    assert said.text == "hi\ndelegate 3 plus 4\ndelegate" and said.events == ("delegate caller: 3 plus 4",)


def test_it_passes_questions_in_keys_on(echo):
    def press(slot: int, *keys: str) -> tuple[str, ...]:
        return echo.step(batch([slot], {0: chunk(0, events=tuple(f"dtmf {k}" for k in keys))})).said[0].events

    assert press(1, "*", "3") == () and press(2, "4", "#") == () and press(2, "*", "#") == ()
    assert press(1, "*", "4", "#") == ("delegate caller: 3 plus 4",)
    assert press(1, "#") == ()
    assert press(1, "*", *"123456789012345678", "#") == ()
    echo.close(1)
    echo.open(1, "")
    assert press(1, "5", "#") == ()


def test_keys_that_no_telephone_has_are_actions(echo):
    said = echo.step(batch([1], {0: chunk(0, events=("dtmf A", "dtmf B", "dtmf C", "dtmf D"))})).said[0]
    assert said.events == ("transfer", "dtmf 5", "join", "hangup")


@pytest.mark.parametrize("name", ["torch"])
def test_an_engine_that_is_not_built_says_so(name):
    with pytest.raises(ValueError, match=f"engine = '{name}': not built yet; expected echo"):
        make_engine(name)


def test_an_unknown_engine_names_the_known(echo):
    with pytest.raises(ValueError, match="engine = 'eho'.*expected echo"):
        make_engine("eho")
    assert make_engine("echo").name == "echo"
