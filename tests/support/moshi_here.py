"""Tests of the engine `moshi` run where the package is: in its own environment."""

from __future__ import annotations

import importlib.util

import pytest

needs_moshi = pytest.mark.skipif(
    importlib.util.find_spec("moshi") is None,
    reason="the package moshi is not in this environment: make test-moshi",
)
