"""``gptoss-mac run``: answer one prompt on standard output."""

import sys
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from gptoss_mlx.cli import completion, constraints, options
from gptoss_mlx.cli import tools as offered
from gptoss_mlx.cli.keeping import Keeper, open_history, tell
from gptoss_mlx.cli.question import question
from gptoss_mlx.cli.terminal import on_interrupt, print_json
from gptoss_mlx.errors import CutOffError, NoAnswerError, SessionError, UsageError, shown
from gptoss_mlx.screen.style import printable
from gptoss_mlx.templates import Template, read_template

if TYPE_CHECKING:
    from gptoss_mlx.conversation import Conversation
    from gptoss_mlx.events import Done
    from gptoss_mlx.history import Kept


def run(
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="Prompt, after what is piped in. @FILE in it attaches that file.",
            callback=options.as_text,
        ),
    ] = None,
    files: Annotated[
        list[str] | None,
        typer.Option("--file", "-f", metavar="FILE", help="Attach this text file. May be given several times."),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            "-t",
            metavar="NAME",
            help="Ask with a template: NAME.toml in templates of GPTOSS_MAC_HOME, or a path.",
            autocompletion=completion.templates,
        ),
    ] = None,
    last: options.Continue = False,
    session: options.Session = None,
    model: options.Model = None,
    reasoning: Annotated[
        options.ReasoningChoice | None,
        typer.Option(help=options.REASONING_HELP, show_default="medium"),
    ] = None,
    system: options.System = None,
    temperature: options.Temperature = None,
    max_tokens: options.MaxTokens = None,
    seed: options.Seed = None,
    schema: constraints.Schema = None,
    regex: constraints.Regex = None,
    grammar: constraints.GrammarFile = None,
    think_tokens: constraints.ThinkTokens = None,
    no_repeat_guard: constraints.NoRepeatGuard = False,
    show_thinking: Annotated[
        bool | None,
        typer.Option(
            "--show-thinking/--hide-thinking",
            help="Write the thought to standard error.",
            show_default="shown where the answer goes to a terminal",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object with answer, thought and counts.")
    ] = False,
    tools: offered.Tools = None,
    mcp: offered.Mcp = None,
    allow_tools: offered.AllowTools = False,
    memory: options.Memory = None,
    context: options.ContextTokens = None,
    trace_experts: options.TraceExperts = None,
    prefix_disk: options.PrefixDisk = options.PREFIX_DISK,
    own_model: options.OwnModel = False,
    distributed: options.Distributed = None,
    distributed_backend: options.DistributedBackend = "ring",
    no_log: options.NoLog = False,
    yes: options.Yes = False,
) -> None:
    """Answer one prompt and exit.

    With --schema, --regex or --grammar the answer is printed when it is whole, and not at all if it is cut off.

    Exit codes: 0 answered, 2 bad usage, 3 the model is damaged, 4 the model is not installed, 6 the prompt is too long,
    7 not enough memory, 8 stopped before an answer began or was whole, 13 the answer was cut off, 14 a rank of
    --distributed was lost, 129, 130 and 143 ended by SIGHUP, Ctrl-C and SIGTERM.
    """
    if no_log and (session is not None or last):
        raise UsageError("--no-log keeps nothing, so it does not go with --session or --continue")
    form = Template() if template is None else read_template(template)
    held = constraints.read_constraint(schema, regex, grammar)  # first, as either may be /dev/stdin
    text = question(prompt, files or [], form)
    keeper, kept = _keeper(session, last)
    name = model or form.model or (kept.model if kept is not None else None)
    how = (yes, memory, context, trace_experts, prefix_disk, own_model)
    loading = options.Loading(name, *how, distributed, distributed_backend)
    consent = offered.Consent(allow_tools)
    with offered.opened_tools(tools, mcp, consent) as found:
        conversation = options.open_conversation(
            *(kept, loading),
            reasoning or form.reasoning,  # type: ignore[arg-type]
            form.system if system is None else system,
            form.temperature if temperature is None else temperature,
            form.max_tokens if max_tokens is None else max_tokens,
            seed,
            schema=held,
            tools=found,
            confirm=consent,
            think_tokens=think_tokens,
            repeat_guard=not no_repeat_guard,
        )
        consent.stopped = lambda: conversation.cancelled
        if held is not None or think_tokens is not None or found:
            constraints.wait_for_constraints(conversation.runtime)
        if show_thinking is None:
            show_thinking = sys.stdout.isatty() and sys.stderr.isatty()
        show_answer = not as_json and held is None
        with on_interrupt(conversation.cancel) as asked:
            answer, thought, done = _answer(conversation, text, show_thinking, show_answer=show_answer)
    whole = held is None or (done.reason == "stop" and not done.invalid)
    if held is not None and whole and not as_json:
        _write(sys.stdout, answer)
    if as_json:
        result = {"answer": answer, "thought": thought, "finish_reason": done.reason}
        valid = {} if held is None else {"valid": whole}
        print_json(result | valid | {"usage": asdict(done.usage)})
    elif whole and answer and not answer.endswith("\n"):
        print(flush=True)
    options.close_prefixes(conversation.runtime)
    if not no_log:
        keeper = keeper or Keeper(open_history(tell), tell, "run")
        with closing(keeper):
            keeper.save(conversation)
    if done.reason == "cancelled":
        asked.end()
    _check(done, answer, whole, free=held is None)


