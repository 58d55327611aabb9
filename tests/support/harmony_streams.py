"""Generate replies a model might write: well-formed ones, and every malformed shape that has been seen.

Imports nothing of ours, so that the oracle can use it. A piece is text, or a list that contains one marker.
"""

import json
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

START = ["<|start|>"]
MESSAGE = ["<|message|>"]
CHANNEL = ["<|channel|>"]
CONSTRAIN = ["<|constrain|>"]
END = ["<|end|>"]
CALL = ["<|call|>"]
RETURN = ["<|return|>"]
ENDOFTEXT = ["<|endoftext|>"]
MARKER_PIECES = [START, MESSAGE, CHANNEL, CONSTRAIN, END, CALL, RETURN, ENDOFTEXT]

StreamPiece = str | list[str]


class Stream(NamedTuple):
    """The pieces after ``<|start|>assistant``, and the messages to expect: ``[kind, recipient, text]`` of each."""

    kind: str
    pieces: list[StreamPiece]
    expected: list[list]
    cut_off: str | None = None


TEXTS = [
    *(
        "Hello there.",
        "The answer is 4",
        "don't\n\n- a\n- b\n",
        "漢字とかな",
        "🙂👩‍👩‍👧‍👦 ok",
        "naïve café",
        "x < 3 | y > 2",
        "",
        " ",
    ),
    *("```py\nprint('hi')\n```", "$\\frac{1}{2}$", "e\u0301\u200b", "1234567890", "assistant", "final", "a to=b c"),
]
TOOLS = ["functions.get_weather", "functions.f", "functions.Add-2_x", "browser.search", "python", "functions.名前"]
EXTRA_WORDS = ["please", "now", "the tool", "I will call", "thinking", "ok ok ok"]


def arguments(rng: random.Random) -> str:
    values = ["Paris", 3, -1.5, None, True, "漢字 🙂", {"a": [1, 2]}, [], 'a "b" \\ c', "line\nline", "<|call", "|>"]
    raw = {rng.choice(["city", "n", "é", "q"]): rng.choice(values) for _ in range(rng.randrange(3))}
    return json.dumps(raw, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, None, 2]))


def well_formed(rng: random.Random) -> tuple[list[StreamPiece], list]:
    """Return one message's pieces after ``assistant``, and ``[kind, recipient, text]``."""
    return rng.choice([answer, call_behind_channel, call_before_channel])(rng)


def answer(rng):
    text = rng.choice(TEXTS)
    return [CHANNEL, "final", MESSAGE, text, RETURN], ["answer", None, text]


def call_behind_channel(rng):
    tool = rng.choice(TOOLS)
    body = arguments(rng)
    return [CHANNEL, f"commentary to={tool} ", CONSTRAIN, "json", MESSAGE, body, CALL], ["call", tool, body]


def call_before_channel(rng):
    tool = rng.choice(TOOLS)
    body = arguments(rng)
    return [f" to={tool}", CHANNEL, "commentary ", CONSTRAIN, "json", MESSAGE, body, CALL], ["call", tool, body]


def call_on_analysis(rng):
    tool = rng.choice(TOOLS)
    body = arguments(rng)
    how = rng.choice(
        [[f"analysis to={tool} ", CONSTRAIN, "json"], [f"analysis to={tool} code"], [f"analysis to={tool}"]]
    )
    return [CHANNEL, *how, MESSAGE, body, CALL], ["call", tool, body]


def json_without_constrain(rng):
    tool = rng.choice(TOOLS)
    body = arguments(rng)
    how = rng.choice([[CHANNEL, f"commentary to={tool} json"], [f" to={tool}", CHANNEL, "commentary json"]])
    return [*how, MESSAGE, body, CALL], ["call", tool, body]


def doubled_start(rng):
    pieces, meaning = well_formed(rng)
    return [
        *rng.choice([[START, "assistant"], [START, "assistant"] * 2, [START, START, "assistant"]]),
        *pieces,
    ], meaning


def missing_message(rng):
    """Return pieces without ``<|message|>`` and their meaning, None if they contain no message."""
    tool = rng.choice(TOOLS)
    body = arguments(rng)
    text = rng.choice([text for text in TEXTS if text.strip()])
    if rng.random() < 0.3:
        glue = rng.choice(["", " ", "\n"])
        if not glue and text[0].islower():  # "finally, yes" names no channel; a lone word is a wrong name
            whole = "final" + text
            return [CHANNEL, whole, RETURN], ["answer", None, whole] if len(whole.split()) > 1 else None
        return [CHANNEL, "final" + glue + text, RETURN], [
            "answer",
            None,
            text.lstrip(),
        ] if text != "assistant" else None
    how = rng.choice(
        [
            [CHANNEL, f"commentary to={tool} ", CONSTRAIN, "json" + body],
            [CHANNEL, f"commentary to={tool} json " + body],
            [CHANNEL, f"commentary to={tool}" + body],
            [f" to={tool}", CHANNEL, "commentary ", CONSTRAIN, "json " + body],
        ]
    )
    return [*how, CALL], ["call", tool, body]


