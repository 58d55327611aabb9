"""Typed Python functions as tools: the JSON schema of a signature, and the functions of a file.

Types are those that JSON has: str, int, float, bool, None, list, dict, Literal, and unions of them. Descriptions come
from the docstring, those of parameters from its ``Args:`` section.
"""

import asyncio
import inspect
import json
import re
import runpy
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from gptoss_mlx.errors import UsageError, one_line, shown
from gptoss_mlx.harmony import Function
from gptoss_mlx.tools.tool import SECONDS, Tool

_SIMPLE: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    None: {"type": "null"},
    list: {"type": "array"},
    dict: {"type": "object"},
    Any: {},
}
TAKEN = "str, int, float, bool, None, list, dict, Literal and unions of these"


def function_tool(function: Callable[..., Any], source: str = "", *, seconds: float = SECONDS) -> Tool:
    """Return the tool that calls a function. It is called in another thread; an async one is run to its end. Raises
    UsageError for parameters without a type, of types that JSON does not have, or that cannot be named."""
    name = getattr(function, "__name__", "")
    if not name.isidentifier():
        raise UsageError(f"a tool needs a function with a name, not {shown(repr(function)[:60])}")

    def run(arguments: dict[str, Any], stop: threading.Event) -> str:
        result = function(**arguments)
        return _text(asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result)

    return Tool(_declaration(function, name), run, source or name, seconds=seconds)


def file_tools(path: Path) -> list[Tool]:
    """Run a Python file and return its public functions as tools: those it defines, or those its ``__all__`` names.
    Raises UsageError if it cannot be run, or has none."""
    try:
        found = runpy.run_path(str(path), run_name=path.stem)
    except FileNotFoundError as error:
        raise UsageError(f"--tools {path}: no such file; give a Python file, or python for the sandbox") from error
    except Exception as error:
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        line = f", line {at.tb_lineno}" if at is not None else ""
        raise UsageError(f"--tools {path}{line}: {type(error).__name__}: {one_line(error)}") from error
    names = found.get("__all__")
    if names is None:
        names = [name for name, value in found.items() if _is_own(value, path.stem) and not name.startswith("_")]
    missing = [name for name in names if not callable(found.get(name))]
    if missing:
        raise UsageError(f"--tools {path}: __all__ names {missing[0]!r}, which is no function")
    if not names:
        raise UsageError(f"--tools {path}: it defines no public functions")
    return [function_tool(found[name], path.name) for name in names]


def _is_own(value: Any, module: str) -> bool:
    return inspect.isfunction(value) and value.__module__ == module


async def _awaited(result: Any) -> Any:
    return await result


def _text(result: Any) -> str:
    """Return a result as the model reads it: text as it is, else as JSON or, where it is none, as Python shows it."""
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)


def _declaration(function: Callable[..., Any], name: str) -> Function:
    try:
        hints = get_type_hints(function, include_extras=True)
        signature = inspect.signature(function)
    except Exception as error:
        raise UsageError(f"the signature of '{name}' cannot be read: {one_line(error)}") from error
    description, described = _docstring(inspect.getdoc(function) or "")
    properties = {}
    required = []
    for parameter in signature.parameters.values():
        where = f"'{name}', parameter '{parameter.name}'"
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise UsageError(f"{where}: a model passes parameters by name; declare each, without * or /")
        if parameter.name not in hints:
            raise UsageError(f"{where}: it has no type; use {TAKEN}")
        schema, said = _schema(hints[parameter.name], where)
        if text := described.get(parameter.name) or said:
            schema = {**schema, "description": text}
        if parameter.default is parameter.empty:
            required.append(parameter.name)
        elif isinstance(parameter.default, str | int | float | bool):
            schema = {**schema, "default": parameter.default}
        properties[parameter.name] = schema
    if not properties:
        return Function(name, description, strict=True)
    # In this order, and no others, so that a reply can be held to it.
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return Function(name, description, schema, strict=True)


def _schema(hint: Any, where: str) -> tuple[dict[str, Any], str]:
    """Return the JSON schema of a type, and the text that it is annotated with."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        said = next((extra for extra in arguments[1:] if isinstance(extra, str)), "")
        return _schema(arguments[0], where)[0], said
    if origin is None and hint in _SIMPLE:
        return _SIMPLE[hint], ""
    if origin is Literal and all(isinstance(value, str) for value in arguments):
        return {"type": "string", "enum": list(arguments)}, ""
    if origin is Literal and all(isinstance(value, str | int | bool | None) for value in arguments):
        return {"enum": list(arguments)}, ""
    if origin in (Union, types.UnionType):
        return _union([_schema(one, where)[0] for one in arguments]), ""
    if origin in (list, Sequence):
        return {"type": "array", "items": _schema(arguments[0], where)[0]}, ""
    if origin in (dict, Mapping) and arguments[0] is str:
        return {"type": "object", "additionalProperties": _schema(arguments[1], where)[0]}, ""
    raise UsageError(f"{where}: a model cannot pass {shown(str(hint))[:60]}; use {TAKEN}")


def _union(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    if all(schema.keys() == {"type"} and isinstance(schema["type"], str) for schema in schemas):
        return {"type": [schema["type"] for schema in schemas]}
    return {"anyOf": schemas}


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """Return a docstring without its ``Args:`` section, and what that says of each parameter."""
    found = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n(?=[ \t]))*)", text, re.MULTILINE)
    if found is None:
        return text.strip(), {}
    described: dict[str, str] = {}
    last = ""
    for line in inspect.cleandoc(found[1]).splitlines():
        named = re.match(r"(\w+)(?: \([^)]*\))?: *(.*)", line)
        if named:
            last = named[1]
            described[last] = named[2]
        elif last:
            described[last] = f"{described[last]} {line.strip()}".strip()
    return "\n\n".join(part.strip() for part in (text[: found.start()], text[found.end() :]) if part.strip()), described
