"""Random and mutated replies, read by a conversation and by a batch: part of ``make fuzz-report``.

Both must find the same thought, text and calls, and agree on whether there is an answer. No text may hold a marker, and
neither may raise.
"""

import argparse
import json
import random
import re
import sys

from gptoss_mlx.conversation import TOOL_ROUNDS
from gptoss_mlx.events import Done, Text, Thought, ToolCall, ToolError
from gptoss_mlx.harmony import Tokenizer
from tests.support import scripted
from tests.support.harmony_streams import MALFORMED, MARKER_PIECES, encode, streams

KINDS = ["well formed", "cut off", "missing end", "missing start", *MALFORMED]
NAMES = ("get_weather", "f", "Add-2_x", "名前")
FUNCTIONS = [{"type": "function", "function": {"name": name}} for name in NAMES if name.isascii()]
WORDS = ["assistant", "user", "tool", "analysis", "final", "commentary", " to=functions.f", "json", " ", "{}", "é🙂"]
MARKER = re.compile(r"<\|[a-z0-9_]+\|>")
BAD_CALL = "Error: the arguments"


def mutated(rng: random.Random, tokenizer: Tokenizer, shapes: list) -> list[int]:
    """Return the ids of one of ``shapes`` with up to four changes, or of random markers, words and ids."""
    markers = [tokenizer.special[marker[0]] for marker in MARKER_PIECES]
    if rng.random() < 0.6:
        ids = encode(rng.choice(shapes), tokenizer.special, tokenizer.encode)
        for _ in range(rng.randrange(5)):
            at = rng.randrange(len(ids) + 1)
            match rng.randrange(4):
                case 0:
                    ids[at:at] = [rng.choice(markers)]
                case 1:
                    del ids[at : at + rng.randrange(1, 3)]
                case 2:
                    ids[at : at + 1] = [rng.randrange(tokenizer.vocab_size + 50)]
                case 3:
                    ids[at:at] = ids[at : at + rng.randrange(1, 6)]
        return ids or [rng.choice(markers)]
    ids = []
    for _ in range(rng.randrange(1, 40)):
        choice = rng.random()
        if choice < 0.4:
            ids.append(rng.choice(markers))
        elif choice < 0.8:
            ids += tokenizer.encode(rng.choice(WORDS))
        else:
            ids.append(rng.randrange(tokenizer.vocab_size + 10))
    return ids


def as_conversation(tokenizer: Tokenizer, ids: list[int]) -> dict:
    """Return the thought, text and calls in a conversation's events, and whether there was no answer."""
    found: dict = {"thought": "", "text": "", "calls": [], "unknown": [], "bad": []}
    silence = [[]] * TOOL_ROUNDS  # the model's replies to errors
    with scripted.conversation(tokenizer, ids, *silence, functions=FUNCTIONS) as chat:
        for event in chat.send("?"):
            match event:
                case Thought(text):
                    found["thought"] += text
                case Text(text):
                    found["text"] += text
                case ToolCall():
                    found["calls"].append([event.name, event.arguments])
                case ToolError():
                    found["bad" if event.problem.startswith(BAD_CALL) else "unknown"].append(event.name)
                case Done():
                    found["no answer"] = event.no_answer
    return found


def as_batch(tokenizer: Tokenizer, ids: list[int]) -> tuple[dict | None, str | None]:
    """Return the answer to a batch line, or the code of its error."""
    body = {"prompt": "?", "tools": FUNCTIONS}
    answers, errors, _ = scripted.batch(tokenizer, ids, body=body, include_thinking=True)
    assert len(answers) + len(errors) == 1
    return (answers[0], None) if answers else (None, errors[0]["error"]["code"])


def disagreement(tokenizer: Tokenizer, ids: list[int]) -> str | None:
    """Return how a conversation and a batch differ on a reply, or that one found a marker in text, or None."""
    talk = as_conversation(tokenizer, ids)
    answer, error = as_batch(tokenizer, ids)
    spelled = MARKER.search(tokenizer.decode(ids))
    if not spelled and MARKER.search(shown := json.dumps([talk, answer], ensure_ascii=False)):
        return f"a marker in {shown}"
    if error == "unknown_tool":
        return None if talk["unknown"] else f"batch: a tool that is not offered; conversation: {talk}"
    if error == "no_answer":
        return None if talk.get("no answer") else f"batch: no answer; conversation: {talk}"
    if error is not None or answer is None:
        return f"batch: {error}"
    if talk["unknown"] or talk.get("no answer"):
        return f"batch: {answer}; conversation: {talk}"
    if (talk["thought"], talk["text"]) != (answer["thought"], answer["answer"]):
        return f"texts differ: {talk} | {answer}"
    calls = [[call["name"], call["arguments"]] for call in answer.get("tool_calls", [])]
    made = [[name, json.loads(text)] for name, text in calls if name not in talk["bad"]]
    if len(calls) != len(talk["calls"]) + len(talk["bad"]) or (not talk["bad"] and made != talk["calls"]):
        return f"calls differ: {talk} | {answer}"
    return None


def fuzz(count: int, seed: int) -> int:
    """Compare ``count`` streams and return how many are read differently."""
    tokenizer = Tokenizer.bundled()
    rng = random.Random(seed)
    shapes = [stream.pieces for kind in KINDS for stream in streams(kind, 60)]
    wrong = 0
    for number in range(count):
        ids = mutated(rng, tokenizer, shapes)
        if problem := disagreement(tokenizer, ids):
            wrong += 1
            print(f"stream {number}: {tokenizer.decode(ids, markers=True)!r}\n    {problem}")
    print(f"replies: {count:,} streams, seed {seed}: {wrong} read differently by a conversation and a batch")
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    sys.exit(1 if fuzz(given.count, given.seed) else 0)
