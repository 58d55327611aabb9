"""The tools that a request offers, the form in which it wants its answer, and the grammar that holds a reply to both.

Knows what the endpoints say alike. What makes grammars is imported only for a request that needs one.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from gptoss_mlx.errors import GrammarError, RequestError
from gptoss_mlx.harmony import Function, ResponseFormat
from gptoss_mlx.reply import Reply
from gptoss_mlx.requests.json_object import JsonObject

if TYPE_CHECKING:
    from gptoss_mlx.grammars import Grammar
    from gptoss_mlx.grammars.reply import Tool

CACHING = ("cache_control", "prompt_cache_breakpoint")
"""Fields by which a client asks to cache a prompt's beginning. They are ignored because the runtime always does."""

TEXT = {"type": "string"}
"""The schema of a custom tool's one argument, as the prompt declares it."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")


@dataclass(frozen=True)
class Offer:
    """A tool that the request declares at ``where``. A ``custom`` one takes text, in the form that its ``definition``
    says in ``syntax``, or of any form if that is None."""

    function: Function
    where: str
    custom: bool = False
    syntax: Literal["lark", "regex"] | None = None
    definition: str = ""

    def tool(self) -> "Tool":
        """Return what the grammar of replies knows of it. Raises RequestError for what cannot be enforced."""
        from gptoss_mlx.grammars import from_lark, from_regex
        from gptoss_mlx.grammars.reply import Tool, function

        if not self.custom:
            with _named(self.where):
                return function(self.function)
        body = None
        with _named(self.where):
            if self.syntax is not None:
                body = (from_lark if self.syntax == "lark" else from_regex)(self.definition)
        return Tool(f"functions.{self.function.name}", body, content_type=None)


@dataclass(frozen=True)
class Choice:
    """Whether a reply may or must call a tool, and one of which ``names``, None for all. ``where`` the request says
    so."""

    mode: Literal["none", "auto", "required"] = "auto"
    names: frozenset[str] | None = None
    where: str = "tool_choice"


@dataclass(frozen=True)
class Form:
    """The form of an answer, which the request declares at ``where``. ``shown`` is what the prompt says of it, None for
    any JSON object. ``exact``: nothing of its schema may be dropped."""

    where: str
    shown: ResponseFormat | None = None
    exact: bool = False

    def grammar(self) -> "Grammar":
        """Return the answer's grammar. Raises RequestError for what cannot be enforced."""
        from gptoss_mlx.grammars import from_schema, json_object

        if self.shown is None:
            return json_object()
        with _named(self.where):
            return from_schema(self.shown.schema, lenient=not self.exact)


@dataclass(frozen=True)
class Held:
    """What the replies to a request are held to. ``thought`` is the most tokens before an answer or a call begins."""

    tools: tuple[Offer, ...] = ()
    choice: Choice = Choice()
    form: Form | None = None
    thought: int | None = None

    @property
    def shown(self) -> tuple[Offer, ...]:
        """Return the tools that the prompt declares."""
        return () if self.choice.mode == "none" else self.tools

    @property
    def functions(self) -> tuple[Function, ...]:
        """Return these tools as the prompt declares them."""
        return tuple(one.function for one in self.shown)

    @property
    def response_format(self) -> ResponseFormat | None:
        """Return what the prompt says of the answer's form."""
        return self.form.shown if self.form is not None else None

    def grammar(self, notes: list[str] | None = None) -> "Grammar | None":
        """Return the grammar of the replies, None where they are free. ``notes`` get what of it is not enforced. Raises
        RequestError."""
        names = self.choice.names
        called = [one for one in self.shown if names is None or one.function.name in names]
        absent = sorted(names - {one.function.name for one in called}) if names else []
        if absent:
            raise RequestError(f"{self.choice.where}: the tool {absent[0][:80]!r} is not offered", self.choice.where)
        if self.choice.mode == "required" and not called:
            raise RequestError(f"{self.choice.where}: a tool must be called, but none is offered", self.choice.where)
        if not self.tools and self.form is None and self.thought is None:
            return None
        from gptoss_mlx.grammars.reply import reply

        answer = self.form.grammar() if self.form is not None else None
        tools = [one.tool() for one in called]
        sources = [(one.where, tool.body) for one, tool in zip(called, tools, strict=True)]
        if self.form is not None:
            sources.append((self.form.where, answer))
        if notes is not None:
            notes += [f"{where}{one.removeprefix('#')}" for where, body in sources if body for one in body.warnings]
        return replace(reply(answer, tools, self.choice.mode), thought=self.thought)

    def fault(self, reply: Reply) -> str | None:
        """Return what is wrong with a reply that has ended under the grammar, or None: what no grammar sees, such
        as a name that comes twice."""
        strict = {one.function.name for one in self.tools if one.function.strict}
        texts = [call.arguments for call in reply.calls if call.name in strict]
        if self.form is not None and reply.reason == "stop" and reply.stopped_by is None:
            texts.append(reply.text)
        if not texts:
            return None
        from gptoss_mlx.grammars.finished import fault

        return next(filter(None, map(fault, texts)), None)


