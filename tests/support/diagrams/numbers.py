"""The numbers at which the product stops, as the code has them, for the page of limits."""

from gptoss_mlx import attachments, conversation, repetition
from gptoss_mlx.batch import source
from gptoss_mlx.cli import constraints, options
from gptoss_mlx.config import PUBLISHED
from gptoss_mlx.engine.context import MARKS, PREFILL_CHUNK
from gptoss_mlx.grammars import grammar, json_schema
from gptoss_mlx.requests import chat_completions, completions, messages, request
from gptoss_mlx.server import exchange, process, service, stored
from gptoss_mlx.tools import sandbox, scratch, tool

MIB = 1 << 20


def numbers() -> str:
    """Return the table of limits."""
    context = {config.max_position_embeddings for config in PUBLISHED.values()}
    (positions,) = context
    rows: dict[str, tuple[tuple[str, object], ...]] = {
        "model": (
            ("tokens of a context, of 20b and of 120b", positions),
            ("positions of a prompt that are read at a time", PREFILL_CHUNK),
            ("points that a conversation can go back to without reading again", MARKS),
        ),
        "conversation": (
            ("bytes of an attached file", attachments.MOST_BYTES),
            ("tokens that a reply may repeat exactly before it is ended", repetition.MOST),
            ("tokens of the longest piece whose repetition is noticed", repetition.LONGEST),
            ("what was read may take on disk, where nothing else is said", options.PREFIX_DISK),
        ),
        "tools": (
            ("replies with calls to one message", conversation.TOOL_REPLIES),
            ("seconds of a call", tool.SECONDS),
            ("characters of a result that the model reads", tool.MOST_CHARACTERS),
            ("MiB of memory in the sandbox", sandbox.MEMORY_BYTES // MIB),
            ("MiB of files in the sandbox", scratch.MOST_BYTES // MIB),
            ("MiB of a call's output in the sandbox", sandbox.OUTPUT_BYTES // MIB),
        ),
        "structured output": (
            ("characters of a schema", json_schema.MOST_TEXT),
            ("bytes of a file with a schema or a grammar", constraints.MOST_BYTES),
            ("arrays and objects in each other in a schema", json_schema.MOST_DEPTH),
            ("characters of a regex or of a grammar", grammar.MOST_TEXT),
            ("rules of a grammar", grammar.MOST_RULES),
        ),
        "server": (
            ("requests that wait beside those that are answered", process.QUEUED),
            ("open connections", process.CONNECTIONS),
            ("MiB of a request", exchange.MAX_BODY // MIB),
            ("tokens of a reply whose request names no limit", service.UNLIMITED),
            ("replies to a request (`n`)", chat_completions.MAX_N),
            ("stop strings, OpenAI's API", request.MAX_STOPS),
            ("stop strings, Anthropic's API", messages.MOST_STOPS),
            ("`top_logprobs`", request.MOST_LIKELIEST),
            ("prompts in a request of `/v1/completions`", completions.MOST_PROMPTS),
            ("responses kept to be continued", stored.MOST),
            ("MiB of these", stored.MOST_BYTES // MIB),
        ),
        "batch": (
            ("MiB of a line", source.MAX_LINE // MIB),
            ("arrays and objects in each other in a line", source.MAX_DEPTH),
        ),
    }
    lines = ["| | at most | |", "|---|---|---|"]
    for part, found in rows.items():
        lines += [
            f"| {part if not number else ''} | {_shown(value)} | {what} |" for number, (what, value) in enumerate(found)
        ]
    return "\n".join(lines)


def _shown(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)
