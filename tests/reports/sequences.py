"""``make sequence-report`` compares our reading of every short sequence of token classes with openai-harmony's.

Where the reference accepts a sequence, ours must read the same, or ``difference`` must know the reason.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.reply import ReplyReader
from tests.support import token_classes


def accepted(longest: int, oracle: str) -> Iterator[tuple[list, list | None]]:
    """Yield each sequence of token classes with the messages openai-harmony finds in it, or None where it raises."""
    command = [oracle, "-m", "tests.oracle.parse_sequences", str(longest)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for pieces, line in zip(token_classes.sequences(longest), process.stdout, strict=True):
            yield pieces, json.loads(line)
    if process.returncode:
        raise SystemExit("openai-harmony could not be run")


def enumerate_classes(longest: int, oracle: str) -> int:
    """Compare every sequence with openai-harmony. Return how many differ for no reason that ``difference`` knows."""
    tokenizer = Tokenizer.bundled()
    byte_ids = {tokenizer.token_bytes(id): id for id in range(256)}
    wrong = 0
    compared = Counter[str]()
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
    """Return the sections found in a reply, then its calls."""
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
    """Return why ours and theirs may differ on a sequence, or WRONG where they may not.

    Theirs reads on behind the marker that ends a reply, writes markers of a header into the text, takes any word alone
    in a header for a recipient, and trims text.
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
    if unannounced and want == [("shown", "assistant")] and not ours:
        return "theirs shows a role said twice"
    if pieces[0] in ("user", "tool") and not ours:
        return "ours does not show what is said for somebody else"
    return "WRONG"


def squeezed(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the sections, joined, and the calls, all without blanks, because theirs trims and merges blanks."""
    joined: dict[str, str] = {}
    for kind, text in found:
        if kind != "call":
            joined[kind] = joined.get(kind, "") + "".join(text.split())
    calls = [(kind, "".join(text.split()) or "{}") for kind, text in found if kind == "call"]
    return [*((kind, text) for kind, text in sorted(joined.items()) if text), *calls]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("oracle", help="a python that has openai-harmony")
    parser.add_argument("--longest", type=int, default=5)
    given = parser.parse_args()
    sys.exit(1 if enumerate_classes(given.longest, given.oracle) else 0)
