"""Generate declared functions whose JSON schemas have every keyword a signature reads, with valid and invalid values.

Also compares the texts of two renderers. Imports nothing of ours, so that the oracle can use it.
"""

import random
import re
import struct

CONTINUED = "¶"
"""Begins each further line of a comment inside a type, and nothing else."""
WORDS = ["city", "the unit", "naïve", "漢字", "🙂", "x=1;", "*/", "// no", '"quoted"', "back\\slash", "<|end|>", "null"]
AWKWARD = ["", " ", "a\rb", "tab\there", "line\u2028separator", "nul\x00", "\x7f\x1b", "e\u0301", "ends "]
NAMES = ["a", "b", "user-id", "@type", "名前", "a b", "", "$ref", "x.y", 'q"q', "null", "<|call|>", "A1"]
WRONG = [None, True, False, 0, 1, -1.5, "", "x", "object", [], {}, [1], ["x"], {"a": 1}, [[]]]
FIELDS = ("title", "description", "examples", "default", "enum", "nullable", "oneOf")


def declarations(count: int, seed: int) -> list[dict]:
    """Return ``count`` developer messages: ``instructions``, and ``functions`` with name, description, parameters."""
    return [declaration(random.Random(f"{seed} {i}")) for i in range(count)]


def declaration(rng: random.Random) -> dict:
    count = rng.choice([1, 1, 1, 2, 3])
    return {
        "instructions": rng.choice([None, "", "Be brief.", "Two\nlines"]),
        "functions": [_function(rng) for _ in range(count)],
    }


def _function(rng):
    described = rng.choice(["", "Does it.", "Does it.\nReally.", "A\r\n\r\nB\r\n", "Ends\n", "\n", "a\rb", _line(rng)])
    makers = [lambda: None, lambda: schema(rng), lambda: _object(rng, 0), lambda: numbers(rng), lambda: deep(rng)]
    (make,) = rng.choices(makers, weights=[1, 2, 12, 1, 0.5])
    return {"name": rng.choice([*NAMES, "get_weather"]), "description": described, "parameters": make()}


def schema(rng: random.Random, depth: int = 0) -> dict:
    kinds = ["string", "string", "integer", "number", "boolean", "null", "any", "types", "array", "reference"]
    kind = rng.choice(kinds + ["object", "object", "one of"] * (depth < 3))
    if kind == "object":
        return _object(rng, depth)
    out = {"any": {}, "reference": {"anyOf": [{"type": "string"}], "$ref": "#/$defs/X"}}.get(kind, {"type": kind})
    if kind == "types":
        names = ["integer", "string", "null", "boolean", "array", "object", "number", 3, None]
        out = {"type": rng.sample(names, rng.randrange(4))}
    elif kind == "array" and rng.random() < 0.8:
        out["items"] = _or_wrong(rng, lambda: schema(rng, depth + 1))
    elif kind == "one of":
        out = {"oneOf": [_or_wrong(rng, lambda: schema(rng, depth + 1)) for _ in range(rng.randrange(4))]}
        if rng.random() < 0.3:
            out["type"] = "string"
    out |= _annotations(rng, depth)
    if rng.random() < 0.3 and isinstance(out.get("oneOf"), list):  # the same description twice
        out["oneOf"] = [v | {"description": out.get("description")} for v in out["oneOf"] if isinstance(v, dict)]
    return out


def _object(rng, depth):
    names = rng.sample(NAMES, rng.randrange(5))
    out = {"type": "object"}
    if rng.random() < 0.9:
        out["properties"] = _or_wrong(
            rng, lambda: {name: _or_wrong(rng, lambda: schema(rng, depth + 1)) for name in names}
        )
    if rng.random() < 0.7:
        out["required"] = _or_wrong(
            rng, lambda: rng.sample([*names, "unknown", 1, None], rng.randrange(len(names) + 1))
        )
    return out | _annotations(rng, depth)


