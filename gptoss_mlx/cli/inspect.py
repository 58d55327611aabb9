"""``gptoss-mac inspect``: which experts a text uses, and how well the model foresaw each of its tokens."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptoss_mlx.cli import options
from gptoss_mlx.cli.terminal import print_json
from gptoss_mlx.errors import UsageError, shown

if TYPE_CHECKING:
    from rich.console import Console

    from gptoss_mlx.inspection import ExpertUse, Passage, Seen
    from gptoss_mlx.runtime import Runtime

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Question = Annotated[
    str | None,
    typer.Argument(
        help="The model answers this, at temperature 0, and the conversation is read.",
        callback=options.as_text,
        show_default="a sum",
    ),
]
TextFile = Annotated[
    str | None,
    typer.Option("--text", metavar="FILE|-", help="Read this text instead, as it stands. - is what is piped in."),
]
Out = Annotated[
    Path | None, typer.Option(help="Draw a picture, too: a .png, .svg or .pdf. Needs the extra plots.", metavar="FILE")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON object.")]
SURPRISE_WIDTH = 10
"""Columns of a bar of surprise."""
MOST_BITS = 15.0
"""Bits of surprise that fill such a bar."""
LEAST = 0.005
"""Probability of a candidate that is shown beside the likeliest."""


@app.callback()
def inspect() -> None:
    """Look inside a model while it reads a text. The model is loaded here, also where a server has it."""


@app.command()
def experts(
    question: Question = None,
    text: TextFile = None,
    out: Out = None,
    model: options.Model = None,
    memory: options.Memory = None,
    as_json: AsJson = False,
    yes: options.Yes = False,
) -> None:
    """Show how a text spreads over the experts of each layer.

    Each cell is an expert, each line a layer. "choice" is the mean entropy of a token's router, in bits. "in use" is
    how many experts an even load of the same entropy would take.

    Exit codes: 0 success, 2 bad usage, 4 the model is not installed, 5 the picture cannot be written, 6 the text is too
    long, 7 not enough memory.
    """
    from gptoss_mlx.inspection import expert_use

    name, runtime, passage = _opened(question, text, out, options.Loading(model, yes, memory, prefix_disk="off"))
    with _reading() as progress:
        use = expert_use(runtime, passage, progress)
    if out is not None:
        from gptoss_mlx.pictures import draw_experts

        draw_experts(use, f"{name}: experts chosen by {use.tokens:,} tokens", out)
    if as_json:
        print_json(_experts_json(name, use))
    else:
        _print_experts(name, use)


@app.command()
def tokens(
    question: Question = None,
    text: TextFile = None,
    top: Annotated[int, typer.Option(help="Candidates that are shown for each token.", min=1, max=20)] = 3,
    above: Annotated[
        float, typer.Option(help="List only tokens of more surprise, in bits.", min=0, show_default="list all")
    ] = 0.0,
    out: Out = None,
    model: options.Model = None,
    memory: options.Memory = None,
    as_json: AsJson = False,
    yes: options.Yes = False,
) -> None:
    """Show how surprising each token was to the model, and what it would have expected, with the text's perplexity.

    Of a question the reply is shown. Surprise is the binary logarithm of 1 / probability, perplexity 2 to the power of
    the mean surprise.

    Exit codes: those of `inspect experts`.
    """
    from gptoss_mlx.inspection import seen_tokens

    name, runtime, passage = _opened(question, text, out, options.Loading(model, yes, memory, prefix_disk="off"))
    with _reading() as progress:
        seen = seen_tokens(runtime, passage, top, progress)
    if out is not None:
        from gptoss_mlx.pictures import draw_tokens

        draw_tokens(seen, _summary(name, seen), out)
    if as_json:
        print_json(_tokens_json(name, seen))
    else:
        _print_tokens(seen, above)
        print(_summary(name, seen))


def _opened(
    question: str | None, file: str | None, out: Path | None, loading: options.Loading
) -> "tuple[str, Runtime, Passage]":
    """Load the model and return its name, itself and what it shall read. Checks all that is quick to check before."""
    if question is not None and file is not None:
        raise UsageError("a question and --text do not go together; give one of them")
    if question is not None and not question.strip():
        raise UsageError("the question is empty")
    if out is not None:
        from gptoss_mlx.figures import check_picture

        check_picture(out)
    text = None if file is None else _read(file)
    runtime: Any = options.open_model(loading)
    from gptoss_mlx.inspection import QUESTION, answered, text_passage

    passage = answered(runtime, question or QUESTION) if text is None else text_passage(runtime, text)
    return runtime.folder.path.name, runtime, passage


def _read(file: str) -> str:
    """Return the text of a file, or what is piped in for a dash. Raises UsageError."""
    from gptoss_mlx.attachments import MOST_BYTES
    from gptoss_mlx.text_input import decoded

    name = "standard input" if file == "-" else file or "--text"
    try:
        with sys.stdin.buffer if file == "-" else open(file, "rb") as source:
            data = source.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror}); give a text file") from error
    if len(data) > MOST_BYTES:
        raise UsageError(f"{name}: more than {MOST_BYTES:,} bytes are more than a model reads; give a part of it")
    return decoded(data, name)


@contextmanager
def _reading() -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows (tokens read, tokens in all) on a terminal, while they are read."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("Reading"), BarColumn(), MofNCompleteColumn(), TextColumn("tokens"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda read, total: bar.update(task, completed=read, total=total)


def _console() -> "Console":
    from rich.console import Console

    return Console(highlight=False)


def _print_experts(name: str, use: "ExpertUse") -> None:
    from gptoss_mlx.cli.display import paint_of
    from gptoss_mlx.screen.heat import load_legend, load_map
    from gptoss_mlx.screen.style import DIM, Span

    console = _console()
    paint = paint_of(console)
    count = use.counts.shape[1]
    lines = list(load_map(use.load, max(8, console.width - 25), colours=paint.colours))
    width = sum(len(span.text) for span in lines[0])
    each = use.counts[0].sum() // use.tokens
    print(shown(f"{name}: {use.tokens:,} tokens, each through {each} of {count} experts in every layer"))
    print(paint([Span(f"layer  {f'experts 0 to {count - 1}'[:width]:<{width}}  choice  in use", DIM)]))
    for layer, cells in enumerate(lines):
        figures = f"  {use.choice_bits[layer]:6.2f}  {use.in_use[layer]:6.1f}"
        print(paint([Span(f"{layer:5}  "), *cells, Span(figures)]))
    print(paint(load_legend(colours=paint.colours)))


def _print_tokens(seen: "list[Seen]", above: float) -> None:
    from gptoss_mlx.cli.display import paint_of
    from gptoss_mlx.screen.heat import surprise_bar, surprise_legend, surprise_style, wrapped
    from gptoss_mlx.screen.style import DIM, Span

    console = _console()
    paint = paint_of(console)
    if paint.colours:
        for line in wrapped([Span(token.text, surprise_style(token.surprise)) for token in seen], console.width):
            print(paint(line))
        print(paint(surprise_legend()), end="\n\n")
    print(paint([Span(f"{'place':>7}  {'bits':>6} {'':{SURPRISE_WIDTH}}  token, and what was expected", DIM)]))
    for token in seen:
        bits = token.surprise
        if above and (bits is None or bits <= above):
            continue
        figures = f"{token.at:7}  {'-':>6} {'':{SURPRISE_WIDTH}}"
        if bits is not None:
            figures = f"{token.at:7}  {bits:6.2f} {surprise_bar(bits, MOST_BITS, SURPRISE_WIDTH):{SURPRISE_WIDTH}}"
        named = [one for n, one in enumerate(token.candidates) if not n or one.probability >= LEAST]
        expected = "  ".join(f"{_quoted(one.text)} {one.probability:.0%}" for one in named)
        line = [Span(f"{figures}  "), Span(_quoted(token.text), surprise_style(bits))]
        print(paint([*line, Span(f"  ← {expected}", DIM)] if expected else line))


def _summary(name: str, seen: "list[Seen]") -> str:
    from gptoss_mlx.inspection import perplexity

    return shown(f"{name}: {len(seen):,} tokens, perplexity {perplexity(seen):.3f}")


def _quoted(text: str) -> str:
    """Return a token's text in quotes, in one line."""
    return f"'{shown(text)}'"


def _experts_json(name: str, use: "ExpertUse") -> dict[str, Any]:
    layers = [
        {
            "layer": layer,
            "load": load.round(6).tolist(),
            "routing_entropy_bits": round(float(use.choice_bits[layer]), 6),
            "experts_in_use": round(float(use.in_use[layer]), 6),
        }
        for layer, load in enumerate(use.load)
    ]
    return {"model": name, "tokens": use.tokens, "experts": use.counts.shape[1], "layers": layers}


def _tokens_json(name: str, seen: "list[Seen]") -> dict[str, Any]:
    from dataclasses import asdict

    from gptoss_mlx.inspection import perplexity

    listed = []
    for token in seen:
        entry = asdict(token)
        entry["surprise_bits"] = entry.pop("surprise")
        listed.append(entry)
    return {"model": name, "perplexity": perplexity(seen), "tokens": listed}
