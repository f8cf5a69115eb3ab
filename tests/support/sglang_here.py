"""Tests of the engine `sglang` run where SGLang is: in its own environment."""

from __future__ import annotations

import importlib.util

import pytest

needs_sglang = pytest.mark.skipif(
    importlib.util.find_spec("sglang") is None,
    reason="SGLang is not in this environment: make test-sglang",
)
