"""``gptoss-mac batch``: answer a file of prompts into a file of answers."""

import sys
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gptoss_mlx.cli import constraints, options
from gptoss_mlx.cli.awake import AllowSleep, awake
from gptoss_mlx.cli.terminal import on_interrupt
from gptoss_mlx.errors import BatchLinesError, UsageError, quoted, shown

if TYPE_CHECKING:
    from gptoss_mlx.batch.run import BatchOptions, Tally
    from gptoss_mlx.batch.source import Source
    from gptoss_mlx.link.client import AnyRuntime

AUTO_ROWS = 16
"""Rows decoded together with ``--concurrency auto``. Memory may admit fewer."""


def batch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="OpenAI Batch lines, objects with prompt or messages, CSV, or one prompt a line. - is standard input.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Answers file (JSONL). Run the same command again to resume.", show_default="IN.answers.jsonl"
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEMPLATE",
            help="Make the prompts of CSV's columns: 'Translate to {lang}: {text}'.",
            callback=options.as_text,
        ),
    ] = None,
    schema: constraints.BatchSchema = None,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Also write a table beside OUT: the columns of IN, and those of the answers.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="Answer only the first lines.", show_default="all", min=1)] = None,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Ask only the lines that could not be answered, once more.")
    ] = False,
    model: options.Model = None,
    reasoning: options.Reasoning = "medium",
    system: options.System = None,
    temperature: options.Temperature = None,
    max_tokens: Annotated[int, typer.Option(help="Stop a reply after this many tokens.")] = 4096,
    seed: options.Seed = None,
    think_tokens: constraints.ThinkTokens = None,
    no_repeat_guard: constraints.NoRepeatGuard = False,
    include_thinking: Annotated[bool, typer.Option("--include-thinking", help="Write the thoughts too.")] = False,
    concurrency: Annotated[
        str,
        typer.Option(help=f"How many lines to answer at once. auto means as many as fit in memory, up to {AUTO_ROWS}."),
    ] = "auto",
    form: Annotated[
        Literal["auto", "jsonl", "csv", "text"],
        typer.Option("--format", help="Format of IN. Guessed from the file name, then from the content."),
    ] = "auto",
    memory: options.Memory = None,
    context: options.ContextTokens = None,
    trace_experts: options.TraceExperts = None,
    prefix_disk: options.PrefixDisk = options.PREFIX_DISK,
    own_model: options.OwnModel = False,
    distributed: options.Distributed = None,
    distributed_backend: options.DistributedBackend = "ring",
    yes: options.Yes = False,
    allow_sleep: AllowSleep = False,
) -> None:
    """Answer a file of prompts, many at a time.

    Settings in a line override the options. Each answer is appended to OUT when it is finished. If the command is
    stopped or killed, run it again to resume. Lines that cannot be answered go to OUT's .errors.jsonl, and the exit
    code is then 10. With --schema a reply that is cut off is no answer.
    """
    from gptoss_mlx.batch.companions import check_output
    from gptoss_mlx.batch.run import BatchOptions
    from gptoss_mlx.batch.source import open_source
    from gptoss_mlx.batch.template import Template

    out = _out(source) if out is None else out
    if as_csv and out.suffix.lower() == ".csv":
        better = f"with {out.stem}.jsonl the table is {out.name}"
        raise UsageError(f"--out {out}: names the answers, which are JSONL; {better}")
    max_rows = _max_rows(concurrency)
    how = (yes, memory, context, trace_experts, prefix_disk, own_model)
    loading = options.Loading(model, *how, distributed, distributed_backend)
    options.check_values(temperature, max_tokens, loading)
    held = constraints.read_constraint(schema, None, None)
    if held is not None and not isinstance(held, dict):
        raise UsageError("--schema must be an object here; true or false says nothing of an answer")
    chosen = BatchOptions(
        *(reasoning, system, temperature, max_tokens, seed, include_thinking),
        repeat_guard=not no_repeat_guard,
        prompt=prompt,
        schema=held,
        think_tokens=think_tokens,
    )
    template = None if prompt is None else Template.of(prompt)
    with open_source(source, None if form == "auto" else form, template) as opened:
        check_output(out, opened.status)
        for notice in opened.notices:
            _say(notice)
        total = min(opened.survey(), limit or sys.maxsize)
        table = _table(opened, out, chosen) if as_csv else None
        with awake(allow_sleep):
            runtime = options.open_model(loading)
            _answer(opened, total, out, runtime, chosen, max_rows=max_rows, table=table, retry=retry_errors)


