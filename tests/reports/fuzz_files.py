"""Fuzz the files of checkpoints and model folders: each is read, or refused soon, with one line of our errors.

``python -m tests.reports.fuzz_files --count 3000 --seed N`` makes that many configs, generation configs, tokenizers,
shard indexes and manifests, each changed in one to three places, and calls everything that reads it. Then it makes as
many GGUF and safetensors files, damaged anywhere but mostly in their headers, and converts each. At the first file that
ends otherwise, or needs too much memory, it prints the input and exits with 1.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert import convert
from convert.sources import open_checkpoint
from convert.sources.gguf_header import read_gguf_header
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import CheckpointError, GptOssError
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.model.rope import attention_scale, inverse_frequencies
from gptoss_mlx.model_folder import ModelFolder
from gptoss_mlx.model_folder.generation import problem_with
from gptoss_mlx.model_folder.safetensors import read_header
from gptoss_mlx.tokenizer_files.formats import read_tokenizer_json
from tests.support.checkpoints import SMALL, write_checkpoint
from tests.support.gguf_checkpoint import write_gguf
from tests.support.tokenizers import small_tokenizer_json, write_json

SECONDS = 5.0
"""What one file may take. The slowest here take a tenth of it, on a busy machine."""
MEMORY = 128 << 20
"""Bytes that reading one damaged file of weights may take. The bundled vocabulary, used where a file has lost its own,
takes half of it."""
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
ODD_COUNTS = (0, 1, 3, 31, 255, 1 << 16, 1 << 20, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 60, 1 << 63, (1 << 64) - 1)
PLACEHOLDER = "\x01odd"


@dataclass(frozen=True)
class Subject:
    """A file of a folder, the function that reads it, one that damages its bytes, and the memory it may take."""

    name: str
    file: Path
    read: Callable[[], None]
    damage: Callable[[bytes, random.Random], bytes] = lambda data, rng: hostile(json.loads(data), rng)
    memory: int | None = None


def hostile(raw: Any, rng: random.Random) -> bytes:
    """Return a damaged copy of ``raw`` as JSON: values changed, removed or renamed, or text truncated or not JSON."""
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
    return text.encode(errors="surrogatepass")


def damaged(data: bytes, rng: random.Random, header: int) -> bytes:
    """Return a damaged copy of a file whose header takes the first ``header`` bytes."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(min(header, len(made)) if rng.random() < 0.85 else len(made) or 1) if made else 0
        change = rng.random()
        if change < 0.25:
            made[at : at + 1] = bytes([rng.randrange(256)])
        elif change < 0.6:
            width = rng.choice((4, 8))
            made[at : at + width] = (rng.choice(ODD_COUNTS) % (1 << 8 * width)).to_bytes(width, "little")
        elif change < 0.7:
            del made[at:]
        elif change < 0.8:
            del made[at : at + rng.choice((1, 4, 8, 100))]
        elif change < 0.9:
            made[at:at] = rng.randbytes(rng.choice((1, 4, 8, 100)))
        else:
            start = rng.randrange(len(made) or 1)
            made[at : at + 64] = made[start : start + 64]
    return bytes(made)


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


def weights(work: Path) -> list[Subject]:
    """Make checkpoints in ``work`` in every binary form, and return their files of weights."""
    folder = write_checkpoint(work / "source", SIZES) / "model.safetensors"
    llama, ollama = work / "llama.gguf", work / "ollama.gguf"
    write_gguf(llama, SIZES, small_tokenizer_json())
    write_gguf(ollama, SIZES, small_tokenizer_json(), style="ollama-first")

    def subject(name: str, file: Path, header: int) -> Subject:
        def read() -> None:
            convert(file if file.suffix == ".gguf" else file.parent, work / "made")
            shutil.rmtree(work / "made")

        return Subject(name, file, read, lambda data, rng: damaged(data, rng, header), MEMORY)

    end = min(tensor.offset for tensor in read_header(folder, CheckpointError, "").values())
    return [
        subject("llama.cpp's GGUF", llama, min(t.offset for t in read_gguf_header(llama).tensors.values())),
        subject("ollama's GGUF", ollama, min(t.offset for t in read_gguf_header(ollama).tensors.values())),
        subject("safetensors", folder, end),
        subject("safetensors", folder, end),
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


def problem(subject: Subject, data: bytes) -> tuple[str, str | None]:
    """Read a file; return "read" or "refused", and what is wrong with that, if anything."""
    whole = subject.file.read_bytes()
    subject.file.write_bytes(data)
    if subject.memory is not None:
        tracemalloc.start()
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
        seconds = time.perf_counter() - begun
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        subject.file.write_bytes(whole)
    if subject.memory is not None and peak > subject.memory:
        return ended, f"took {peak >> 20} MB"
    return ended, f"took {seconds:.1f} s" if seconds > SECONDS else None


def fuzz(
    count: int, seed: int, make: Callable[[Path], list[Subject]] = subjects
) -> tuple[Counter[str], tuple[str, str, bytes] | None]:
    """Return how many of ``count`` files were read or refused, and the first problem: subject, problem, content."""
    rng = random.Random(seed)
    tally = Counter[str]()
    with tempfile.TemporaryDirectory() as work:
        found = make(Path(work))
        originals = {subject.name: subject.file.read_bytes() for subject in found}
        for number in range(count):
            subject = found[number % len(found)]
            data = subject.damage(originals[subject.name], rng)
            ended, wrong = problem(subject, data)
            tally[ended] += 1
            if wrong is not None:
                return tally, (subject.name, wrong, data)
    return tally, None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for what, make in (("files", subjects), ("files of weights", weights)):
        begun = time.perf_counter()
        tally, wrong = fuzz(options.count, options.seed, make)
        said = ", ".join(f"{number} {ended}" for ended, number in sorted(tally.items()))
        print(f"{what}: {tally.total()} of seed {options.seed}, {said}, {time.perf_counter() - begun:.0f} s")
        if wrong is not None:
            subject, problem, data = wrong
            print(f"{subject}: {problem}\n{data[:3000]!r}", file=sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    main()
