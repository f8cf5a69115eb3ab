"""Tools of a real MCP server, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.background.mcp_tools import McpServer
from gateway.background.tools import Toolbox

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mcp") is None, reason="mcp is not installed: pip install 'microturn[mcp]'"
)
PROGRAM = Path(__file__).parents[2] / "support" / "mcp_server.py"


@contextlib.asynccontextmanager
async def running(place: str) -> AsyncIterator[McpServer]:
    server = McpServer("post", place, 10.0)
    keeping = asyncio.create_task(server.run())
    try:
        async with asyncio.timeout(60):
            await server.met.wait()
            yield server
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


def children() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes()
                if int(stat[1]) == os.getpid() and str(PROGRAM).encode() in command and stat[0] != "Z":
                    found.append(int(entry.name))
    return found


def test_its_tools_are_called_and_it_may_go() -> None:
    async def story() -> None:
        async with running(shlex.join([sys.executable, str(PROGRAM)])) as server:
            (tool,) = server.tools
            assert tool.name == "post_parcel" and tool.description == "Where a parcel is."
            assert tool.parameters["properties"]["number"]["type"] == "integer"
            box = Toolbox(server.tools, 20.0)
            assert await box.call("post_parcel", '{"number": 7}') == "Parcel 7 is in Lyon."
            assert (await box.call("post_parcel", '{"number": 13}')).startswith("error: ")
            assert (await box.call("post_parcel", '{"number": "x"}')).startswith("error: ")
            (child,) = children()
            os.kill(child, signal.SIGKILL)
            assert (await box.call("post_parcel", '{"number": 7}')).startswith("error: ")
        assert children() == []

    asyncio.run(story())


def test_a_server_that_is_not_there_costs_its_tools_alone() -> None:
    async def story() -> None:
        async with running("/no/such/program") as server:
            assert server.tools == []
        async with running("http://127.0.0.1:9/mcp") as server:
            assert server.tools == []

    asyncio.run(story())


def test_a_place_that_is_none() -> None:
    with pytest.raises(ValueError, match="expected a URL or a command line"):
        McpServer("post", "  ", 1.0)