def _keeper(session: str | None, last: bool) -> "tuple[Keeper | None, Kept | None]":
    """Return what goes on with a conversation, and the conversation, None if it is a new one."""
    if session is None and not last:
        return None, None  # the history is opened after the answer
    from gptoss_mlx.sessions import check_name

    if session is not None:
        check_name(session)
    keeper = Keeper(open_history(tell), tell, "run")
    kept = keeper.resume(session)
    if session is None and kept is None:
        raise SessionError("there is no conversation to resume")
    return keeper, kept


def _answer(
    conversation: "Conversation", text: str, show_thinking: bool, *, show_answer: bool
) -> "tuple[str, str, Done]":
    """Send the message, and write the reply as it comes. Return the answer, the thought and how the reply ended."""
    from gptoss_mlx.events import Done, Text, Thought, ToolCall, ToolError, ToolResult

    answer: list[str] = []
    thought: list[str] = []
    dim = sys.stderr.isatty()
    for event in conversation.send(text):
        match event:
            case Thought(piece):
                thought.append(piece)
                if show_thinking:
                    _write(sys.stderr, piece, dim)
            case Text(piece):
                if show_thinking and thought and not answer:
                    _write(sys.stderr, "\n")
                answer.append(piece)
                if show_answer:
                    _write(sys.stdout, piece)
            case ToolCall():
                print("", *offered.call_lines(event), sep="\n", file=sys.stderr, flush=True)
            case ToolResult():
                print(*offered.result_lines(event), sep="\n", file=sys.stderr, flush=True)
            case ToolError():
                print(shown(f"→ {event.name}: {event.problem}"), file=sys.stderr, flush=True)
            case Done():
                return "".join(answer), "".join(thought), event  # before the reply goes to disk, for a next turn
    raise AssertionError("a reply ended without its last event")


def _check(done: "Done", answer: str, whole: bool, *, free: bool) -> None:
    """Raise what says that there is no answer, or not all of one."""
    nothing = done.cut_in_thought or done.no_answer or not answer
    if nothing and not (whole and not free):  # a regex may match nothing at all
        remedy = "raise --max-tokens or lower --reasoning" if done.cut_in_thought else "ask again, or in other words"
        if done.context_full:
            remedy = "the context is full: shorten the prompt or lower --reasoning"
        raise NoAnswerError(f"stopped after {done.usage.completion_tokens} tokens, before an answer began; {remedy}")
    if not whole and done.reason == "repetition":
        raise NoAnswerError("the answer only repeated itself and was ended; --no-repeat-guard lets it go on")
    if not whole:
        why = done.invalid or f"the answer was cut off after {done.usage.completion_tokens} tokens"
        raise NoAnswerError(f"{why}, so it is not printed; raise --max-tokens or bound the schema, or ask again")
    if done.reason == "repetition":
        raise CutOffError("the reply only repeated itself and was ended; --no-repeat-guard lets it go on")
    if done.reason == "length":
        remedy = "the context is full" if done.context_full else "raise --max-tokens"
        raise CutOffError(f"the answer was cut off after {done.usage.completion_tokens} tokens; {remedy}")


def _write(stream: TextIO, text: str, dim: bool = False) -> None:
    """Write ``text`` unchanged to a file or pipe, and without control characters to a terminal, where it may be dim."""
    shown = printable(text) if stream.isatty() else text
    stream.write(f"\x1b[2m{shown}\x1b[22m" if dim else shown)
    stream.flush()
