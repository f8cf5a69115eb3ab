"""An OpenAI-compatible server that is not ours: that of the package transformers, with a tiny model on the CPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.background.agent import Agent
from gateway.background.chat import Chat
from gateway.background.small_tools import calculate
from gateway.background.tools import Toolbox, of_function
from gateway.background.worker import Purse
from gateway.config import GatewaySettings
from loadtests.ports import free_port
from tests.gateway.background.support import Reader, is_over, line, order, told, working
from tests.gateway.background.tiny_model import END, WORDS
from tests.gateway.state.server import NAMESPACE, StateServer, play

pytestmark = [pytest.mark.redis, pytest.mark.processes]
ROOT = Path(__file__).parents[3]
PATIENCE_S = 150.0
TOKENS = 400


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Its URL, and the model's name."""
    missing = [
        name
        for name in ("transformers", "fastapi", "uvicorn", "openai")
        if not importlib.util.find_spec(name)
    ]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install 'transformers[serving]'")
    folder = tmp_path_factory.mktemp("tiny")
    quiet = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(folder / "home")}
    made = [sys.executable, "-m", "tests.gateway.background.tiny_model", str(folder / "model")]
    subprocess.run(made, cwd=ROOT, env=quiet, check=True, timeout=PATIENCE_S, capture_output=True)
    port = free_port()
    program = Path(sys.executable).with_name("transformers")
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [program, "serve", folder / "model", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            cwd=folder, env=quiet, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/v1/models", server, folder / "log")
        yield f"http://127.0.0.1:{port}/v1", str(folder / "model")
    finally:
        server.kill()
        server.wait()


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        assert server.poll() is None, log.read_text()[-2_000:]
        try:
            urllib.request.urlopen(url, timeout=2.0)
            return
        except urllib.error.HTTPError:  # it answers: what it has to list is no matter
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(log.read_text()[-2_000:])


def test_its_words_come_piece_by_piece_through_the_queue(
    endpoint: tuple[str, str], server: StateServer
) -> None:
    url, model = endpoint

    async def story() -> None:
        settings = GatewaySettings(
            background_url=url, background_model=model, background_tokens_per_call=9_000
        )
        async with line(server) as here:
            agent = Agent(
                Chat(url, "", model, 60.0), Toolbox([of_function(calculate)], 1.0), Purse(here, settings),
                tries=1, answer_tokens=TOKENS,
            )  # fmt: skip
            reader, came = Reader(here), list[float]()
            async with working(server, agent):
                await here.ask(order(request="caller: where is my parcel"), 60_000)
                news: list[Any] = []
                while not is_over(news):
                    seen = len(reader.news)
                    news = await reader.until(lambda n, seen=seen: len(n) > seen, 90.0)  # type: ignore[misc]
                    came += [time.monotonic()] * sum(bool(n.text) for n in news[seen:])
            assert news[-1].state == "done", news[-1]
            text = "".join(piece for _, _, piece in told(news))
            assert len(text.split()) > 100 and set(text.split()) <= {*WORDS, END}
            assert len(came) >= 3 and came[-1] - came[0] > 0.2, came
        with server.look() as look:
            spent: Any = look.hgetall(f"{NAMESPACE}:{{tasks}}:spent:{order().call}")
        assert TOKENS <= int(spent[b"tokens"]) < 9_000  # as the server counted them

    play(story())
