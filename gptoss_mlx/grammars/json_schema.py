"""A JSON Schema made into a grammar of the texts that satisfy it.

What the grammar allows always validates; it need not allow all that would. It has one order of properties, the one
declared. An object with declared properties is closed unless ``additionalProperties`` is there. Strings and numbers
have one spelling, whitespace has a bound. Where additional properties are allowed a name may still come twice:
``finished`` finds that in the finished text.

A keyword that cannot be enforced is an error that names it and its path, or dropped with a warning where the caller
asks for that. Formats that only annotate are ignored with a warning.
"""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

from gptoss_mlx.errors import GrammarError
from gptoss_mlx.grammars import scalars, strings
from gptoss_mlx.grammars.containers import COLON, array, chain, longer_array, mapping
from gptoss_mlx.grammars.grammar import Grammar, matches_something
from gptoss_mlx.grammars.keywords import (
    OF_TYPE,
    READ,
    UNENFORCED,
    Nothing,
    Schema,
    both,
    checked,
    content,
    counts,
    disjoint,
    has_name,
    is_a,
    nested_deeper,
    types,
    values,
)
from gptoss_mlx.grammars.references import resolve
from gptoss_mlx.grammars.rules import Rules, Way

MOST_TEXT = 1 << 20
"""Characters of a schema."""
MOST_DEPTH = 100
"""Of arrays and objects in a schema, and of schemas that lead to one another without a value between them."""
MOST_RULES = 10_000
MOST_CHAINED = 500
"""Rules that lead to one another. llguidance recurses, and overflows a stack of 8 MB between 1,000 and 3,000."""
MOST_LARK = 1 << 20
"""Characters of the grammar, which compiles in less than a second."""
MOST_JOINED = 500
"""Times that keywords are combined with those of a branch, which may multiply."""
MOST_MATCHED = 500
"""Patterns, and sets of names that are not declared, which are tried in a millisecond or two each."""
MOST_COMPARED = 20_000
"""Pairs of branches of oneOf, which are compared in a thirtieth of a millisecond each."""
MOST_NAME = 64
"""Characters of a property's name that is not declared."""


def from_schema(schema: Any, *, lenient: bool = False) -> Grammar:
    """Return the grammar of a schema. ``lenient`` drops what cannot be enforced, with a warning. Raises GrammarError,
    with the path, for an invalid schema, for what cannot be enforced, and for a schema that nothing satisfies."""
    try:
        if nested_deeper(schema, MOST_DEPTH):
            raise GrammarError(f"the schema nests deeper than {MOST_DEPTH}", "#")
        text = content(schema)
        if len(text) > MOST_TEXT:
            raise GrammarError(f"the schema has more than {MOST_TEXT:,} characters", "#")
    except (TypeError, ValueError) as error:
        raise GrammarError(f"the schema is not JSON ({error})", "#") from error
    return _from_text(text, lenient)


@lru_cache(maxsize=256)
def _from_text(text: str, lenient: bool) -> Grammar:
    schema = json.loads(text)
    compiler = _Compiler(schema, lenient)
    try:
        start = compiler.value(schema, "#")
    except Nothing as nothing:
        raise GrammarError("nothing satisfies the schema", str(nothing)) from None
    lark = compiler.rules.lark(start)
    if lark is None:
        raise GrammarError("nothing finite satisfies the schema: its $refs never end", "#")
    if compiler.rules.depth(start) > MOST_CHAINED:
        raise GrammarError(f"the schema unfolds into more than {MOST_CHAINED} properties or values in a chain", "#")
    if len(lark) > MOST_LARK:
        raise GrammarError(f"the schema unfolds into a grammar of more than {MOST_LARK:,} characters", "#")
    return Grammar(lark, tuple(dict.fromkeys(compiler.warnings)))


def json_object() -> Grammar:
    """Return the grammar of every JSON object."""
    return from_schema({"type": "object"})