def final_json(rng):
    body = arguments(rng)
    how = rng.choice([["final json"], ["final ", CONSTRAIN, "json"], ["final", CONSTRAIN, "json"]])
    return [CHANNEL, *how, MESSAGE, body, RETURN], ["answer", None, body]


def extra_header_words(rng):
    tool = rng.choice(TOOLS)
    body = arguments(rng)
    words = rng.choice(EXTRA_WORDS)
    if rng.random() < 0.3:
        text = rng.choice(TEXTS)
        return [CHANNEL, f"final {words}", MESSAGE, text, RETURN], ["answer", None, text]
    how = rng.choice(
        [
            [CHANNEL, f"commentary to={tool} {words} ", CONSTRAIN, "json"],
            [CHANNEL, f"commentary {words} to={tool} ", CONSTRAIN, f"json {words}"],
            [f" {words} to={tool} {words}", CHANNEL, f"commentary {words}"],
        ]
    )
    return [*how, MESSAGE, body, CALL], ["call", tool, body]


def channel_glued_on(rng):
    tool = rng.choice(TOOLS)
    body = arguments(rng)
    how = rng.choice(
        [
            [CHANNEL, f"commentary to={tool}<|channel|>commentary"],
            [CHANNEL, f"analysis to={tool}<|channel|>commentary ", CONSTRAIN, "json"],
            [f" to={tool}<|channel|>commentary", CONSTRAIN, "json"],
            [CHANNEL, f"commentary to={tool}", CHANNEL, "commentary ", CONSTRAIN, "json"],
        ]
    )
    return [*how, MESSAGE, body, CALL], ["call", tool, body]


def no_channel(rng):
    tool = rng.choice(TOOLS)
    body = arguments(rng)
    text = rng.choice(TEXTS)
    if rng.random() < 0.4:
        return [MESSAGE, text, RETURN], ["answer", None, text]
    return [f" to={tool}", *rng.choice([[], [" ", CONSTRAIN, "json"], [" json"]]), MESSAGE, body, CALL], [
        "call",
        tool,
        body,
    ]


MALFORMED: dict[str, Callable] = {
    "recipient behind the channel": call_behind_channel,
    "recipient before the channel": call_before_channel,
    "call on the analysis channel": call_on_analysis,
    "json without constrain": json_without_constrain,
    "doubled start": doubled_start,
    "missing message": missing_message,
    "final json": final_json,
    "extra header words": extra_header_words,
    "channel glued on": channel_glued_on,
    "no channel": no_channel,
}


def streams(kind: str, count: int) -> Iterator[Stream]:
    """Yield ``count`` streams. ``kind`` is of MALFORMED, "well formed", "cut off", "missing end" or "missing start"."""
    for i in range(count):
        rng = random.Random(f"{kind} {i}")
        before: list[StreamPiece] = []
        expected = []
        if rng.random() < 0.6 or kind in ("missing end", "missing start"):
            text = rng.choice(TEXTS)
            before = [CHANNEL, "analysis", MESSAGE, text]
            expected = [["thought", None, text]]
            before += {
                "missing end": rng.choice([[START, "assistant"], []]),
                "missing start": rng.choice([[END, "assistant"], [END]]),
            }.get(kind, [END, START, "assistant"])
        if kind == "cut off":
            yield cut(rng, before, expected)
            continue
        # If <|end|><|start|>assistant is missing, only a channel shows where the next message begins.
        make = MALFORMED.get(kind) or (rng.choice([answer, call_behind_channel]) if expected else well_formed)
        pieces, meaning = make(rng)
        if rng.random() < 0.1 and pieces[-1] in (RETURN, CALL):
            pieces = [*pieces[:-1], ENDOFTEXT]
        yield Stream(kind, before + pieces, [*expected, *([meaning] if meaning else [])])


def cut(rng: random.Random, before: list[StreamPiece], expected: list[list]) -> Stream:
    """Return a stream that ends at the token limit: inside a header, or inside a body."""
    pieces, (kind, recipient, body) = rng.choice([well_formed, call_on_analysis, thought])(rng)
    at_message = pieces.index(MESSAGE)
    if rng.random() < 0.2:
        upto = rng.randrange(pieces.index(CHANNEL) + 1, at_message + 1)
        return Stream("cut off", before + pieces[:upto], expected, "header")
    shorter = body[: rng.randrange(len(body) + 1)]
    return Stream(
        "cut off", [*before, *pieces[: at_message + 1], shorter], [*expected, [kind, recipient, shorter]], kind
    )


def thought(rng):
    text = rng.choice(TEXTS)
    return [CHANNEL, "analysis", MESSAGE, text, END], ["thought", None, text]


def encode(pieces: list[StreamPiece], special: dict[str, int], encode_text: Callable[[str], list[int]]) -> list[int]:
    return [id for piece in pieces for id in (encode_text(piece) if isinstance(piece, str) else [special[piece[0]]])]
