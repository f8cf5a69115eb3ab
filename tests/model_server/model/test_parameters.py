"""Parameter counts, exact, for both readings of "276B"."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.model.config import config_of  # noqa: E402
from model_server.model.parameters import count_parameters  # noqa: E402


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("interaction-276b-a12b", 276_309_541_930),  # as announced: experts in every layer
        ("interaction-276b-a12b-released", 263_724_516_394),  # the open Inkling-Small: two dense layers
    ],
)
def test_both_readings_of_276b(name: str, total: int) -> None:
    parameters = count_parameters(config_of(name))
    assert parameters.total == total
    assert round(parameters.active / 1e9, 2) == 12.07


def test_the_30b_model_is_one() -> None:
    parameters = count_parameters(config_of("small-30b-a3b"))
    embeddings = 2 * 201_024 * 2048
    assert 29e9 < parameters.total < 31e9 and 2.5e9 < parameters.active - embeddings < 3.5e9


def test_digits_fits_its_file() -> None:
    parameters = count_parameters(config_of("digits"))
    assert (
        2 * (parameters.total + parameters.ours) < 14e6
    )  # bytes as float16; 2 MB are left for the flow head
