"""What an answer is held to, as a caller gives it: a JSON Schema, a Pydantic model or a Grammar, or None for no form.

Knows which of them the model reads, and what grammar a whole reply follows. Grammars are loaded only where there is a
form, because they need a library of their own.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gptoss_mlx.harmony import Function, ResponseFormat

if TYPE_CHECKING:
    from gptoss_mlx.grammars import Grammar


def answer_grammar(form: Any) -> "Grammar":
    """Return what an answer in a form is held to. Raises GrammarError and UsageError."""
    from gptoss_mlx.grammars import Grammar, from_schema

    return form if isinstance(form, Grammar) else from_schema(_json_schema(form))


def shown_schema(form: Any) -> ResponseFormat | None:
    """Return the schema that the model reads, None for a form that it is not told of."""
    schema = None if form is None else _json_schema(form)
    if not isinstance(schema, dict):
        return None
    title = schema.get("title")
    return ResponseFormat(title if isinstance(title, str) and title.isprintable() else "answer", schema)


def fault(form: Any, answer: str) -> str | None:
    """Return what is wrong with an answer in JSON that has ended."""
    if shown_schema(form) is None:
        return None
    from gptoss_mlx.grammars.finished import fault

    return fault(answer)


def reply_grammar(
    answer: "Grammar | None", functions: Iterable[Function], builtins: Iterable[str], think_tokens: int | None
) -> "Grammar":
    """Return what a whole reply is held to that may call ``functions``, and ``builtins`` with text. ``think_tokens`` is
    the most of a thought."""
    from gptoss_mlx.grammars.reply import PYTHON, function, reply

    tools = [*map(function, functions), *(replace(PYTHON, recipient=name) for name in builtins)]
    return replace(reply(answer, tools), thought=think_tokens)


def _json_schema(schema: Any) -> Any:
    """Return the JSON Schema that ``schema`` is, or that it has as a Pydantic model. A Grammar is returned as it is."""
    made = getattr(schema, "model_json_schema", None)
    return made() if callable(made) else schema
