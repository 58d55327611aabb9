"""Typed functions as tools."""

import threading
from typing import Annotated, Literal

import jsonschema
import pytest

from gptoss_mlx.errors import UsageError
from gptoss_mlx.grammars import from_schema
from gptoss_mlx.tools.functions import file_tools, function_tool


def forecast(
    place: str,
    days: int = 3,
    unit: Literal["C", "F"] = "C",
    at: Annotated[float | None, "Hour of the day."] = None,
    also: list[dict[str, int]] | None = None,
) -> str:
    """Say how the weather will be.

    It may be wrong.

    Args:
        place: A town,
            with its country.
        days (int): How many days.

    Returns:
        Words.
    """
    return f"{place} {days} {unit} {at} {also}"


def call(tool, **arguments):
    return tool.run(arguments, threading.Event())


def test_the_schema_comes_from_types_defaults_and_the_docstring():
    declared = function_tool(forecast).declared
    assert declared.name == "forecast"
    assert declared.description == "Say how the weather will be.\n\nIt may be wrong.\n\nReturns:\n    Words."
    assert declared.strict
    assert declared.parameters == {
        "type": "object",
        "properties": {
            "place": {"type": "string", "description": "A town, with its country."},
            "days": {"type": "integer", "description": "How many days.", "default": 3},
            "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
            "at": {"type": ["number", "null"], "description": "Hour of the day."},
            "also": {
                "anyOf": [
                    {"type": "array", "items": {"type": "object", "additionalProperties": {"type": "integer"}}},
                    {"type": "null"},
                ]
            },
        },
        "required": ["place"],
        "additionalProperties": False,
    }


def test_the_schema_is_one_that_can_be_validated_with_and_enforced():
    schema = function_tool(forecast).declared.parameters
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({"place": "Ulm", "at": None, "also": [{"a": 1}]}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"place": "Ulm", "unit": "K"}, schema)
    assert from_schema(schema).warnings == ()


def test_a_result_is_text_as_it_is_and_all_else_json():
    async def later(n: int) -> dict:
        return {"n": n, "path": threading}

    assert call(function_tool(forecast), place="Ulm") == "Ulm 3 C None None"
    assert call(function_tool(later), n=2).startswith('{"n": 2, "path": "<module')
    assert function_tool(later).declared.description == ""


def untyped(a):
    pass


def starred(*a: int):
    pass


def foreign(a: threading.Event):
    pass


def keyed(a: dict[int, str]):
    pass


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (untyped, "'untyped', parameter 'a': it has no type"),
        (starred, "without \\* or /"),
        (foreign, "a model cannot pass <class 'threading.Event'>"),
        (keyed, "a model cannot pass dict"),
        (lambda: 1, "needs a function with a name"),
    ],
)
def test_a_function_that_a_model_cannot_call_is_refused(function, said):
    with pytest.raises(UsageError, match=said):
        function_tool(function)


def test_a_file_offers_the_functions_it_defines(tmp_path):
    path = tmp_path / "my.py"
    path.write_text(
        "from math import sqrt\nfrom json import dumps\ndef _own(): pass\ndef add(a: int, b: int): return a + b\n"
    )
    (tool,) = file_tools(path)
    assert (tool.name, tool.source, call(tool, a=2, b=3)) == ("add", "my.py", "5")
    path.write_text(path.read_text() + "from inspect import getdoc\n__all__ = ['nothing']")
    with pytest.raises(UsageError, match="__all__ names 'nothing'"):
        file_tools(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("def (:", "SyntaxError"),
        ("x = 1", "defines no public functions"),
        (None, "no such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_reason(tmp_path, text, said):
    if text is not None:
        (tmp_path / "t.py").write_text(text)
    with pytest.raises(UsageError, match=said):
        file_tools(tmp_path / "t.py")
