"""One SGLang for all tests of a run: it takes half a minute to start.

Its sessions are small, so that each is rolled over every six seconds of a call.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import psutil
import pytest

from model_server.engine.registry import CHECKPOINT
from model_server.training.corpus import DATA

CALLS = 12
SESSION_TOKENS = 300
TURN_S = 3.0


def scheduler(of: int = 0) -> psutil.Process:
    """SGLang's, of an engine in the process `of`, or in this one."""
    found = [
        child
        for child in psutil.Process(of or os.getpid()).children(recursive=True)
        if "scheduler" in " ".join(child.cmdline()) or "scheduler" in child.name()
    ]
    assert len(found) == 1, found
    return found[0]


class Recorder:
    """An engine that keeps what its model wrote, by persona: the token ids of each turn, of calls in order."""

    written: dict[int, list[tuple[int, ...]]]

    def _reply(self, call: Any, pcm: Any, tokens: Sequence[int]) -> Any:
        self.written.setdefault(id(call), []).append(tuple(tokens))
        return super()._reply(call, pcm, tokens)  # type: ignore[misc]


@pytest.fixture(scope="session")
def under_sglang() -> Iterator[Any]:
    """The shipped network, in float32."""
    torch = pytest.importorskip("torch")
    from model_server.engine.sglang.engine import SglangEngine
    from model_server.engine.sglang.limits import Limits

    class Recorded(Recorder, SglangEngine):
        written: dict[int, list[tuple[int, ...]]] = {}

    limits = Limits(CALLS, 90, session_tokens=SESSION_TOKENS, turn_s=TURN_S)
    engine = Recorded(CHECKPOINT, calls=CALLS, products=torch.float32, limits=limits)
    engine.warm(CALLS)
    yield engine
    assert engine.check() == [] and engine.rows.tokens_held == 0 and engine.rows.sessions == 0
    engine.shut_down()


@pytest.fixture(scope="session")
def in_torch() -> Any:
    """The same by `digits`."""
    torch = pytest.importorskip("torch")
    from model_server.engine.digits import DigitsEngine

    class Recorded(Recorder, DigitsEngine):
        written: dict[int, list[tuple[int, ...]]] = {}

    return Recorded(CHECKPOINT, products=torch.float32)


@pytest.fixture
def calls(under_sglang: Any, in_torch: Any) -> Iterator[Any]:
    """Begins `Calls`, so many, which have had so many turns; ends them."""
    from tests.on_sglang.live import Calls

    made: list[Calls] = []

    def begin(count: int, turns: int = 0) -> Calls:
        made.append(Calls(under_sglang, in_torch, count))
        made[-1].go_on(turns)
        return made[-1]

    yield begin
    for each in made:
        each.end()


@pytest.fixture(scope="session")
def data() -> Any:
    if not (DATA / "MANIFEST.tsv").exists():
        pytest.skip(f"needs the data set in {DATA}")
    return DATA
