"""A small model under SGLang's HTTP server as the endpoint of the background worker, a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
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
from tests.gateway.background.test_foreign_endpoint import wait_for
from tests.gateway.background.tiny_model import END, WORDS
from tests.gateway.state.conftest import folder, program, server  # noqa: F401
from tests.gateway.state.server import NAMESPACE, StateServer, play
from tests.support.sglang_here import needs_sglang

pytestmark = [needs_sglang, pytest.mark.redis, pytest.mark.processes]

ROOT = Path(__file__).resolve().parents[2]
MADE_S = 120.0
MODEL = "tiny"
TRIES = 4
"""The model's weights are random: of 17 words it may say, one ends its answer."""
ON_CPU = (
    *("--device", "cpu", "--dtype", "float32", "--attention-backend", "torch_native"),
    *(
        "--sampling-backend",
        "pytorch",
        "--disable-overlap-schedule",
        "--disable-cuda-graph",
        "--sleep-on-idle",
    ),
    *("--max-total-tokens", "8192", "--mem-fraction-static", "0.2", "--log-level", "error"),
)
"""In place of what docs/models.md has for GPUs."""


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    here = tmp_path_factory.mktemp("tiny")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SGLANG_EXTERNAL_")}
    quiet = kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "SGLANG_USE_CPU_ENGINE": "1"}
    made = [sys.executable, "-m", "tests.gateway.background.tiny_model", str(here / "model")]
    subprocess.run(made, cwd=ROOT, env=quiet, check=True, timeout=MADE_S, capture_output=True)
    port = free_port()
    served = ["--model-path", str(here / "model"), "--served-model-name", MODEL, "--port", str(port)]
    with (here / "log").open("wb") as log:
        chat = subprocess.Popen(
            [sys.executable, "-m", "sglang.launch_server", "--host", "127.0.0.1", *served, *ON_CPU],
            cwd=here, env=quiet, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/v1/models", chat, here / "log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        chat.terminate()
        try:
            chat.wait(20)
        except subprocess.TimeoutExpired:
            chat.kill()
            chat.wait()


def test_its_words_come_through_the_queue(
    endpoint: str,
    server: StateServer,  # noqa: F811
) -> None:
    heard: list[str] = []

    async def story() -> None:
        settings = GatewaySettings(background_url=endpoint, background_model=MODEL)
        async with line(server) as here:
            agent = Agent(
                Chat(endpoint, "", MODEL, 60.0), Toolbox([of_function(calculate)], 1.0), Purse(here, settings),
                tries=1, answer_tokens=64,
            )  # fmt: skip
            reader = Reader(here)
            async with working(server, agent):
                for number in range(TRIES):
                    asked = order(number + 1, request="caller: where is my parcel")
                    await here.ask(asked, 60_000)

                    def is_told(news: list[Any], task: str = asked.task) -> bool:
                        return is_over([one for one in news if one.task == task])

                    news = told(await reader.until(is_told, 60.0), asked.task)
                    heard.append("".join(piece for _, _, piece in news))
                    if news[-1][1] == "done" and heard[-1].split():
                        return
        raise AssertionError(f"no answer in {TRIES} tries: {heard}, {news}")

    play(story())
    assert set(heard[-1].split()) <= {*WORDS, END, "<unk>", "<s>"}, heard
    with server.look() as look:
        spent: Any = look.hgetall(f"{NAMESPACE}:{{tasks}}:spent:{order().call}")
    assert int(spent[b"tokens"]) > 0  # as the server counted them


def test_the_recipes_of_the_documentation_are_read_by_this_sglang() -> None:
    reads = """
import argparse, sys
from sglang.srt.server_args import ServerArgs
parser = argparse.ArgumentParser(allow_abbrev=False)
ServerArgs.add_cli_args(parser)
for line in sys.stdin:
    parser.parse_args(line.split())
    print("read")
"""
    text = (ROOT / "docs" / "models.md").read_text().replace("\\\n", " ")
    recipes = [part for part in text.splitlines() if "sglang.launch_server" in part]
    assert len(recipes) == 2
    flags = "\n".join(part.partition("sglang.launch_server")[2] for part in recipes)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", reads],
        input=flags,
        env={**os.environ, "SGLANG_USE_CPU_ENGINE": "1"},
        capture_output=True,
        text=True,
        timeout=MADE_S,
    )
    assert done.stdout.split() == ["read", "read"], done.stderr[-1_000:]