class _Compiler:
    """One schema's way to rules. Schemas of equal content become one rule, so that recursion ends."""

    def __init__(self, root: Any, lenient: bool) -> None:
        self.root = root
        self.lenient = lenient
        self.warnings: list[str] = []
        self.rules = Rules()
        self._made: dict[str, str] = {}
        self._empty: set[str] = set()
        self._depth = 0
        self._joined = 0
        self._matched = 0

    def value(self, schema: Any, path: str) -> str:
        """Return the rule of what satisfies ``schema``. Raises Nothing where it is known that nothing does."""
        schema = checked(schema, path)
        key = content({k: v for k, v in schema.items() if k in READ} if isinstance(schema, dict) else schema)
        if key in self._empty:
            raise Nothing(path)
        if key in self._made:
            return self._made[key]
        if len(self._made) > MOST_RULES:
            raise GrammarError(f"the schema unfolds into more than {MOST_RULES:,} parts", path)
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise GrammarError(f"the schema unfolds deeper than {MOST_DEPTH}; a $ref beside keywords may recur", path)
        name = self._made[key] = self.rules.name()
        try:
            self.rules.ways[name] = self._ways(schema, path)
        except Nothing:
            self._empty.add(key)
            raise
        finally:
            self._depth -= 1
        return name

    def _both(self, one: Schema, other: Schema, path: str) -> Schema:
        self._joined += 1
        if self._joined > MOST_JOINED:
            raise GrammarError(f"its branches multiply into more than {MOST_JOINED:,} schemas", path)
        return both(one, other, path)

    def _matches(self, patterns: list[str], other_than: Sequence[str], path: str) -> bool:
        self._count_match(path)
        return matches_something(patterns, other_than)

    def _count_match(self, path: str) -> None:
        self._matched += 1
        if self._matched > MOST_MATCHED:
            raise GrammarError(f"has more than {MOST_MATCHED:,} patterns, and objects with names not declared", path)

    def _refuse(self, keyword: str, path: str, why: str) -> None:
        """Raise GrammarError, or warn that a keyword is dropped."""
        if not self.lenient:
            raise GrammarError(f"{keyword} {why}", path)
        self.warnings.append(f"{path}: {keyword} {why}; it is dropped")

    def _ways(self, schema: Schema, path: str) -> list[Way]:
        if isinstance(schema, bool):
            if not schema:
                raise Nothing(path)
            schema = {}
        closed = schema.get("unevaluatedProperties") is False
        for keyword in UNENFORCED:
            if keyword in schema and not (keyword == "unevaluatedProperties" and closed):
                if schema[keyword] == {} and keyword.startswith("depend"):
                    continue
                self._refuse(keyword, path, "cannot be enforced")
        schema = {k: v for k, v in schema.items() if k in READ and k not in UNENFORCED}
        if closed and "additionalProperties" not in schema:
            schema["unevaluatedProperties"] = False
        if "$ref" in schema:
            rest = {k: v for k, v in schema.items() if k != "$ref"}
            target, place = resolve(self.root, schema["$ref"], f"{path}/$ref")
            if not rest:
                return self._one(target, place)
            return self._one(self._both(checked(target, place), rest, path), path)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                rest = {k: v for k, v in schema.items() if k != keyword}
                return self._alternatives(keyword, schema[keyword], rest, path)
        if "allOf" in schema:
            joined: Schema = {k: v for k, v in schema.items() if k != "allOf"}
            for number, part in enumerate(schema["allOf"]):
                place = f"{path}/allOf/{number}"
                joined = self._both(joined, self._expanded(checked(part, place), place), path)
            return self._one(joined, path)
        listed = values(schema)
        if listed is not None:
            return self._listed(listed, schema, path)
        return self._by_type(schema, path)

    def _one(self, schema: Schema, path: str) -> list[Way]:
        name = self.value(schema, path)
        return [Way(name, (name,))]

    def _expanded(self, schema: Schema, path: str, depth: int = 0) -> Schema:
        """Return ``schema`` with what its $ref and allOf at its top say, to be compared or combined."""
        if isinstance(schema, bool) or not ("$ref" in schema or "allOf" in schema):
            return schema
        if depth > MOST_DEPTH // 2:
            raise GrammarError("the $refs lead in a circle without a value between them", path)
        out: Schema = {k: v for k, v in schema.items() if k not in ("$ref", "allOf")}
        if "$ref" in schema:
            target, place = resolve(self.root, schema["$ref"], f"{path}/$ref")
            out = self._both(self._expanded(checked(target, place), place, depth + 1), out, path)
        for number, part in enumerate(schema.get("allOf", ())):
            place = f"{path}/allOf/{number}"
            out = self._both(out, self._expanded(checked(part, place), place, depth + 1), path)
        return out

    def _alternatives(self, keyword: str, branches: list[Any], rest: dict[str, Any], path: str) -> list[Way]:
        whole: list[Schema] = []
        for number, branch in enumerate(branches):
            place = f"{path}/{keyword}/{number}"
            whole.append(self._both(rest, checked(branch, place), place) if rest else checked(branch, place))
        if keyword == "oneOf":
            compared = [self._expanded(one, f"{path}/oneOf/{number}") for number, one in enumerate(whole)]
            if len(whole) * (len(whole) - 1) // 2 > MOST_COMPARED:
                self._refuse("oneOf", path, f"has more pairs of branches than {MOST_COMPARED:,}, too many to compare")
                compared = []
            for a, b in combinations(range(len(compared)), 2):
                if not disjoint(compared[a], compared[b], path):
                    self._refuse("oneOf", path, f"cannot be enforced, because its branches {a} and {b} may both match")
                    break
        ways = []
        for number, one in enumerate(whole):
            try:
                ways += self._one(one, f"{path}/{keyword}/{number}")
            except Nothing:
                continue
        if not ways:
            raise Nothing(path)
        return ways

    def _listed(self, listed: list[Any], schema: dict[str, Any], path: str) -> list[Way]:
        """Return the values of const and enum that the other keywords admit."""
        kinds = types(schema)
        kept = [
            value for value in listed if any(is_a(value, name) for name in kinds) and self._admits(schema, value, path)
        ]
        try:
            texts = dict.fromkeys(strings.quoted_text(value) for value in kept)
        except ValueError as error:
            raise GrammarError(f"has a value that is not JSON ({error})", path) from error
        if not texts:
            raise Nothing(path)
        return [Way(self.rules.terminal("|".join(map(strings.literal, texts))))]

    def _admits(self, schema: dict[str, Any], value: Any, path: str) -> bool:
        if isinstance(value, dict | list):
            family = OF_TYPE["object" if isinstance(value, dict) else "array"]
            for keyword in family:
                if keyword in schema:
                    self._refuse(keyword, path, "beside const or enum cannot be enforced")
            return True
        return scalars.admits(schema, value, path)

    def _by_type(self, schema: dict[str, Any], path: str) -> list[Way]:
        makers: dict[str, Callable[[dict[str, Any], str], list[Way]]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "number": lambda schema, path: self._scalar(scalars.number(schema, path, self._refuse), path),
            "integer": lambda schema, path: self._scalar(scalars.integer(schema, path, self._refuse), path),
            "boolean": lambda *_: [Way(self.rules.terminal("true|false"))],
            "null": lambda *_: [Way(self.rules.terminal("null"))],
        }
        ways: list[Way] = []
        for name in types(schema):
            try:
                ways += makers[name](schema, path)
            except Nothing:
                continue
        if not ways:
            raise Nothing(path)
        return ways

    def _string(self, schema: dict[str, Any], path: str) -> list[Way]:
        if "pattern" in schema:
            self._count_match(path)
        return self._scalar(scalars.string(schema, path, self._refuse, self.warnings.append), path)

    def _scalar(self, patterns: tuple[str, ...] | None, path: str) -> list[Way]:
        if patterns is None:
            raise Nothing(path)
        return [Way(self.rules.terminal(*patterns))]

    def _array(self, schema: dict[str, Any], path: str) -> list[Way]:
        first, rest = schema.get("prefixItems", []), schema.get("items", True)
        if isinstance(rest, list):  # as drafts up to 2019-09 have it
            first, rest = rest, schema.get("additionalItems", True)
        least, most = counts(schema, "Items", path)
        if schema.get("uniqueItems") and (most is None or most > 1):
            self._refuse("uniqueItems", path, "cannot be enforced for more than one item")
        ways: list[Way] = []
        items: list[str] = []
        for number, one in enumerate(first):
            if least <= number and (most is None or number <= most):
                ways.append(array(self.rules, items))
            try:
                items.append(self.value(one, f"{path}/items/{number}"))
            except Nothing:
                return self._some(ways, path)
        count = len(items)
        if most is not None and most < count:
            return self._some(ways, path)
        if least <= count:
            ways.append(array(self.rules, items))
        if most is not None and most == count:
            return self._some(ways, path)
        try:
            item = self.value(rest, f"{path}/items")
        except Nothing:
            return self._some(ways, path)
        most = None if most is None else most - count
        return [*ways, longer_array(self.rules, items, item, max(least - count, 1), most)]

    def _some(self, ways: list[Way], path: str) -> list[Way]:
        if not ways:
            raise Nothing(path)
        return ways

    def _object(self, schema: dict[str, Any], path: str) -> list[Way]:
        declared = schema.get("properties", {})
        by_name = schema.get("patternProperties", {})
        closed = bool(declared) or "unevaluatedProperties" in schema or bool(by_name)
        additional = schema.get("additionalProperties", not closed)
        required = schema.get("required", [])
        least, most = counts(schema, "Properties", path)
        members: list[tuple[str, str, bool]] = []
        for name in dict.fromkeys([*declared, *required]):
            place = f"{path}/properties/{name}"
            held: Schema = checked(declared[name], place) if name in declared else True
            matching = [pattern for pattern in by_name if has_name(pattern, name, path)]
            for pattern in matching:
                held = self._both(held, checked(by_name[pattern], place), place)
            if name not in declared and not matching:
                held = schema.get("additionalProperties", True)
            try:
                rule = self.value(held, place)
                key = self.rules.terminal(strings.literal(strings.quoted_text(name)))
            except Nothing:
                if name in required:
                    raise
                continue
            except ValueError as error:
                raise GrammarError(f"has a name that is not JSON ({error})", place) from error
            members.append((f"{key} {self.rules.terminal(COLON)} {rule}", rule, name in required))
        extras = self._extras(additional, by_name, [*declared, *required], path)
        count = sum(needed for *_, needed in members)
        if not members:
            return self._some(mapping(self.rules, extras, least, most), path)
        if least > max(count, 1):
            self._refuse("minProperties", path, "above the number of required properties cannot be enforced")
        if most is not None and (extras or most < len(members)):
            if most > count:
                self._refuse("maxProperties", path, "beside optional properties cannot be enforced")
            elif most < count:
                raise Nothing(path)
            else:
                members, extras = [member for member in members if member[2]], []
        return chain(self.rules, members, extras, least > 0)

    def _extras(self, additional: Schema, by_name: dict[str, Any], taken: list[str], path: str) -> list[Way]:
        """Return the properties whose names are not ``taken``. A name that matches two patterns is left out."""
        colon = self.rules.terminal(COLON)
        # Beside patterns no name has an escape, because a pattern is matched with the name as it is spelled.
        shape = strings.by_length(0, MOST_NAME, strings.PLAIN if by_name else strings.CHARACTER)
        names = [strings.literal(strings.quoted_text(name)) for name in taken]
        patterns: dict[str, str] = {}
        for pattern in by_name:
            try:
                patterns[pattern] = strings.by_pattern(pattern)
                if not self._matches([patterns[pattern]], (), path):
                    raise strings.NotEnforced("matches no text")
            except strings.NotEnforced as error:
                self._refuse("patternProperties", f"{path}/patternProperties/{pattern}", str(error))
                return []
        ways = []
        for own in (*by_name, None):  # None: the names that match no pattern
            held = additional if own is None else by_name[own]
            if held is False:
                continue
            place = f"{path}/additionalProperties" if own is None else f"{path}/patternProperties/{own}"
            parts = [shape] if own is None else [shape, patterns[own]]
            others = [text for pattern, text in patterns.items() if pattern != own]
            if not self._matches(parts, [*names, *others], place):
                continue
            try:
                rule = self.value(held, place)
            except Nothing:
                continue
            key = self.rules.terminal(*parts, other_than=[*names, *others])
            ways.append(Way(f"{key} {colon} {rule}", (rule,)))
        return ways
