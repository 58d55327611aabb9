"""``gptoss-mac batch``: a file of prompts in, a file of answers out."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptoss_mlx.cli import options
from gptoss_mlx.cli.terminal import on_interrupt
from gptoss_mlx.errors import BatchLinesError, UsageError, shown

if TYPE_CHECKING:
    from gptoss_mlx.batch.run import Tally
    from gptoss_mlx.batch.source import Source
    from gptoss_mlx.runtime import Runtime

AUTO_ROWS = 16
"""Rows decoded together when left to us. Memory may admit fewer."""

MEMORY_SHARE = 0.5
"""Of what is free. The rest is for the step's own arrays, and for caches that allocate ahead."""


class Form(StrEnum):
    auto = "auto"
    jsonl = "jsonl"
    csv = "csv"
    text = "text"


def batch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="OpenAI Batch lines, objects with prompt or messages, CSV, one prompt a line; or -.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file of answers, JSONL. Run again after a stop, it is gone on with.")],
    model: options.Model = "20b",
    reasoning: options.Effort = options.Reasoning.medium,
    system: options.System = None,
    temperature: options.Temperature = None,
    max_tokens: Annotated[int, typer.Option(help="Stop an answer after so many tokens.")] = 4096,
    seed: options.Seed = None,
    include_thinking: Annotated[bool, typer.Option("--include-thinking", help="Write the thoughts too.")] = False,
    concurrency: Annotated[str, typer.Option(help="Answers under way at once, or auto: as memory allows.")] = "auto",
    form: Annotated[
        Form, typer.Option("--format", help="What IN is; by default its name tells, or its content.")
    ] = Form.auto,
) -> None:
    """Answer a file of prompts, many at a time.

    What a line says itself goes before the options. Each answer is appended when it is finished; stopped or killed, the
    same command goes on where it was. Lines that cannot be answered go to OUT's .errors.jsonl, and the exit code is
    then 10.
    """
    from gptoss_mlx.batch.companions import check as check_files
    from gptoss_mlx.batch.source import Form as Kind
    from gptoss_mlx.batch.source import open_source

    rows = _rows(concurrency)
    chosen: Kind | None = None if form is Form.auto else form.value  # type: ignore[assignment]
    options.check(temperature, max_tokens)
    with open_source(source, chosen) as opened:
        check_files(out, opened.status)
        for note in opened.notes:
            _say(note)
        survey = opened.survey()
        runtime = options.open_model(model)
        described = {
            "input": {"sha256": survey.sha256, "format": opened.form},
            "model": _identity(runtime),
            "reasoning": reasoning.value,
            "system": system,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": seed,
            "include_thinking": include_thinking,
        }
        _answer(opened, out, runtime, described, rows, survey.lines)


def _answer(source: "Source", out: Path, runtime: "Runtime", described: dict[str, Any], rows: int, lines: int) -> None:
    from datetime import date

    from gptoss_mlx.batch.answers import Answers, Errors, closing
    from gptoss_mlx.batch.run import Run, Tally
    from gptoss_mlx.cli.progress import batch_progress
    from gptoss_mlx.engine.memory import free_bytes
    from gptoss_mlx.requests import Defaults

    answers = Answers(out, described, {"date": date.today().isoformat()})
    errors = Errors(out)
    with closing(answers, errors):
        tally = Tally(lines, len(answers.answered))
        if tally.before:
            _say(f"{tally.before} of {lines} were answered before; going on")
        run = Run(
            runtime,
            source,
            answers,
            errors,
            Defaults(
                runtime.sampling(temperature=described["temperature"]),
                described["reasoning"],
                described["system"],
                described["max_tokens"],
                answers.fixed["date"],
            ),
            tally,
            max_rows=rows,
            memory=int(free_bytes() * MEMORY_SHARE),
            thought=described["include_thinking"],
            seed=described["seed"],
        )
        stop = False

        def interrupt() -> None:
            nonlocal stop
            stop = True

        with batch_progress() as report, on_interrupt(interrupt) as asked:
            through = run.go(report, lambda: stop)
    _tell(tally, run.model)
    if not through:
        _say(f"stopped with {tally.before + tally.answered} of {lines} answered; the same command goes on from here")
        asked.end()
    if tally.errors:
        raise BatchLinesError(f"{tally.errors} of {lines} lines could not be answered; {errors.path} says why")


def _tell(tally: "Tally", model: str) -> None:
    rate = f"{tally.tokens} tokens, {tally.tokens_per_second:.1f} tokens/s" if tally.tokens else "nothing to do"
    _say(f"{tally.before + tally.answered} of {tally.total} answered; {rate}, {tally.seconds:.0f} s")
    if tally.cut_in_thought:
        _say(f"{tally.cut_in_thought} stopped at --max-tokens before an answer began")
    if tally.repairs:
        kinds = ", ".join(f"{times} times {kind}" for kind, times in tally.repairs.most_common(8))
        _say(f"replies that were not quite in the format were read as meant: {kinds}")
    if tally.other_models:
        names = ", ".join(name[:80] for name, _ in tally.other_models.most_common(3))
        _say(f"{tally.other_models.total()} lines ask for another model ({names}); all were answered by {model}")
    if tally.ignored:
        names = ", ".join(name[:80] for name, _ in tally.ignored.most_common(8))
        _say(f"fields passed over, since they mean nothing here: {names}")


def _identity(runtime: "Runtime") -> str:
    """The folder's name, and a hash that tells its weights."""
    import hashlib
    import json

    tensors = json.dumps(runtime.folder.manifest, sort_keys=True)
    return f"{runtime.folder.path.name} {hashlib.sha256(tensors.encode()).hexdigest()[:16]}"


def _rows(concurrency: str) -> int:
    if concurrency == "auto":
        return AUTO_ROWS
    if not concurrency.isascii() or not concurrency.isdigit() or not 1 <= int(concurrency) <= 1024:
        raise UsageError(f"--concurrency is {concurrency}; use auto, or a number from 1 to 1024")
    return int(concurrency)


def _say(text: str) -> None:
    print(shown(text), file=sys.stderr)