def _out(source: str) -> Path:
    if source == "-":
        raise UsageError("the answers to standard input need a file; add --out")
    path = Path(source)
    if not path.name:
        raise UsageError(f"{quoted(source, 80)}: cannot be read (it names no file); give a file of prompts, or -")
    return path.with_suffix(".answers.jsonl")


def _table(source: "Source", out: Path, chosen: "BatchOptions") -> Path:
    """Return the path of the table. Raises UsageError and StorageError where none can be written."""
    from gptoss_mlx.batch.companions import beside
    from gptoss_mlx.batch.table import check_table, fields_of, header_of

    if source.form != "csv":
        raise UsageError(f"--csv: {source.name} is read as {source.form}, which has no columns")
    path = beside(out, "csv")
    check_table(path, header_of(source.columns, fields_of(chosen.schema)))
    return path


def _answer(
    source: "Source",
    total: int,
    out: Path,
    runtime: "AnyRuntime",
    chosen: "BatchOptions",
    *,
    max_rows: int,
    table: Path | None,
    retry: bool,
) -> None:
    from contextlib import closing
    from dataclasses import asdict
    from datetime import date

    from gptoss_mlx.batch.answers import Answers, Errors
    from gptoss_mlx.batch.run import Run, Tally
    from gptoss_mlx.batch.table import fields_of, write_table
    from gptoss_mlx.cli.progress import batch_progress

    about = {
        "input": {"sha256": source.sha256, "format": source.form},
        "model": f"{runtime.folder.path.name} {runtime.hash[:16]}",
    }
    fixed = {"date": date.today().isoformat()}
    with closing(Answers(out, about | asdict(chosen), fixed)) as answers, closing(Errors(out)) as errors:
        only = errors.before if retry else None
        before = len(answers.answered)
        tally = Tally(before + len(only) if only is not None else max(total, before), before)
        if only is not None:
            _say(
                f"asking {len(only)} lines again that could not be answered" if only else "no line is to be asked again"
            )
        elif tally.before:
            _say(f"{tally.before} of {tally.total} were answered before; resuming")
        run = Run(
            *(runtime, source, answers, errors, chosen, tally),
            max_rows=max_rows,
            memory=runtime.row_memory,
            most=total,
            only=only,
        )
        if chosen.schema is not None or chosen.think_tokens is not None:
            constraints.wait_for_constraints(runtime)
        stop = Event()
        with batch_progress() as report, on_interrupt(stop.set) as asked:
            finished = run.go(report, stop.is_set)
            options.close_prefixes(runtime)
        if table is not None:
            answers.reread()
            write_table(table, source, answers, errors, fields_of(chosen.schema), total)
            _say(f"table: {table}")
    _tell(tally, run.model)
    if not finished:
        _say(f"stopped with {tally.before + tally.answered} of {total} answered; run the same command again to resume")
        asked.end()
    if tally.errors:
        raise BatchLinesError(f"{tally.errors} of {total} lines could not be answered; see {errors.path}")


def _tell(tally: "Tally", model: str) -> None:
    rate = f"{tally.tokens} tokens, {tally.tokens_per_second:.1f} tokens/s" if tally.tokens else "nothing to do"
    _say(f"{tally.before + tally.answered} of {tally.total} answered; {rate}, {tally.seconds:.0f} s")
    if tally.cut_in_thought:
        _say(f"{tally.cut_in_thought} of them reached --max-tokens before an answer began")
    if tally.repairs:
        kinds = ", ".join(f"{kind} ({times} times)" for kind, times in tally.repairs.most_common(8))
        _say(f"repaired in replies that broke the format: {kinds}")
    if tally.other_models:
        names = ", ".join(name[:80] for name, _ in tally.other_models.most_common(3))
        _say(f"{tally.other_models.total()} lines name another model ({names}), but {model} answered them")
    if tally.not_enforced:
        kinds = "; ".join(f"{what} ({times} times)" for what, times in tally.not_enforced.most_common(8))
        _say(f"not enforced: {kinds}")
    if tally.ignored:
        names = ", ".join(name[:80] for name, _ in tally.ignored.most_common(8))
        _say(f"ignored unknown fields: {names}")


def _max_rows(concurrency: str) -> int:
    if concurrency == "auto":
        return AUTO_ROWS
    if not concurrency.isascii() or not concurrency.isdigit() or not 1 <= int(concurrency) <= 1024:
        raise UsageError(f"--concurrency is {concurrency}; use auto or a number from 1 to 1024")
    return int(concurrency)


def _say(text: str) -> None:
    print(shown(text), file=sys.stderr)
