"""What a policy costs is measured on a leg of our own."""

from __future__ import annotations

import pytest

from loadtests.safety import main, measure, policy_of


def test_what_is_measured_is_off_and_on() -> None:
    rules = policy_of(10, 3).rules
    assert sum(len(rule.words) for rule in rules) == 24 and sum(bool(rule.pattern) for rule in rules) == 2
    result = measure(10, 3, 60)
    assert 0 < result["words_off_us"]["p50"] < result["words_on_us"]["p50"]
    assert set(result["no_text_on_us"]) == {"p50", "p95", "p99", "max"}


def test_slips_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rules", "0"]) == 2 and "must be positive" in capsys.readouterr().err
