"""The keywords of JSON Schema, read and combined: which there are, which types they speak of, and the schema that asks
for what two ask for. Makes no grammar."""

import re
from collections.abc import Iterable
from typing import Any

from gptoss_mlx.errors import GrammarError, quoted
from gptoss_mlx.grammars.strings import quoted_text

Schema = dict[str, Any] | bool

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
OF_TYPE = {
    "object": ("properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
UNENFORCED = (
    *("not", "if", "then", "else", "contains", "minContains", "maxContains", "propertyNames", "dependencies"),
    *("dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties", "$dynamicRef"),
    "$recursiveRef",
)
"""Keywords that no grammar here enforces. Those that are neither these nor read below annotate."""
_FLAT = frozenset(keyword for family in OF_TYPE.values() for keyword in family)
READ = _FLAT | {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", *UNENFORCED}

_KINDS: tuple[tuple[tuple[str, ...], tuple[Any, ...], str], ...] = (
    (("properties", "patternProperties", "dependencies"), (dict,), "an object"),
    (("anyOf", "oneOf", "allOf", "prefixItems", "required", "enum"), (list,), "an array"),
    (("pattern", "format", "$ref"), (str,), "a string"),
    (("minimum", "maximum", "multipleOf"), (int, float), "a number"),
    (("exclusiveMinimum", "exclusiveMaximum"), (int, float, bool), "a number"),
    (("additionalProperties", "additionalItems"), (dict, bool), "a schema"),
    (("items",), (dict, bool, list), "a schema"),
    (("uniqueItems",), (bool,), "true or false"),
    (("type",), (str, list), "a type or an array of types"),
)
"""Keywords, the types of Python that their values may have, and how a message calls those."""
MOST_COUNT = 100_000
"""The highest least number of characters, items or properties."""
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


class Nothing(Exception):
    """No value satisfies a schema."""


def checked(schema: Any, path: str) -> Schema:
    """Return a schema whose own keywords have values of the right types. Raises GrammarError."""
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, dict):
        raise GrammarError(f"{quoted(schema, 40)} is no schema; it must be an object, true or false", path)
    for keywords, kinds, allowed in _KINDS:
        for keyword in schema.keys() & {*keywords}:
            value = schema[keyword]
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise GrammarError(f"is {quoted(value, 40)}; it must be {allowed}", f"{path}/{keyword}")
    for keyword in _COUNTS:
        value = schema.get(keyword, 0)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise GrammarError(f"is {quoted(value, 40)}; it must be a whole number, 0 or more", f"{path}/{keyword}")
    for name in types_named(schema):
        if name not in TYPES:
            raise GrammarError(f"{quoted(name, 40)} is no type; use one of {', '.join(TYPES)}", f"{path}/type")
    for name in schema.get("required", ()):
        if not isinstance(name, str):
            raise GrammarError(f"{quoted(name, 40)} is no property's name", f"{path}/required")
    return schema


def types_named(schema: dict[str, Any]) -> list[Any]:
    """Return what ``type`` lists, or all types if there is none."""
    named = schema.get("type", list(TYPES))
    return named if isinstance(named, list) else [named]


def counts(schema: dict[str, Any], what: str, path: str) -> tuple[int, int | None]:
    """Return the least and the most number of ``what``: "Length", "Items" or "Properties". Raises Nothing where no
    number is both, and GrammarError for a least one above MOST_COUNT."""
    least, most = schema.get(f"min{what}", 0), schema.get(f"max{what}")
    if least > MOST_COUNT:
        raise GrammarError(f"is {least}; at most {MOST_COUNT:,} can be enforced", f"{path}/min{what}")
    if most is not None and most < least:
        raise Nothing(path)
    return int(least), None if most is None else min(int(most), MOST_COUNT)


def types(schema: dict[str, Any]) -> list[str]:
    """Return the types that a value shall have. Where none is named, they are those that the keywords speak of: what
    is allowed beside them is left out, because an author who writes ``properties`` means an object."""
    found = types_named(schema)
    if "type" not in schema:
        spoken = [name for name, family in OF_TYPE.items() if any(keyword in schema for keyword in family)]
        found = spoken or found
    return [name for name in found if name != "integer" or "number" not in found]


def same(one: Any, other: Any) -> bool:
    """Return whether two JSON values are equal. Python's ``1 == True`` are not; 1 and 1.0 are."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def values(schema: dict[str, Any]) -> list[Any] | None:
    """Return the values that ``const`` and ``enum`` leave, or None if there is neither."""
    listed = schema.get("enum")
    if "const" in schema:
        only = [schema["const"]]
        return only if listed is None else [one for one in only if any(same(one, other) for other in listed)]
    return listed


def is_a(value: Any, name: str) -> bool:
    """Return whether a JSON value has a type."""
    if isinstance(value, bool) or value is None:
        return name == ("null" if value is None else "boolean")
    if isinstance(value, int | float):
        return name == "number" or (name == "integer" and float(value).is_integer())
    return name == ("string" if isinstance(value, str) else "array" if isinstance(value, list) else "object")


def both(one: Any, other: Any, path: str) -> Schema:
    """Return the schema of what satisfies two. Raises GrammarError for an invalid one, and for keywords that cannot be
    combined."""
    one, other = checked(one, path), checked(other, path)
    if isinstance(one, bool):
        return other if one else False
    if isinstance(other, bool):
        return one if other else False
    out = dict(one)
    for keyword, value in other.items():
        if keyword not in READ or keyword not in out:
            out.setdefault(keyword, value)
        elif not same(out[keyword], value):
            _combine(out, keyword, value, path)
    _properties(out, one, other, path)
    return out


def _combine(out: dict[str, Any], keyword: str, value: Any, path: str) -> None:
    mine = out[keyword]
    match keyword:
        case "type":
            theirs = types_named({"type": value})
            kept = [name for name in types_named({"type": mine}) if name in theirs]
            numbers = {*types_named({"type": mine})} | {*theirs}
            if {"integer", "number"} <= numbers and "integer" not in kept and "number" not in kept:
                kept.append("integer")
            out["type"] = kept
        case "enum":
            out["enum"] = [one for one in mine if any(same(one, other) for other in value)]
        case "const":
            out["enum"] = []
        case "required":
            out["required"] = list(dict.fromkeys([*mine, *value]))
        case "minimum" | "minLength" | "minItems" | "minProperties":
            out[keyword] = max(mine, value)
        case "maximum" | "maxLength" | "maxItems" | "maxProperties":
            out[keyword] = min(mine, value)
        case "exclusiveMinimum" | "exclusiveMaximum" if not isinstance(mine, bool) and not isinstance(value, bool):
            out[keyword] = (max if keyword == "exclusiveMinimum" else min)(mine, value)
        case "uniqueItems":
            out[keyword] = True
        case "multipleOf" if isinstance(mine, int) and isinstance(value, int) and 0 in (mine % value, value % mine):
            out[keyword] = max(mine, value)
        case "items" | "additionalItems" if not isinstance(mine, list) and not isinstance(value, list):
            out[keyword] = both(mine, value, f"{path}/{keyword}")
        case "anyOf" | "oneOf" | "$ref" | "allOf":
            out["allOf"] = [*out.get("allOf", []), *(value if keyword == "allOf" else [{keyword: value}])]
        case "properties" | "patternProperties" | "additionalProperties":
            pass  # by _properties
        case _ if keyword in UNENFORCED:
            pass  # whoever makes the grammar refuses or drops it
        case _:
            raise GrammarError(f"{keyword} is asked for twice, in ways that cannot be enforced together", path)


def _properties(out: dict[str, Any], one: dict[str, Any], other: dict[str, Any], path: str) -> None:
    """Combine the keywords that say what properties hold."""
    keywords = ("properties", "patternProperties", "additionalProperties")
    if not all(any(keyword in schema for keyword in keywords) for schema in (one, other)):
        return
    for schema in (one, other):
        if schema.get("patternProperties"):
            raise GrammarError("patternProperties beside other properties of the same object cannot be enforced", path)
    mine, theirs = one.get("properties", {}), other.get("properties", {})
    rest, others_rest = one.get("additionalProperties", True), other.get("additionalProperties", True)
    joined: dict[str, Any] = {}
    for name in dict.fromkeys([*mine, *theirs]):
        joined[name] = both(mine.get(name, rest), theirs.get(name, others_rest), f"{path}/properties/{name}")
    if joined:
        out["properties"] = joined
    if "additionalProperties" in one or "additionalProperties" in other:
        out["additionalProperties"] = both(rest, others_rest, f"{path}/additionalProperties")


def disjoint(one: Any, other: Any, path: str, depth: int = 4) -> bool:
    """Return whether it is certain that no value satisfies both. The schemas have no $ref and no allOf at their top.
    Raises GrammarError for an invalid one."""
    one, other = checked(one, path), checked(other, path)
    if isinstance(one, bool) or isinstance(other, bool):
        return one is False or other is False
    if depth == 0:
        return False
    for a, b in ((one, other), (other, one)):
        for keyword in ("anyOf", "oneOf"):
            if keyword in a and _all_disjoint(a, keyword, b, path, depth - 1):
                return True
    kinds = [_certain_types(one), _certain_types(other)]
    if not any(_overlap(a, b) for a in kinds[0] for b in kinds[1]):
        return True
    listed = [values(one), values(other)]
    for mine, theirs, schema in ((listed[0], listed[1], other), (listed[1], listed[0], one)):
        if mine is None:
            continue
        if theirs is not None:
            return not any(same(a, b) for a in mine for b in theirs)
        if not any(is_a(value, name) for value in mine for name in _certain_types(schema)):
            return True
    if kinds == [["object"], ["object"]]:
        return _disjoint_objects(one, other, path, depth) or _disjoint_objects(other, one, path, depth)
    return False


def _all_disjoint(one: dict[str, Any], keyword: str, other: Schema, path: str, depth: int) -> bool:
    rest = {name: value for name, value in one.items() if name != keyword}
    return all(
        "$ref" not in content(way) and disjoint(both(rest, way, path), other, path, depth) for way in one[keyword]
    )


def _disjoint_objects(one: dict[str, Any], other: dict[str, Any], path: str, depth: int) -> bool:
    held = other.get("properties", {})
    for name in one.get("required", ()):
        if other.get("patternProperties"):
            return False
        if name not in held and other.get("additionalProperties") is False:
            return True
        mine = one.get("properties", {}).get(name)
        if mine is None or name not in held or "$ref" in content([mine, held[name]]):
            continue
        if disjoint(mine, held[name], path, depth - 1):
            return True
    return False


def _certain_types(schema: dict[str, Any]) -> list[Any]:
    listed = values(schema)
    named = types_named(schema)
    if listed is None:
        return named
    return [name for name in named if any(is_a(value, name) for value in listed)]


def _overlap(one: str, other: str) -> bool:
    return one == other or {one, other} == {"integer", "number"}


def has_name(pattern: str, name: str, path: str) -> bool:
    """Return whether a pattern of patternProperties is in a name. Raises GrammarError where it is no regex."""
    try:
        return re.search(pattern, name) is not None
    except (re.error, RecursionError) as error:
        raise GrammarError(f"is no regex ({error})", f"{path}/patternProperties/{pattern}") from error


def content(schema: Any) -> str:
    """Return a text that is equal for schemas that are equal in content and order."""
    return quoted_text(schema)


def nested_deeper(schema: Any, most: int) -> bool:
    """Return whether arrays and objects nest deeper than ``most``."""
    level: Iterable[Any] = [schema]
    for _ in range(most):
        level = (
            [
                inner
                for outer in level
                for inner in (outer.values() if isinstance(outer, dict) else outer)
                if isinstance(inner, dict | list)
            ]
            if (level := [one for one in level if isinstance(one, dict | list)])
            else []
        )
        if not level:
            return False
    return True
