"""``python -m tests.reports.fuzz_batch``: read batch lines with every JSON type in every field, and torn ones.

Source, the request readers and harmony's renderer read every line. The command line with the bundled model reads some
of them. Each line must become a request or an error of its own, without an exception other than GptOssError. The
program prints the count and the seed. It prints each line that fails, and then exits with 1.
"""

import argparse
import copy
import json
import math
import os
import random
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptoss_mlx.batch.source import BadLine, Line, Source, open_source
from gptoss_mlx.errors import GptOssError
from gptoss_mlx.harmony import Tokenizer, render
from gptoss_mlx.requests import Defaults, chat_completions, responses
from gptoss_mlx.sampling import Sampling
from tests.support.cli import run_cli

DEFAULTS = Defaults(Sampling(), date="2025-06-28")

VALUES: tuple[tuple[Any, ...], ...] = (
    (None,),
    (True, False),
    (0, 1, -1, 2**63, 10**30, -(10**400), 10**4299),
    (0.5, -0.0, 1e308, math.nan, -math.inf),
    ("", " ", "a", "1", "\n", "\0", "\ud83d", "\udc00", "é🙂", "\x1b[31m", "<|start|>", "POST", "high", "function"),
    ([], [None], [1], [""], ["a"], [[]], [{}], ["a"] * 9, [{"type": "text"}]),
    ({}, {"a": 1}, {"": {}}, {"type": "text"}, {"\ud83d": []}, {"$ref": "#"}, {"anyOf": [{}]}, {"type": ["null", "x"]}),
)
"""Values of each JSON type."""

SCHEMA = {
    "type": "object",
    "description": "What to do.",
    "properties": {
        "n": {"type": "integer", "description": "How many.", "minimum": 0, "default": 1},
        "unit": {"type": ["string", "null"], "enum": ["a", "b", None]},
        "list": {"type": "array", "items": {"anyOf": [{"type": "number"}, {"$ref": "#/$defs/x"}]}},
    },
    "required": ["n"],
    "additionalProperties": False,
    "$defs": {"x": {"type": "string", "const": "x"}},
}
FUNCTION = {"name": "f", "description": "Does it.", "parameters": SCHEMA, "strict": False}
FORMAT = {"name": "shape", "description": "As asked.", "schema": {"type": "object"}, "strict": False}
CHAT: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {
            "role": "assistant",
            "content": "So",
            "reasoning": "Hm",
            "refusal": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"n": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "2"},
        {"role": "user", "content": "And?"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": "auto",
    "response_format": {"type": "json_schema", "json_schema": FORMAT},
    "reasoning_effort": "low",
    "stop": ["END", "\n\n"],
    "stream": False,
    "stream_options": None,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "seed": 1,
    "n": 1,
    "logprobs": False,
    "logit_bias": {},
    "max_tokens": 5,
    "max_completion_tokens": 5,
    "frequency_penalty": 0,
    "metadata": {"a": "b"},
    "user": "me",
}
RESPONSE: dict[str, Any] = {
    "model": "gpt-4o",
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"n": 1}', "status": "completed"},
        {"type": "function_call_output", "call_id": "c", "output": "2"},
        {"type": "message", "role": "user", "content": "And?"},
    ],
    "tools": [{"type": "function", **FUNCTION}],
    "tool_choice": "auto",
    "text": {"format": {"type": "json_schema", **FORMAT}, "verbosity": "medium"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "max_output_tokens": 5,
    "temperature": 0.5,
    "top_p": 0.9,
    "stream": False,
    "include": [],
    "truncation": "disabled",
    "metadata": {"a": "b"},
}
LINES: tuple[dict[str, Any], ...] = (
    {"custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": CHAT},
    {"custom_id": "x", "method": "POST", "url": "/v1/responses", "body": RESPONSE},
    {"id": "x", "prompt": "Hi", "max_tokens": 5, "temperature": 0.5, "stop": "END", "other": 1},
    {"id": "x", "messages": [{"role": "user", "content": "Hi"}], "tools": [], "metadata": {}},
)

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Failure:
    line: bytes
    problem: str


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Yield the places of all values in ``value``, beginning with its own."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        yield from places(one, (*at, name))


def put(line: Any, place: Place, value: Any) -> Any:
    if not place:
        return value
    holder = line
    for name in place[:-1]:
        holder = holder[name]
    holder[place[-1]] = value
    return line


def spoiled(count: int, seed: int) -> Iterator[bytes]:
    """Yield ``count`` lines: each field with each type, outer fields first. Of every eight lines one has several
    spoiled fields and one is torn. 2,100 lines reach every field.
    """
    rng = random.Random(seed)
    single = [(line, place, rng.choice(kind)) for line in LINES for place in places(line) for kind in VALUES]
    rng.shuffle(single)
    single.sort(key=lambda one: -len(one[1]))
    for number in range(count):
        if number % 8 == 7:
            yield _torn(rng)
        elif number % 8 == 6 or not single:
            yield _dumped(_several(rng), number)
        else:
            line, place, value = single.pop()
            yield _dumped(put(copy.deepcopy(line), place, copy.deepcopy(value)), number)


