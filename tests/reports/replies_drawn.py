"""Uniform random replies under harmony's grammar, read by our reader and by openai-harmony.

Part of ``make structured-report``. Where text and markers are allowed a marker is drawn half the time, because uniform
draws of text would never end. openai-harmony is asked in an environment of its own.
"""

import json
import subprocess
from collections import Counter

import numpy as np

from gptoss_mlx.engine.constraint import follow
from gptoss_mlx.grammars import Grammar, Vocabulary, from_lark, from_schema
from gptoss_mlx.grammars.reply import PYTHON, Choice, Tool, function, reply
from gptoss_mlx.harmony import Function, Tokenizer
from gptoss_mlx.reply import ReplyReader
from tests.server.patches import GRAMMAR

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 9}, "days": {"type": "integer"}},
    "required": ["city"],
}
ANSWER = {"type": "object", "properties": {"sum": {"type": "integer"}, "why": {"enum": ["a", "b"]}}}
FUNCTIONS = ("get_weather", "stop", "apply_patch")
TOOLS = [
    function(Function("get_weather", parameters=WEATHER)),
    function(Function("stop", strict=False)),
    Tool("functions.apply_patch", from_lark(GRAMMAR), content_type=None),
    PYTHON,
]
CHOICES: tuple[Choice, ...] = ("auto", "none", "required")
TOKENS = 200


def grammars() -> list[Grammar]:
    """Return the grammars of replies with and without tools, a schema, and calls that must be made."""
    answers = (None, from_schema(ANSWER))
    return [reply(answer, TOOLS, choice) for choice in CHOICES for answer in answers]


def drawn(vocabulary: Vocabulary, tokenizer: Tokenizer, grammar: Grammar, seed: int) -> list[int]:
    """Return the ids of a reply, up to its end or to TOKENS of them."""
    rng = np.random.default_rng(seed)
    constraint = vocabulary.constraint(grammar)
    special = np.array(sorted(tokenizer.special.values()))
    stops = {tokenizer.special["<|return|>"], tokenizer.special["<|call|>"]}
    ids = follow(constraint, None)
    while not stops & {*ids} and len(ids) < TOKENS:
        mask = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
        markers = special[mask[special] == 1]
        ids.append(int(rng.choice(markers if len(markers) and rng.random() < 0.5 else np.flatnonzero(mask))))
        if ids[-1] not in stops:
            ids += follow(constraint, ids[-1])
    return ids[: next((n + 1 for n, id in enumerate(ids) if id in stops), len(ids))]


def report(vocabulary: Vocabulary, tokenizer: Tokenizer, count: int, oracle: str | None) -> int:
    """Draw ``count`` replies and print what became of them. Return how many are wrong."""
    held = grammars()
    offered = {tool.recipient for tool in TOOLS}
    found: Counter[str] = Counter()
    repairs: Counter[str] = Counter()
    asked = (
        None
        if oracle is None
        else subprocess.Popen(
            [oracle, "-m", "tests.oracle.parse_replies"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    )
    for number in range(count):
        ids = drawn(vocabulary, tokenizer, held[number % len(held)], number)
        reader = ReplyReader(tokenizer, functions=FUNCTIONS, custom=["apply_patch"])
        for id in ids:
            reader.feed(id)
        ended = "stop" if ids[-1] in (tokenizer.special["<|return|>"], tokenizer.special["<|call|>"]) else "length"
        read = reader.finish(ended)  # type: ignore[arg-type]
        found["ended"] += ended == "stop"
        found["calls"] += bool(read.calls or read.unknown_calls)
        recipients = {call.message.recipient for call in (*read.calls, *read.unknown_calls)}
        found["recipients that were not offered"] += bool(recipients - offered)
        # The reader knows functions only, and takes a call of the built-in tool for a fault.
        if recipients != {"python"}:
            repairs.update(read.repairs)
        if asked is not None:
            assert asked.stdin is not None
            assert asked.stdout is not None
            asked.stdin.write(json.dumps(ids) + "\n")
            asked.stdin.flush()
            theirs = json.loads(asked.stdout.readline())
            found["not parsed by openai-harmony"] += theirs is None
            whole = theirs is not None and ended == "stop"
            found["read otherwise by openai-harmony"] += whole and recipients != {*theirs} - {None}
    if asked is not None:
        asked.communicate()
    print(f"{count:,} uniform random replies under harmony's grammar:", dict(found), "repairs:", dict(repairs))
    bad = ("recipients that were not offered", "not parsed by openai-harmony", "read otherwise by openai-harmony")
    return sum(found[kind] for kind in bad) + repairs.total()