def _annotations(rng, depth):
    made = {
        "title": lambda: _comment(rng),
        "description": lambda: _comment(rng),
        "examples": lambda: [rng.choice([3, None, _comment(rng)]) for _ in range(rng.randrange(3))],
        "default": lambda: value(rng),
        "enum": lambda: [rng.choice([_line(rng), "a", "", 1, None]) for _ in range(rng.randrange(4))],
        "nullable": lambda: rng.random() < 0.8,
        "oneOf": lambda: [schema(rng, depth + 1) for _ in range(rng.randrange(3))],
    }
    often = {"description": 0.5, "default": 0.4, "enum": 0.25, "oneOf": 0.05 if depth < 3 else 0}
    out = {key: _or_wrong(rng, made[key]) for key in FIELDS if rng.random() < often.get(key, 0.15)}
    return out | ({"oneOf": rng.choice(WRONG)} if rng.random() < 0.03 else {})


def _or_wrong(rng, make):
    return rng.choice(WRONG) if rng.random() < 0.08 else make()


def _line(rng):
    return rng.choice(AWKWARD) if rng.random() < 0.3 else " ".join(rng.sample(WORDS, rng.randrange(1, 4)))


def _comment(rng):
    ends = rng.choice(["\n", "\r\n"])
    return (ends + CONTINUED).join(_line(rng).rstrip("\r") for _ in range(rng.choice([1] * 40 + [2, 3])))


def value(rng: random.Random, depth: int = 0):
    """Return a default: any JSON value, sometimes one that JSON cannot hold."""
    if depth < 3 and rng.random() < 0.2:
        inner = [value(rng, depth + 1) for _ in range(rng.randrange(3))]
        return inner if rng.random() < 0.5 else {_line(rng): item for item in inner}
    if rng.random() < 0.003:
        return rng.choice([10**400, -(10**309), float("inf"), float("nan"), "\ud800"])
    return rng.choice([None, True, False, _line(rng), "two\nlines", *[number(rng)] * 5])


def number(rng: random.Random) -> int | float:
    """Return a whole number of up to 300 digits, or a float of any magnitude, mostly of 16 or 17 digits."""
    bits = rng.getrandbits(1) << 63 | rng.randrange(0x7FF) << 52 | rng.getrandbits(52)
    made = [
        struct.unpack("<d", struct.pack("<Q", bits))[0],
        rng.uniform(-1, 1),
        rng.gauss(0, 1) * 10.0 ** rng.randrange(-12, 20),
        round(rng.uniform(0, 100), rng.randrange(4)),
        rng.random() * 10.0 ** -rng.randrange(290, 324),
        10.0 ** rng.randrange(-9, 23),
        float(rng.getrandbits(rng.randrange(1, 70))),
        rng.getrandbits(rng.choice([8, 63, 64, 65, 1000])) * rng.choice([1, -1]),
        rng.choice([0, -0.0, 0.5, 5e-324, 1.7976931348623157e308, 2**63, 2**64, -(2**63) - 1]),
    ]
    return rng.choice(made)


def numbers(rng: random.Random) -> dict:
    return {"type": "object", "properties": {"a": {"default": [number(rng) for _ in range(40)]}}}


def deep(rng: random.Random) -> dict:
    """Return a value nested about as deep as openai-harmony allows: 128 brackets, including the conversation's."""
    out = {"type": "string"}
    default = []
    if rng.random() < 0.3:
        for _ in range(rng.choice([90, 130])):
            default = [default]
        return {"type": "object", "properties": {"a": {"default": default}}}
    for _ in range(rng.choice([40, 90, 105, 130])):
        out = {"type": "array", "items": out}
    return {"type": "object", "properties": {"a": out}}


def with_bare_lines(text: str) -> str:
    """Return ``text`` with further lines of a comment uncommented, as openai-harmony does: our one difference."""
    return re.sub(rf"(?:\r?\n *// |\r?\n| ){CONTINUED}", f"\n{CONTINUED}", text)
