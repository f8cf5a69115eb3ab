"""Whose trunk the engine `sglang` has, and how a turn is asked for."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

import base64  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from model_server.engine.registry import make_engine  # noqa: E402
from model_server.engine.sglang import asking, host  # noqa: E402
from model_server.engine.sglang.folder import HIDDEN_KEY, LOST_KEY  # noqa: E402
from model_server.engine.sglang.trunk import AUTO, INKLING, OWN, Found, choose  # noqa: E402
from model_server.engine.sglang.turn_item import HEAR, SPEAK, Header, TurnItem  # noqa: E402
from model_server.model.vocabulary import END  # noqa: E402

FIT = Found("NVIDIA H100", (9, 0))


@pytest.mark.parametrize(
    ("asked", "found", "chosen"),
    [(AUTO, FIT, INKLING), (AUTO, Found(), OWN), (INKLING, FIT, INKLING), (OWN, FIT, OWN),
     (AUTO, Found("Tesla T4", (7, 5)), OWN), (AUTO, Found("NVIDIA H100", (9, 0), ("cutlass",)), OWN)],
)  # fmt: skip
def test_auto_takes_what_can_run(asked: str, found: Found, chosen: str) -> None:
    assert choose(asked, found) == chosen


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (Found(), "found no CUDA device; expected one"),
        (Found("Tesla T4", (7, 5)), "found Tesla T4 of compute capability 7.5; expected 8.0 or later"),
        (
            Found("A100", (8, 0), ("cutlass", "sgl_kernel")),
            "found no package cutlass nor sgl_kernel; pip install",
        ),
    ],
)
def test_asked_for_by_name_it_says_what_is_lacking(found: Found, told: str) -> None:
    with pytest.raises(ValueError, match=f"trunk = 'inkling'.*{told}.*--trunk own"):
        choose(INKLING, found)


def test_an_unknown_trunk_is_refused() -> None:
    with pytest.raises(ValueError, match="trunk = 'oak': expected auto, own or inkling"):
        choose("oak", FIT)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it may run")
def test_the_engine_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_server.engine.registry._look_for", lambda *_: None)
    with pytest.raises(
        ValueError, match="trunk = 'inkling': SGLang's Inkling does not run here: found no CUDA"
    ):
        make_engine("sglang", trunk="inkling", slots=2)


def item(say_limit: int) -> TurnItem:
    return TurnItem(Header(0, 1, 0, say_limit, 0, 2), np.zeros((4, 161), np.uint8), (5, 6))


def test_a_turn_of_two_requests_has_the_positions_of_one() -> None:
    hears = asking.hears(item(3), "s")
    assert hears["input_ids"] == [5, 6, HEAR] and hears["sampling_params"]["max_new_tokens"] == 3
    for written, speaking in (([9, END], 3), ([END], 3), ([9, 8, 7], 4)):
        speaks: Any = asking.speaks(item(3), "s", {"output_ids": written})
        assert speaks["input_ids"] == [SPEAK] * speaking and speaks["sampling_params"]["max_new_tokens"] == 0
        assert "audio_data" not in speaks and speaks["session_params"] == {"id": "s"}


def test_where_nothing_may_be_written_one_request_is_all() -> None:
    hears = asking.hears(item(0), "s")
    assert (
        hears["input_ids"] == [5, 6, HEAR, *[SPEAK] * 4] and hears["sampling_params"]["max_new_tokens"] == 0
    )
    assert asking.speaks(item(0), "s", {"output_ids": []}) is None


def test_words_are_of_the_first_request_and_rows_of_the_second() -> None:
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    said = {HIDDEN_KEY: [base64.b64encode(rows.tobytes()).decode()], LOST_KEY: [""], "finish_reason": None}
    answer = asking.answer_of({"meta_info": said, "output_ids": []}, {"output_ids": [9, END]})
    assert isinstance(answer, asking.Answer)
    assert answer.tokens == [9] and np.array_equal(answer.hidden, rows) and answer.passes == 3


def test_each_trunk_has_its_model_and_its_device() -> None:
    assert host.environment()["SGLANG_EXTERNAL_MODEL_PACKAGE"].endswith("sglang.models")
    found = host.environment(INKLING)
    assert found["SGLANG_EXTERNAL_MODEL_PACKAGE"].endswith("sglang.inkling")
    assert found["SGLANG_EXTERNAL_MM_MODEL_ARCH"] == "InklingForConditionalGeneration"
