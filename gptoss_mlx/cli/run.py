"""``gptoss-mac run``: answer one prompt on standard output."""

import sys
from dataclasses import asdict
from typing import Annotated, TextIO

import typer

from gptoss_mlx.cli import constraints, options
from gptoss_mlx.cli.keeping import keep_exchange
from gptoss_mlx.cli.terminal import on_interrupt, print_json
from gptoss_mlx.errors import NoAnswerError, UsageError
from gptoss_mlx.screen.style import printable
from gptoss_mlx.text_input import decoded


def run(
    prompt: Annotated[
        str | None,
        typer.Argument(help="Prompt. Read from standard input if absent.", callback=options.as_text),
    ] = None,
    model: options.Model = None,
    reasoning: options.Reasoning = "medium",
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
        bool, typer.Option("--show-thinking", help="Write the thought to standard error.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object with answer, thought and counts.")
    ] = False,
    memory: options.Memory = None,
    context: options.ContextTokens = None,
    trace_experts: options.TraceExperts = None,
    prefix_disk: options.PrefixDisk = options.PREFIX_DISK,
    own_model: options.OwnModel = False,
    no_log: options.NoLog = False,
    yes: options.Yes = False,
) -> None:
    """Answer one prompt and exit.

    With --schema, --regex or --grammar the answer is printed when it is whole, and not at all if it is cut off.

    Exit codes: 0 answered, 2 bad usage, 3 the model is damaged, 4 the model is not installed, 6 the prompt is too long,
    7 not enough memory, 8 stopped before an answer began or was whole, 129, 130 and 143 ended by SIGHUP, Ctrl-C and
    SIGTERM.
    """
    text = prompt if prompt is not None else _from_stdin()
    if not text.strip():
        raise UsageError("the prompt is empty")
    loading = options.Loading(model, yes, memory, context, trace_experts, prefix_disk, own_model)
    held = constraints.read_constraint(schema, regex, grammar)
    conversation = options.start_conversation(
        *(loading, reasoning, system, temperature, max_tokens, seed),
        schema=held,
        think_tokens=think_tokens,
        repeat_guard=not no_repeat_guard,
    )
    if held is not None or think_tokens is not None:
        constraints.wait_for_constraints(conversation.runtime)

    from gptoss_mlx.conversation import Done, Text, Thought

    answer: list[str] = []
    thought: list[str] = []
    done: Done | None = None
    with on_interrupt(conversation.cancel) as asked:
        for event in conversation.send(text):
            match event:
                case Thought(piece):
                    thought.append(piece)
                    if show_thinking:
                        _write(sys.stderr, piece)
                case Text(piece):
                    if show_thinking and thought and not answer:
                        _write(sys.stderr, "\n")
                    answer.append(piece)
                    if not as_json and held is None:
                        _write(sys.stdout, piece)
                case Done():
                    done = event
                    break  # before the reply goes to disk, which only a next turn could use
    assert done is not None
    whole = held is None or (done.reason == "stop" and not done.invalid)
    if held is not None and whole and not as_json:
        _write(sys.stdout, "".join(answer))
    if as_json:
        result = {"answer": "".join(answer), "thought": "".join(thought), "finish_reason": done.reason}
        valid = {} if held is None else {"valid": whole}
        print_json(result | valid | {"usage": asdict(done.usage)})
    elif whole and answer and not answer[-1].endswith("\n"):
        print(flush=True)
    options.close_prefixes(conversation.runtime)
    if not no_log:
        keep_exchange(conversation)
    if done.reason == "cancelled":
        asked.end()
    nothing = done.cut_in_thought or done.no_answer or not answer
    if nothing and not (held is not None and whole):  # a regex may match nothing at all
        remedy = "raise --max-tokens or lower --reasoning" if done.cut_in_thought else "ask again, or in other words"
        if done.context_full:
            remedy = "the context is full: shorten the prompt or lower --reasoning"
        raise NoAnswerError(f"stopped after {done.usage.completion_tokens} tokens, before an answer began; {remedy}")
    if not whole:
        why = done.invalid or f"the answer was cut off after {done.usage.completion_tokens} tokens"
        raise NoAnswerError(f"{why}, so it is not printed; raise --max-tokens or bound the schema, or ask again")
    if done.reason == "repetition":
        print("the reply only repeated itself and was ended; --no-repeat-guard lets it go on", file=sys.stderr)


def _from_stdin() -> str:
    if sys.stdin.isatty():
        raise UsageError("no prompt; give one as an argument, or pipe one in")
    return decoded(sys.stdin.buffer.read(), "standard input")


def _write(stream: TextIO, text: str) -> None:
    """Write ``text`` unchanged to a file or pipe, and without control characters to a terminal."""
    stream.write(printable(text) if stream.isatty() else text)
    stream.flush()
