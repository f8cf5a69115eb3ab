"""Tools of MCP servers, by the official package `mcp` (an extra): a URL, or a command that is run here.

A server that is away, or goes, costs its tools alone: a call says so, and the connection is made anew.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shlex
from typing import Any, Final

import structlog

from gateway.background.tools import Tool

log = structlog.get_logger()

MOST_PAUSE_S: Final = 30.0
MOST_TOOLS: Final = 32
"""Of one server."""


class McpServer:
    """One of them. `tools` is what it had when it was first met; `run` keeps the connection."""

    def __init__(self, name: str, place: str, patience_s: float) -> None:
        """`ValueError` when the package is not there, or the place is none."""
        if importlib.util.find_spec("mcp") is None:
            raise ValueError("background_mcp needs the package mcp: pip install 'microturn[mcp]'")
        if not place.startswith(("http://", "https://")) and not shlex.split(place):
            raise ValueError(f"background_mcp: {name} = {place!r}: expected a URL or a command line")
        self.name, self.tools = name, list[Tool]()
        self.met = asyncio.Event()
        """Set once its tools are known, or cannot be had now."""
        self._place, self._patience_s = place, patience_s
        self._client: Any = None

    async def run(self) -> None:
        """Until cancelled."""
        pause_s = 0.5
        while True:
            try:
                await self._keep()
            except Exception as wrong:  # the edge of a server that is anybody's
                log.warning("no MCP server", server=self.name, reason=type(wrong).__name__)
            finally:
                self._client = None
                self.met.set()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MOST_PAUSE_S)

    async def _keep(self) -> None:
        from mcp import Client, StdioServerParameters

        place: Any = self._place
        if not place.startswith(("http://", "https://")):
            command, *arguments = shlex.split(place)
            place = StdioServerParameters(command=command, args=arguments)
        async with Client(place, read_timeout_seconds=self._patience_s) as client:
            listed = (await client.list_tools()).tools[:MOST_TOOLS]
            if not self.tools:
                self.tools = [self._tool(tool) for tool in listed]
            self._client = client
            self.met.set()
            log.info("MCP server", server=self.name, tools=len(listed))
            while True:  # whether it is still there
                await asyncio.sleep(10.0)
                await client.list_tools(cache_mode="refresh")

    def _tool(self, tool: Any) -> Tool:
        async def run(arguments: dict[str, Any]) -> str:
            if self._client is None:
                return f"error: the server of this tool ({self.name}) is away"
            result = await self._client.call_tool(tool.name, arguments)
            text = "\n".join(part.text for part in result.content if getattr(part, "type", "") == "text")
            return f"error: {text}" if result.is_error else text

        return Tool(f"{self.name}_{tool.name}"[:64], tool.description or tool.name, tool.input_schema, run)
