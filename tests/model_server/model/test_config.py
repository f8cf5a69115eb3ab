"""Configurations: what they name, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from model_server.model.config import CONFIGS, DIGITS, INTERACTION_276B_A12B_RELEASED, config_of


def test_every_sixth_layer_is_global() -> None:
    layers = range(INTERACTION_276B_A12B_RELEASED.layers)
    found = [layer for layer in layers if INTERACTION_276B_A12B_RELEASED.is_global(layer)]
    assert found == [5, 11, 17, 23, 29, 35, 41]
    assert [layer for layer in range(DIGITS.layers) if DIGITS.is_global(layer)] == [1, 3]


def test_names() -> None:
    assert {"digits", "small-30b-a3b", "interaction-276b-a12b"} <= set(CONFIGS)
    assert config_of("digits") is DIGITS
    with pytest.raises(ValueError, match="'digit'.*expected one of digits"):
        config_of("digit")


@pytest.mark.parametrize(
    "wrong",
    [
        {"heads": 5},
        {"bias_extent": 2000},
        {"experts_chosen": 9},
        {"shared_experts": 0},
        {"vocabulary_used": 300},
        {"vision_folds": ((1, 5), (1, 2), (1, 2), (2, 1))},
        {"vision_folds": ((1, 5), (1, 2), (1, 4), (1, 1))},
        {"vision_widths": (32, 64)},
    ],
)
def test_what_does_not_fit_together_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="configuration 'digits': expected"):
        replace(DIGITS, **wrong)