def read_function(function: JsonObject, parameters: str = "parameters", *, strict: bool | None = None) -> Offer:
    """Read a function's name, description and schema, which the field ``parameters`` has. ``strict`` is what it is
    where the function does not say."""
    given = function.flag("strict")
    function.skip(*CACHING)
    declared = Function(
        _name(function),
        function.text("description") or "",
        function.schema(parameters),
        strict if given is None else given,
    )
    function.overlook_unread()
    return Offer(declared, function.path(parameters))


def read_custom(tool: JsonObject, *, nested: bool) -> Offer:
    """Read a tool that takes text. Its grammar stands in an object of its own if it is ``nested``."""
    tool.skip(*CACHING, "defer_loading")
    name = _name(tool)
    description = tool.text("description") or ""
    syntax, definition, where = None, "", tool.path("format")
    format = tool.object("format")
    if format is not None and format.one_of("type", "text", "grammar") == "grammar":
        grammar = format.object("grammar") if nested else format
        if grammar is None:
            raise format.error("grammar", "is missing")
        syntax = grammar.one_of("syntax", "lark", "regex")
        definition = grammar.needed_text("definition")
        where = grammar.path("definition")
        if syntax is None:
            raise grammar.error("syntax", "is missing")
        if nested:
            grammar.refuse_unread()
    if format is not None:
        format.refuse_unread()
    tool.overlook_unread()
    form = f"It follows this {'Lark grammar' if syntax == 'lark' else 'regex'}:\n{definition}" if syntax else ""
    lines = [description.rstrip("\n"), "The argument is plain text, not JSON.", form]
    shown = Function(name, "\n".join(line for line in lines if line), TEXT)
    return Offer(shown, where, custom=True, syntax=syntax, definition=definition)  # type: ignore[arg-type]


def each_once(tools: Sequence[Offer]) -> tuple[Offer, ...]:
    """Return the tools. Raises RequestError for two of the same name."""
    names = [one.function.name for one in tools]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise RequestError(f"tools: the function '{double}' is declared twice", "tools")
    return tuple(tools)


def read_choice(body: JsonObject) -> Choice:
    """Read OpenAI's ``tool_choice``, in the forms of both of its endpoints."""
    given = body.any("tool_choice")
    if given is None or given in ("none", "auto", "required"):
        return Choice(given or "auto")
    if not isinstance(given, dict):
        raise body.error("tool_choice", "must be 'none', 'auto', 'required' or an object that names a tool")
    choice = JsonObject(given, body.path("tool_choice"))
    kind = choice.needed_text("type")
    if kind in ("function", "custom"):
        named = Choice("required", frozenset([_chosen(choice, kind)]))
    elif kind == "allowed_tools":
        inner = choice.object("allowed_tools") or choice
        mode = inner.one_of("mode", "auto", "required") or "auto"
        tools = inner.objects("tools") or []
        names = frozenset(_chosen(one, one.one_of("type", "function", "custom") or "function") for one in tools)
        inner.refuse_unread()
        named = Choice(mode, names)  # type: ignore[arg-type]
    else:
        raise choice.error("type", f"is {kind[:40]!r}; use function, custom or allowed_tools")
    choice.refuse_unread()
    return named


def read_schema(declared: JsonObject) -> Form:
    """Read a response format's name, schema and description. Without ``strict`` what cannot be enforced is dropped."""
    strict = bool(declared.flag("strict"))
    description = declared.text("description") or ""
    shown = ResponseFormat(declared.needed_text("name"), declared.schema("schema") or {}, description)
    declared.refuse_unread()
    return Form(declared.path("schema"), shown, strict)


def form_of(where: str, schema: dict[str, Any]) -> Form:
    """Return the form of an answer that is held to a schema as a user gives it ``where``."""
    title = schema.get("title")
    name = title if isinstance(title, str) and title.isprintable() else "answer"
    return Form(where, ResponseFormat(name, schema), exact=True)


def read_limit_of_thought(holder: JsonObject, field: str) -> int | None:
    """Read the most tokens of a thought."""
    limit = holder.integer(field)
    if limit is not None and limit < 0:
        raise holder.error(field, f"is {limit}; it must be 0 or more")
    return limit


def _chosen(choice: JsonObject, kind: str) -> str:
    """Return the name in a choice of a tool, which may stand in an object of its own."""
    choice.skip("type")
    inner = choice.object(kind)
    if inner is None:
        name = choice.needed_text("name")
    else:
        name = inner.needed_text("name")
        inner.refuse_unread()
    choice.refuse_unread()
    return name


def _name(tool: JsonObject) -> str:
    name = tool.needed_text("name")
    if not _NAME.fullmatch(name):
        raise tool.error("name", "must be 1 to 128 letters, digits, dashes and underscores")
    return name


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Raise a GrammarError of the block as RequestError, with the path in the request."""
    try:
        yield
    except GrammarError as error:
        path = where + error.path.removeprefix("#")
        said: Any = str(error).removeprefix(f"{error.path}: ")
        raise RequestError(f"{path}: {said}", path) from error
