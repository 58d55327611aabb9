"""An MCP server made with the SDK: ``python -m tests.support.mcp_server [PORT]``, over HTTP or stdio."""

import os
import sys
import time

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("test")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool(name="what.is/this")
def fail(why: str) -> str:
    """Fail."""
    raise ToolError(why)


@server.tool()
def wait(seconds: float) -> str:
    """Wait."""
    time.sleep(seconds)
    return "waited"


@server.tool()
def leave() -> str:
    """End the server."""
    os._exit(1)


@server.tool()
def secret() -> str:
    """Return what the configuration gave the server."""
    return f"{os.environ.get('SECRET')} {os.getcwd()} {os.environ.get('NOT_GIVEN')}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run()
