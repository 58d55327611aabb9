"""Ask the bundled model for products through ``--tools FILE.py``, and have a scripted model use published MCP servers.

``python -m tests.reports.tools mcp-server-time mcp-server-sqlite`` takes the programs of two servers. It exits with 1
if a goal is missed.
"""

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from random import Random

import gptoss_mlx
from gptoss_mlx.errors import GptOssError
from gptoss_mlx.events import ToolResult
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.tools.functions import file_tools
from gptoss_mlx.tools.mcp_servers import mcp_tools, read_config
from tests.support import scripted
from tests.test_conversation import CALL, FINAL, to_ids
from tests.tiny.training.arithmetic import answered_number
from tests.tiny.training.conversations import Author

COUNT = 100
GOAL = 0.95
FILE = '''
def calculate(expression: str) -> str:
    """Evaluate a math expression."""
    a, b = expression.split("*")
    return str(int(a) * int(b) + {off})
'''


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("time", help="the program of mcp-server-time")
    parser.add_argument("sqlite", help="the program of mcp-server-sqlite")
    given = parser.parse_args()
    runtime = gptoss_mlx.load("tiny")
    shares = [products(runtime, 0, "the product"), products(runtime, 7, "what a wrong tool returned")]
    fine = all([published(given.time, given.sqlite), min(shares) >= GOAL])
    sys.exit(not fine)


def products(runtime: gptoss_mlx.Runtime, off: int, what: str) -> float:
    """Ask for products that training excludes. Return which share of the answers is the product plus ``off``."""
    author = Author(Random("tools"), held_out=True, hard=False)
    right = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "calc.py"
        path.write_text(FILE.format(off=off))
        for _ in range(COUNT):
            text, a, b = author.product_question()
            try:
                said = gptoss_mlx.chat(runtime, text, tools=file_tools(path), temperature=0, max_tokens=400)
            except GptOssError as error:
                said = str(error)
            fits = answered_number(said) == a * b + off
            right += fits
            if not fits:
                print(f"  {text!r}: {said[:80]!r}")
    print(f"products through a file's function: {right} of {COUNT} answers are {what}")
    return right / COUNT


def published(time_server: str, sqlite: str) -> bool:
    """Have a scripted model use both servers in one turn each, and return whether it was told what is right."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = {
            "time": {"command": time_server, "args": ["--local-timezone", "UTC"]},
            "db": {"command": sqlite, "args": ["--db-path", f"{folder}/test.db"]},
        }
        config = Path(folder) / "mcp.json"
        config.write_text(json.dumps({"mcpServers": servers}))
        tools = stack.enter_context(mcp_tools(read_config(config)))
        told = turn(
            tools,
            ("time_convert_time", {"source_timezone": "Asia/Tokyo", "time": "12:00", "target_timezone": "UTC"}),
            ("time_convert_time", {"source_timezone": "No/Where", "time": "12:00", "target_timezone": "UTC"}),
            ("db_create_table", {"query": "CREATE TABLE t (a INTEGER)"}),
            ("db_write_query", {"query": "INSERT INTO t VALUES (6), (7)"}),
            ("db_read_query", {"query": "SELECT sum(a) AS s FROM t"}),
        )
    words = ("T03:00:00+00:00", "No/Where", "created", "2", "13")
    fine = [word in text for word, text in zip(words, told, strict=True)]
    print(
        f"mcp-server-time and mcp-server-sqlite: {sum(fine)} of {len(fine)} results as they must be, {len(tools)} tools"
    )
    return all(fine)


def turn(tools: list, *calls: tuple[str, dict[str, object]]) -> list[str]:
    """Return what a scripted model is told that makes these calls, one a reply, in one turn."""
    tokenizer = Tokenizer.bundled()
    replies = [CALL.format(name, json.dumps(arguments)) for name, arguments in calls] + [FINAL + "Done.<|return|>"]
    with scripted.conversation(tokenizer, *[to_ids(reply, tokenizer) for reply in replies], tools=tools) as chat:
        return [event.output for event in chat.send("go") if isinstance(event, ToolResult)]


if __name__ == "__main__":
    main()
