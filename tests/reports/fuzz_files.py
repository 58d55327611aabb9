"""Fuzz the JSON files of checkpoints and model folders: each is read, or refused soon, with one line of our errors.

``python -m tests.reports.fuzz_files --count 3000 --seed N`` makes that many configs, generation configs, tokenizers,
shard indexes and manifests, each changed in one to three places, and calls everything that reads it. At the first file
that ends otherwise it prints the input and exits with 1.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert import convert
from convert.sources import open_checkpoint
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import GptOssError
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.harmony.tokenizer_files import read_tokenizer_json
from gptoss_mlx.model.rope import attention_scale, inverse_frequencies
from gptoss_mlx.model_folder import ModelFolder
from gptoss_mlx.model_folder.generation import problem_with
from tests.support.checkpoints import SMALL, write_checkpoint
from tests.support.tokenizers import write_json

SECONDS = 5.0
"""What one file may take. The slowest here take a tenth of it, on a busy machine."""
SIZES = SMALL | {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 32, "num_attention_heads": 4}
TEXT = "The théorie, 漢字 🙂 12345\n\n  x<|end|> aaaaaaaaaaaaaaaaaaaaaaaaaaaa!"

# These are JSON texts, because Python's encoder would not write some of the numbers.
NUMBERS = ("0", "-0", "1", "-1", "0.5", "1.0", "1e400", "-1e400", "NaN", "Infinity", "1e308", "5e-324")
HUGE = ("1" + "0" * 400, "9" * 5000, str(1 << 31), str(1 << 63))
STRINGS = ('""', '"1"', '"x"', '"\\ud800"', '"\\u0000"', '"a\\nb"', '"yarn"', '"gpt_oss"', '"BPE"', '"<|end|>"')
NESTED = ("[]", "[[]]", "[null]", "[1]", '["a", 1]', "{}", '{"a": {"b": []}}', '{"Regex": "x"}', '{"": null}')
DEEP = ("[" * 500 + "]" * 500, "[" * 990 + "]" * 990, "[" * 100_000, '{"a":' * 600 + "1" + "}" * 600)
ODD = ("null", "true", "false", ",", "nul", *NUMBERS, *HUGE, *STRINGS, *NESTED, *DEEP)
PATTERNS = (
    *("", ".", "(", ")", "[", "(?<", "a*", "^", "$", r"\1", r"\p{Nope}", "(?P<a>x)(?P<a>y)", "(?x) a # b", r"\s+|\S+"),
    *("(a+)+$", "((?=a)a+)+b", "(?:(?:.*)*)*(?!c)$", "a{1,100000}", "(((a{0,1000}){0,1000}){0,1000})", "(?=x)|."),
    *(r"(x+x+)+y|\s+|\S+", r"((?=a)a+)+b|\s+|\S"),
)
PLACEHOLDER = "\x01odd"


@dataclass(frozen=True)
class Subject:
    """A file of a folder, and the functions that read it."""

    name: str
    file: Path
    read: Callable[[], None]


def hostile(raw: Any, rng: random.Random) -> str:
    """Return a damaged copy of ``raw`` as text: values changed, removed or renamed, or text truncated or not JSON."""
    raw = json.loads(json.dumps(raw))
    if "pre_tokenizer" in raw and rng.random() < 0.2:
        raw["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = rng.choice(PATTERNS)
    odd = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        parent, key = _place(raw, rng)
        if parent is None:
            break
        change = rng.random()
        if change < 0.12:
            del parent[key]
        elif change < 0.18 and isinstance(parent, dict):
            parent[rng.choice(["", "id", "type", "x" * 5000])] = parent.pop(key)
        elif change < 0.24 and isinstance(parent, list):
            parent.append(parent[key])
        else:
            odd.append(rng.choice(ODD))
            parent[key] = f"{PLACEHOLDER}{len(odd) - 1}\x01"
    text = json.dumps(raw)
    for number, value in enumerate(odd):
        text = text.replace(json.dumps(f"{PLACEHOLDER}{number}\x01"), value)
    if (change := rng.random()) < 0.04:
        text = text[: rng.randrange(len(text) + 1)]
    elif change < 0.06:
        text = rng.choice(ODD)
    elif change < 0.08:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice('\x00\xff{}[],:"\\') + text[at:]
    return text


def _place(raw: Any, rng: random.Random) -> tuple[Any, Any]:
    """Return a random place in a document: a container and one of its keys, at any depth."""
    parent = None
    key = None
    while isinstance(raw, (dict, list)) and raw and (parent is None or rng.random() < 0.6):
        parent = raw
        key = rng.choice(list(raw) if isinstance(raw, dict) else range(len(raw)))
        raw = parent[key]
    return parent, key


def subjects(work: Path) -> list[Subject]:
    """Make a checkpoint and its model folder in ``work``, and return their files."""
    source = work / "source"
    model = work / "model"
    write_checkpoint(source, SIZES, shards=2)
    tokenizer_json = json.loads((source / "tokenizer.json").read_bytes())
    flags = dict.fromkeys(("normalized", "single_word", "lstrip", "rstrip", "special"), False)
    tokenizer_json["added_tokens"] += [
        {"id": 300 + n, "content": word} | flags for n, word in enumerate(("12", "漢字"))
    ]
    write_json(source / "tokenizer.json", tokenizer_json)
    convert(source, model)

    def config() -> None:
        found = ModelConfig.from_dict(json.loads((source / "config.json").read_bytes()))
        inverse_frequencies(found), attention_scale(found)

    def tokenizer() -> None:
        found = Tokenizer.from_file(source / "tokenizer.json")
        added = read_tokenizer_json(json.loads((source / "tokenizer.json").read_bytes()))[3]
        if found.decode(found.encode(TEXT)) != TEXT and not any(token.lstrip or token.rstrip for token in added):
            raise AssertionError("text does not come back")
        found.save(work / "tokenizer.bin")
        if Tokenizer.load(work / "tokenizer.bin").digest != found.digest:
            raise AssertionError("the compact form is another")

    def generation() -> None:
        raw = json.loads((source / "generation_config.json").read_bytes())
        if isinstance(raw, dict) and problem_with(raw) is None:
            json.dumps(raw, indent=2, allow_nan=False)

    def checkpoint() -> None:
        open_checkpoint(source)

    def whole() -> None:
        convert(source, work / "made")
        shutil.rmtree(work / "made")

    def folder() -> None:
        ModelFolder.open(model)

    return [
        Subject("config", source / "config.json", _json_or(config)),
        Subject("config in a checkpoint", source / "config.json", checkpoint),
        Subject("generation", source / "generation_config.json", _json_or(generation)),
        Subject("generation in a conversion", source / "generation_config.json", whole),
        Subject("tokenizer", source / "tokenizer.json", tokenizer),
        Subject("index", source / "model.safetensors.index.json", checkpoint),
        Subject("manifest", model / "manifest.json", folder),
    ]


def _json_or(read: Callable[[], None]) -> Callable[[], None]:
    """Return a call of ``read`` that ignores invalid JSON, because other code refuses it before this reader."""

    def call() -> None:
        try:
            read()
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            return
        except ValueError as error:
            if "integer string conversion" not in str(error):
                raise

    return call


def problem(subject: Subject, text: str) -> tuple[str, str | None]:
    """Read a file; return "read" or "refused", and what is wrong with that, if anything."""
    whole = subject.file.read_bytes()
    subject.file.write_text(text, encoding="utf-8", errors="surrogatepass")
    begun = time.perf_counter()
    ended = "read"
    try:
        subject.read()
    except GptOssError as error:
        ended = "refused"
        line = str(error)
        if not line or not line.isprintable() or len(line) > 1500:
            return ended, f"the error is not one line: {line[:300]!r}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a Rust panic is not an Exception
        return "raised", f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        subject.file.write_bytes(whole)
    seconds = time.perf_counter() - begun
    return ended, f"took {seconds:.1f} s" if seconds > SECONDS else None


def fuzz(count: int, seed: int) -> tuple[Counter[str], tuple[str, str, str] | None]:
    """Return how many of ``count`` files were read or refused, and the first problem: subject, problem, text."""
    rng = random.Random(seed)
    tally = Counter[str]()
    with tempfile.TemporaryDirectory() as work:
        found = subjects(Path(work))
        originals = {subject.name: json.loads(subject.file.read_bytes()) for subject in found}
        for number in range(count):
            subject = found[number % len(found)]
            text = hostile(originals[subject.name], rng)
            ended, wrong = problem(subject, text)
            tally[ended] += 1
            if wrong is not None:
                return tally, (subject.name, wrong, text)
    return tally, None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begun = time.perf_counter()
    tally, wrong = fuzz(options.count, options.seed)
    said = ", ".join(f"{number} {ended}" for ended, number in sorted(tally.items()))
    print(f"files: {tally.total()} of seed {options.seed}, {said}, {time.perf_counter() - begun:.0f} s")
    if wrong is not None:
        subject, problem, text = wrong
        print(f"{subject}: {problem}\n{text[:3000]}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
