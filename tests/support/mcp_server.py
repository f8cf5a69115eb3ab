"""A small MCP server of the official package, over standard input and output."""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer

server = MCPServer("small")


@server.tool()
def parcel(number: int) -> str:
    """Where a parcel is."""
    if number == 13:
        raise ValueError("no such parcel")
    return f"Parcel {number} is in Lyon."


if __name__ == "__main__":
    server.run()
