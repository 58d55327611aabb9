"""Replies as a conversation and as a batch see them, and beside openai-harmony: part of ``make fuzz-report``.

First random and mutated streams: a conversation and a batch must find the same thought, text and calls, with no marker
in them and no exception. Then every sequence of token classes up to ``--longest``, beside what openai-harmony makes of
it where it accepts it.
"""

import argparse
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

from gptoss_mlx.conversation import TOOL_ROUNDS, Done, Text, Thought, ToolCall, ToolError
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.reply import ReplyReader
from tests.support import scripted, token_classes
from tests.support.harmony_streams import MALFORMED, MARKERS, encode, streams

KINDS = ["well formed", "cut off", "missing end", "missing start", *MALFORMED]
NAMES = ("get_weather", "f", "Add-2_x", "名前")
FUNCTIONS = [{"type": "function", "function": {"name": name}} for name in NAMES if name.isascii()]
WORDS = ["assistant", "user", "tool", "analysis", "final", "commentary", " to=functions.f", "json", " ", "{}", "é🙂"]
MARKER = re.compile(r"<\|[a-z0-9_]+\|>")
BAD_CALL = "Error: the arguments"


def mutated(rng: random.Random, tokenizer: Tokenizer, shapes: list) -> list[int]:
    """One of the shapes with up to four changes, or markers, words and ids at random."""
    markers = [tokenizer.special[marker[0]] for marker in MARKERS]
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
    """Thought, text, calls and how it ended, as somebody who reads a conversation's events sees them."""
    found: dict = {"thought": "", "text": "", "calls": [], "unknown": [], "bad": []}
    silence = [[]] * TOOL_ROUNDS  # what the model says to an error
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
    """The line's answer, or the code of its error."""
    body = {"prompt": "?", "tools": FUNCTIONS}
    answers, errors, _ = scripted.batch(tokenizer, ids, body=body, thought=True)
    assert len(answers) + len(errors) == 1
    return (answers[0], None) if answers else (None, errors[0]["error"]["code"])


def disagreement(tokenizer: Tokenizer, ids: list[int]) -> str | None:
    """What a conversation and a batch make differently of a reply, or a marker in what they make of it."""
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
    """Compare ``count`` streams; how many disagree."""
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


def accepted(longest: int, oracle: str) -> Iterator[tuple[list, list | None]]:
    """Every sequence of token classes, with the messages openai-harmony finds in it; None where it raises."""
    command = [oracle, "-m", "tests.oracle.parse_sequences", str(longest)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for pieces, line in zip(token_classes.sequences(longest), process.stdout, strict=True):
            yield pieces, json.loads(line)
    if process.returncode:
        raise SystemExit("openai-harmony could not be run")


def enumerate_classes(longest: int, oracle: str) -> int:
    """Compare every sequence with openai-harmony; how many differ for no reason given in ``difference``."""
    tokenizer = Tokenizer.bundled()
    byte_ids = {tokenizer.token_bytes(id): id for id in range(256)}
    wrong, compared = 0, Counter[str]()
    for pieces, theirs in accepted(longest, oracle):
        ids = token_classes.encode(
            pieces, tokenizer.special, tokenizer.encode, lambda raw: [byte_ids[bytes((byte,))] for byte in raw]
        )
        ours = read(tokenizer, ids)
        if any("<|" in text for _, text in ours):
            why = "WRONG: a marker in the text"
        elif theirs is None:
            why = "read by ours alone"
        else:
            why = difference(pieces, ours, theirs)
        compared[why] += 1
        if why.startswith("WRONG"):
            wrong += 1
            print(f"{pieces}\n    ours   {ours}\n    theirs {theirs}")
    print(f"token classes: {compared.total():,} sequences of up to {longest}, beside openai-harmony:")
    for why, times in compared.most_common():
        print(f"    {times:>8,} {why}")
    return wrong


def read(tokenizer: Tokenizer, ids: list[int]) -> list[tuple[str, str]]:
    """What is found in a reply: its sections, then its calls."""
    reader = ReplyReader(tokenizer, functions=["f"])
    for id in ids:
        reader.feed(id)
        if reader.over:
            break
    reply = reader.finish("length")
    sections = [("thought", reply.thought), ("shown", reply.content)]
    calls = [("call", call.arguments) for call in (*reply.calls, *reply.unknown_calls)]
    return [(kind, text) for kind, text in sections if text.strip()] + calls


def difference(pieces: list, ours: list[tuple[str, str]], theirs: list) -> str:
    """Why ours and theirs may differ on a sequence; WRONG where they may not.

    Theirs has no bounds: it reads on behind the marker that ends a reply, writes markers of a header into the text,
    takes any word alone in a header for a recipient, and trims text.
    """
    want = []
    for role, channel, recipient, text in theirs:
        if role != "assistant":
            break
        kind = "call" if recipient == "functions.f" else "thought" if channel == "analysis" else "shown"
        want.append((kind, text))
    want = squeezed(want)
    stops = [at for at, piece in enumerate(pieces) if piece in (token_classes.RETURN, token_classes.CALL)]
    if want == squeezed(ours):
        return "equal"
    if stops and stops[0] < len(pieces) - 1:
        return "ids behind the end of the reply"
    if any("<|" in field for message in theirs for field in message if field):
        return "theirs writes a marker into the text"
    if any(message[2] not in (None, "assistant", "functions.f") for message in theirs):
        return "theirs takes a word in a header for a recipient"
    if any(kind == "call" for kind, _ in want) and pieces[-1] not in (
        token_classes.CALL,
        token_classes.END,
        token_classes.RETURN,
    ):
        return "a call that was not finished is none of ours"
    unannounced = token_classes.MESSAGE not in pieces
    shown = dict(want).get("shown", "")
    if unannounced and "to=functions.f" in shown and any(kind == "call" for kind, _ in ours):
        return "theirs shows a recipient as text"
    if (
        unannounced
        and len(ours) == 1
        and any(message[1] not in (None, *token_classes.CHANNEL_NAMES) for message in theirs)
    ):
        return "theirs takes the first word of a text without <|message|> for a channel"
    if unannounced and token_classes.START in pieces:
        return "theirs drops a later header without <|message|>"
    if not unannounced and token_classes.START in pieces[: pieces.index(token_classes.MESSAGE)]:
        return "theirs reads on in the header that a <|start|> gives up"
    if any(message[1] and message[1].startswith(token_classes.CHANNEL_NAMES) for message in theirs) and not unannounced:
        return "theirs takes a channel's name with a word glued to it for another"
    if pieces[0] in ("user", "tool") and not ours:
        return "ours does not show what is said for somebody else"
    return "WRONG"


def squeezed(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Sections joined and blanks left out: theirs trims, and puts one blank for many."""
    joined: dict[str, str] = {}
    for kind, text in found:
        if kind != "call":
            joined[kind] = joined.get(kind, "") + "".join(text.split())
    calls = [(kind, "".join(text.split()) or "{}") for kind, text in found if kind == "call"]
    return [*((kind, text) for kind, text in sorted(joined.items()) if text), *calls]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=int, default=5)
    parser.add_argument("--oracle", help="a python that has openai-harmony")
    given = parser.parse_args()
    failures = fuzz(given.count, given.seed)
    if given.oracle:
        failures += enumerate_classes(given.longest, given.oracle)
    sys.exit(1 if failures else 0)