def _several(rng: random.Random) -> Any:
    line = copy.deepcopy(rng.choice(LINES))
    for _ in range(rng.randint(2, 4)):
        place = rng.choice(list(places(line)))
        if place and rng.random() < 0.3:
            holder = line
            for name in place[:-1]:
                holder = holder[name]
            del holder[place[-1]]
        else:
            line = put(line, place, copy.deepcopy(rng.choice(rng.choice(VALUES))))
    return line


def _torn(rng: random.Random) -> bytes:
    """Return bytes that may not be JSON, or are JSON that is hard to read."""
    whole = json.dumps(rng.choice(LINES)).encode()
    at = rng.randrange(1, len(whole))
    depth = rng.choice((50, 99, 150, 400, 900, 2000))
    nested = rng.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth))
    return rng.choice(
        (
            whole[:at],
            whole[:at]
            + bytes(rng.randrange(256) for _ in range(3)).replace(b"\n", b"").replace(b"\r", b"")
            + whole[at:],
            whole.replace(b'"low"', nested),
            whole.replace(b'"n": 1', b'"n": ' + rng.choice((b"9" * 5000, b"1e999", b"-0", b"1E400", nested))),
            b'{"id": "x", "prompt": "Hi", "other": ' + nested + b"}",
            b'{"id": "x", "prompt": ' + rng.choice((nested, b'"a", "prompt": "b"', b'"\\ud800\\ud800"')) + b"}",
            whole.replace(b'"parameters": {', b'"parameters": {"properties": ' + nested + b", "),
            b"\xff" * 3,
        )
    )


def _dumped(line: Any, number: int) -> bytes:
    """Return the line as JSON, with an id of its own unless the id is spoiled."""
    if isinstance(line, dict):
        for name in ("id", "custom_id"):
            if line.get(name) == "x":
                line[name] = f"x{number}"
    return _json(line).encode()


def _json(value: Any) -> str:
    """Return ``value`` as JSON. Lift Python's limit of digits, because some numbers exceed it."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value)
    finally:
        sys.set_int_max_str_digits(before)


def read(line: Line, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of the line's prompt. Raises GptOssError."""
    match line.kind:
        case "chat":
            request = chat_completions.read(line.body, DEFAULTS)
        case "responses":
            request = responses.read(line.body, DEFAULTS)
        case "plain":
            body = dict(line.body)
            if "prompt" in body:
                body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
            request = chat_completions.read(body, DEFAULTS, unknown_fields=True)
    return render(request.messages, tokenizer)


def failures(lines: list[bytes], tokenizer: Tokenizer) -> Iterator[Failure]:
    """Yield the lines that become neither a request nor an error of their own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.jsonl"
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        with open_source(str(path)) as source:
            for number, (line, found) in enumerate(zip(lines, _given(source), strict=True), 1):
                try:
                    if isinstance(found, Exception):
                        raise found
                    assert found.number == number, f"line {number} was read as line {found.number}"
                    json.dumps([found.id, found.problem if isinstance(found, BadLine) else ""]).encode()
                    if isinstance(found, Line):
                        read(found, tokenizer)
                except GptOssError as error:
                    str(error).encode()
                except Exception as error:  # any other is what this looks for
                    yield Failure(line, "".join(traceback.format_exception(error)[-2:]))
                    if error is found:
                        return


def _given(source: Source) -> Iterator[Line | BadLine | Exception]:
    """Yield what each line becomes. An exception ends it."""
    try:
        yield from source.lines()
    except Exception as error:
        yield error


def through_the_command(lines: list[bytes], folder: Path) -> str | None:
    """Give the lines to ``gptoss-mac batch``. Return what is wrong, or None if each becomes an answer or an error."""
    path = folder / "in.jsonl"
    out = folder / "out.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    ids: set[str] = set()
    with open_source(str(path)) as source:
        for found in source.lines():
            if str(found.id) in ids:
                lines[found.number - 1] = b""
            ids.add(str(found.id))
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    options = ["--model", "tiny", "--max-tokens", 4, "--temperature", 0]
    try:
        code, _, said = run_cli("batch", path, "--out", out, *options)
    except Exception as error:
        return "".join(traceback.format_exception(error))
    answered = [json.loads(line) for line in out.read_text().split("\n")[:-1]]
    refused = [json.loads(line) for line in (folder / "out.errors.jsonl").read_text().split("\n")[:-1]]
    got = [str(record.get("custom_id", record.get("id"))) for record in (*answered, *refused)]
    if code != 10 or sorted(got) != sorted(ids):
        return f"exit {code}, {len(got)} of {len(ids)} lines came out: {said}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commanded", type=int, default=200, help="how many of them the real command line gets too")
    given = parser.parse_args()
    lines = list(spoiled(given.count, given.seed))
    found = list(failures(lines, Tokenizer.bundled()))
    for failure in found:
        print(f"{failure.line[:300]!r}\n  {failure.problem}")
    wrong = None
    if given.commanded:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["GPTOSS_MAC_HOME"] = folder
            chosen = random.Random(given.seed).sample(lines, min(given.commanded, len(lines)))
            wrong = through_the_command(chosen, Path(folder))
            print(wrong or f"{given.commanded} lines through the command: each answered, or an error of its own")
    print(f"{len(lines)} lines, seed {given.seed}: {len(found)} ended in an exception that is no GptOssError")
    return 1 if found or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
