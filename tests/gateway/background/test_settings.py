"""What an operator may say, and what is said back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.config import load

ENDPOINT = {"background_url": "http://127.0.0.1:30000/v1/", "background_model": "tiny"}


def test_an_endpoint_with_its_tools() -> None:
    settings = load(
        **ENDPOINT, background_tools="shop.tools:refund, shop.tools:find", background_mcp={"a": "b c"}
    )
    assert settings.background_url == "http://127.0.0.1:30000/v1"
    assert settings.background_tools == ("shop.tools:refund", "shop.tools:find")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"background_url": "127.0.0.1:30000"}, "expected http://HOST:PORT/v1"),
        ({"background_url": "http://me:secret@host/v1", "background_model": "x"}, "a key is background_key"),
        ({"background_url": "http://host/v1"}, "name the model to ask for"),
        ({"background_model": "x"}, "of no use without background_url"),
        ({"background_mcp": {"a": "b"}}, "of no use without background_url"),
        ({**ENDPOINT, "background_tools": "no-colon"}, "MODULE:FUNCTION"),
        ({**ENDPOINT, "background_spend_per_call": 1.0}, "nothing would ever cost anything"),
    ],
)
def test_what_does_not_fit_together(given: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        load(**given)


def test_a_key_is_never_shown() -> None:
    assert "abc" not in repr(load(**ENDPOINT, background_key="abc"))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--redis=off"], "a background worker takes its tasks from there"),
        (["--redis=redis://me:secret@host"], "user or password in its URL"),
    ],
)
def test_a_worker_without_a_queue_says_what_to_do(flags: list[str], told: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "gateway", "worker", *flags],
        capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert ended.returncode == 2 and told in ended.stderr and "Traceback" not in ended.stderr


def test_two_workers_cannot_listen_on_one_port() -> None:
    assert load(background_metrics_port=9100).background_metrics_port == 9100
    with pytest.raises(ValueError, match="only one process can listen"):
        load(background_metrics_port=9100, background_workers=2)
