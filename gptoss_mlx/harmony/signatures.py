"""Write functions as the TypeScript declarations gpt-oss was trained on. Knows text, neither messages nor ids.

The output is openai-harmony's, with one difference. If a description, title or example inside a type has several lines,
every line is a comment here, or all are joined to one line. openai-harmony comments only the first, so that the others
read as code.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from gptoss_mlx.errors import HarmonyError
from gptoss_mlx.harmony.json_text import json_text
from gptoss_mlx.harmony.messages import Function, Namespace

MAX_DEPTH = 128


def tools_section(namespaces: Iterable[Namespace]) -> str:
    """Return the ``# Tools`` section of a system or developer message, namespaces sorted by name."""
    return "\n\n".join(["# Tools", *map(_namespace, sorted(namespaces, key=lambda namespace: namespace.name))])


def _namespace(namespace: Namespace) -> str:
    lines = [f"## {namespace.name}\n"]
    if not namespace.functions:
        return "\n".join(lines + _lines(namespace.description))
    lines += [f"// {line}" for line in _lines(namespace.description)]
    lines.append(f"namespace {namespace.name} {{\n")
    for function in namespace.functions:
        lines += [f"// {line}" for line in _lines(function.description)]
        lines.append(f"type {function.name} = {_signature(function)} => any;\n")
    return "\n".join([*lines, f"}} // namespace {namespace.name}"])


def _signature(function: Function) -> str:
    if function.parameters is None:
        return "()"
    try:
        return f"(_: {typescript(function.parameters)})"
    except (TypeError, ValueError, RecursionError) as error:
        raise HarmonyError(f"function {function.name!r}: its parameters are no JSON schema ({error})") from error


def typescript(schema: Any, indent: str = "", depth: int = 0) -> str:
    """Return the TypeScript type of a JSON schema. ``anyOf``, ``$ref`` and the like give ``any``, as in openai-harmony.

    Raises ValueError for a schema nested more than MAX_DEPTH deep, and what ``json_text`` raises for a default.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    if not isinstance(schema, Mapping):
        return "any"
    if isinstance(schema.get("oneOf"), list):
        return "".join(
            f"\n{indent} | {_nullable(variant, indent + '   ', depth)}{_trailing(variant)}"
            for variant in schema["oneOf"]
        )
    type_ = schema.get("type")
    if isinstance(type_, list) and (types := [name for name in type_ if isinstance(name, str)]):
        return " | ".join("number" if name == "integer" else name for name in types)
    if type_ == "object":
        return _object(schema, indent, depth)
    if type_ == "array":
        return f"{typescript(schema['items'], indent, depth + 1)}[]" if "items" in schema else "Array<any>"
    if type_ == "string":
        return " | ".join(f'"{value}"' for value in _enum(schema) if isinstance(value, str)) or "string"
    return {"number": "number", "integer": "number", "boolean": "boolean"}.get(
        type_ if isinstance(type_, str) else "", "any"
    )


def _object(schema: Mapping[str, Any], indent: str, depth: int) -> str:
    required = schema.get("required")
    required = required if isinstance(required, list) else []
    properties = schema.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    out = [*comment(schema.get("description"), indent), "{\n"]
    for name, value in properties.items():
        optional = "" if name in required else "?"
        value = value if isinstance(value, Mapping) else {}
        if isinstance(value.get("title"), str):
            out += [*comment(value["title"], indent), f"{indent}//\n"]
        if "oneOf" not in value:
            out += comment(value.get("description"), indent)
        if isinstance(value.get("examples"), list) and value["examples"]:
            out.append(f"{indent}// Examples:\n")
            out += [line for e in value["examples"] if isinstance(e, str) for line in comment(f'- "{e}"', indent)]
        if isinstance(value.get("oneOf"), list):
            out += _one_of_property(name + optional, value, indent, depth)
        else:
            type_ = _nullable(value, indent + "    ", depth)
            default = f" // {_default(value)}" if "default" in value and "oneOf" not in value else ""
            out.append(f"{indent}{name}{optional}: {type_},{default}\n")
    return "".join([*out, f"{indent}}}"])


def _one_of_property(name: str, value: Mapping[str, Any], indent: str, depth: int) -> list[str]:
    """Return the lines of a property with ``oneOf``: one line for each type. A repeated description is left out."""
    description = value.get("description")
    variants = value["oneOf"]
    described = isinstance(description, str) and not (variants and _get(variants[0], "description") == description)
    out = comment(description, indent) if described else []
    if "default" in value:
        out.append(f"{indent}// {_default(value)}\n")
    out.append(f"{indent}{name}:\n")
    for i, variant in enumerate(variants):
        silent = (i == 0 and described) or _get(variant, "description") == description
        type_ = _nullable(variant, indent + "   ", depth)
        out.append(f"{indent} | {type_}{_trailing(variant, described=not silent, bare_enum=True)}\n")
    return [*out, f"{indent},\n"]


def _nullable(schema: Any, indent: str, depth: int) -> str:
    type_ = typescript(schema, indent, depth + 1)
    return f"{type_} | null" if _get(schema, "nullable") is True and "null" not in type_ else type_


def _trailing(schema: Any, described: bool = True, bare_enum: bool = False) -> str:
    words = []
    if described and isinstance(_get(schema, "description"), str):
        words += _comment_lines(schema["description"])
    if isinstance(schema, Mapping) and "default" in schema:
        words.append(_default(schema, bare_enum))
    return f" // {' '.join(words)}" if words else ""


def _default(schema: Mapping[str, Any], bare_enum: bool = True) -> str:
    """Return ``default: x``. A string is quoted; the value of an enum is not if ``bare_enum``, as in openai-harmony."""
    default = schema["default"]
    if isinstance(default, str):
        if not _enum(schema):
            return f'default: "{default}"'
        if bare_enum:
            return f"default: {default}"
    return f"default: {json_text(default)}"


def _enum(schema: Mapping[str, Any]) -> list[Any]:
    values = schema.get("enum")
    return values if isinstance(values, list) else []


def _get(schema: Any, key: str) -> Any:
    return schema.get(key) if isinstance(schema, Mapping) else None


def comment(text: Any, indent: str = "") -> list[str]:
    """Return each line of ``text`` as a comment line, or no line if it is not a string."""
    return [f"{indent}// {line}\n" for line in _comment_lines(text)] if isinstance(text, str) else []


def _comment_lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").split("\n")


def _lines(text: str) -> list[str]:
    """Split as Rust's ``str::lines`` does: a final newline begins no further line."""
    lines = _comment_lines(text)
    return lines if lines[-1] else lines[:-1]
