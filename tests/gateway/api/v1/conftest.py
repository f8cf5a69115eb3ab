"""One real server for each test that asks for one: what differs between servers is tried in tests/gateway/state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.state.conftest import folder
from tests.gateway.state.server import StateServer, first_program

__all__ = ["folder"]


@pytest.fixture
def server(folder: Path) -> Iterator[StateServer]:
    """Started; looked through at the end, that nothing is kept for ever."""
    here = StateServer(first_program(), folder)
    try:
        yield here.start()
        here.check_that_all_ends()
    finally:
        here.stop()
