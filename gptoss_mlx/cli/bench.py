"""``gptoss-mac bench``: measure a model on this machine, by itself or beside another program, or predict its speed."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from gptoss_mlx.cli import options
from gptoss_mlx.cli.awake import awake
from gptoss_mlx.cli.terminal import table_console
from gptoss_mlx.errors import UsageError, shown

if TYPE_CHECKING:
    from gptoss_mlx.bench.measuring import Effort, LeftOut, Measured
    from gptoss_mlx.bench.programs import Program
    from gptoss_mlx.bench.report import Report
    from gptoss_mlx.bench.suite import Wanted
    from gptoss_mlx.model_folder import ModelFolder


Values = TypeVar("Values")


@dataclass(frozen=True)
class Other:
    """The other program, what it loads, and the Python that runs it."""

    name: str
    model: Path | None
    python: Path | None


def bench(
    model: options.Model = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure pp512, tg128 and tg128 B4 only, in few turns and without rests.")
    ] = False,
    prompt: Annotated[
        list[int] | None,
        typer.Option(help="Tokens of a prompt to read. Repeatable.", min=1, show_default="128, 512, 2048, 8192"),
    ] = None,
    depth: Annotated[
        list[int] | None,
        typer.Option(help="Tokens already read when writing begins. Repeatable.", min=0, show_default="0, 2048, 8192"),
    ] = None,
    rows: Annotated[
        list[int] | None,
        typer.Option(help="Sequences written at once. Repeatable.", min=1, show_default="1, 4, 16"),
    ] = None,
    generate: Annotated[int, typer.Option(help="Tokens to write of each sequence.", min=1)] = 128,
    turns: Annotated[int | None, typer.Option(help="Turns of each test.", min=1, show_default="5")] = None,
    cool_down: Annotated[
        float | None,
        typer.Option(
            help="Most seconds of rest after a test; it rests as long as it worked.", min=0, show_default="30"
        ),
    ] = None,
    against: Annotated[
        Literal["mlx-lm", "llama.cpp"] | None, typer.Option(help="Measure this program too, in turns with this one.")
    ] = None,
    peer_model: Annotated[
        Path | None,
        typer.Option(
            help="What the other program loads: a checkpoint's folder, or a GGUF file.",
            show_default="for mlx-lm the model, exported for the time",
        ),
    ] = None,
    peer_python: Annotated[
        Path | None,
        typer.Option(help="A Python that has llama_cpp, for llama.cpp.", show_default="llama-bench on the PATH"),
    ] = None,
    memory: options.Memory = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw speed and memory against depth into this folder.")] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write a record that can be offered to the project, and say how.")
    ] = False,
    predict: Annotated[
        bool, typer.Option("--predict", help="Measure nothing: print predictions for each Mac beside published speeds.")
    ] = False,
    yes: options.Yes = False,
) -> None:
    """Measure how fast a model reads and writes on this machine.

    Tests are named as llama-bench names them: pp512 reads 512 tokens, tg128@d2048 writes 128 behind 2,048, B4 means
    four sequences at once. Each runs in a process of its own. Ctrl-C prints what was measured until then.
    """
    if predict:
        if quick or record or against or json_file or plot:
            raise UsageError("--predict measures nothing; leave out --quick, --record, --against, --json and --plot")
        from gptoss_mlx.cli.predictions import print_predictions

        print_predictions()
        return
    if quick and record:
        raise UsageError("--quick takes too few turns for --record; leave one of them out")
    if plot is not None:
        from gptoss_mlx.figures import check_matplotlib

        check_matplotlib()
    if json_file is not None and not json_file.parent.is_dir():
        raise UsageError(f"--json {json_file}: its folder does not exist; make it first")
    from gptoss_mlx.files import check_place

    places = (json_file, None if plot is None else plot / "decode.png", Path("record.json") if record else None)
    for place in places:
        if place is not None:
            check_place(place)
    other = None if against is None else Other(against, peer_model, peer_python)
    _check(other, peer_model, peer_python)
    from gptoss_mlx.bench.measuring import QUICK, Effort
    from gptoss_mlx.bench.suite import QUICKLY, Wanted

    usual, effort = (QUICKLY, QUICK) if quick else (Wanted(), Effort())
    effort = _replaced(effort if turns is None else effort.of(turns), {"cool_down": cool_down})
    if record and effort.turns < (usual_turns := Effort().turns):
        raise UsageError(f"--turns {effort.turns} is too few for --record; give {usual_turns} or more, or leave it out")
    wanted = _replaced(usual, {"prompts": prompt, "depths": depth, "rows": rows, "count": generate})
    report = _measure(options.obtained(model, yes), wanted, effort, other, memory, json_file, plot)
    if record:
        _record(report)


def _check(other: "Other | None", peer_model: Path | None, peer_python: Path | None) -> None:
    """Raise UsageError for options of another program that do not go together."""
    if other is None and (peer_model or peer_python):
        raise UsageError("--peer-model and --peer-python go with --against")
    if other is not None and other.name == "llama.cpp" and peer_model is None:
        raise UsageError("llama.cpp loads a GGUF file of its own; name it: --peer-model FILE.gguf")
    if other is not None and other.name == "mlx-lm" and peer_python is not None:
        raise UsageError("--peer-python is for llama.cpp; mlx-lm runs in this program's environment")


def _replaced(values: Values, changed: dict[str, Any]) -> Values:
    from dataclasses import replace

    return replace(values, **{name: value for name, value in changed.items() if value is not None})  # type: ignore[type-var]


def _measure(
    model: str,
    wanted: "Wanted",
    effort: "Effort",
    other: "Other | None",
    memory: str | None,
    json_file: Path | None,
    plot: Path | None,
) -> "Report":
    """Measure, and give out what was found, also if an error or Ctrl-C ends it. Return the whole report."""
    from gptoss_mlx import bundled
    from gptoss_mlx.bench.measuring import measurements
    from gptoss_mlx.bench.suite import never_together, own_program, report_of, suite
    from gptoss_mlx.home import BUNDLED
    from gptoss_mlx.installed import find_model
    from gptoss_mlx.limits import memory_limit
    from gptoss_mlx.machine import thermal_pressure_now
    from gptoss_mlx.model_folder import ModelFolder

    if model == BUNDLED:
        bundled.install_tiny()
    folder = ModelFolder.open(find_model(model))
    limit = memory_limit(memory)
    chosen = suite(folder, wanted, limit)
    with awake(allow_sleep=False), _peer(folder, other) as beside:
        both = [own_program(folder, limit), *beside]
        programs = [program for program, _ in both]
        report = report_of(folder, chosen.plan, {program.name: how for program, how in both}, effort)
        for left in chosen.left_out:
            report.add(left)
        apart = never_together(programs)
        if apart:
            _say("the memory does not hold both programs' weights: each is started anew for its turns")
        try:
            with _progress(len(chosen.works) + 2) as advance:
                for result in measurements(
                    programs, chosen.works, effort, vocabulary=folder.config.vocab_size, apart=apart
                ):
                    report.add(result)
                    advance(result)
            report.complete = True
        finally:
            report.thermal_pressure_after = thermal_pressure_now()
            if report.found:
                _give_out(report, folder, json_file, plot)
    return report


@contextmanager
def _peer(folder: "ModelFolder", other: "Other | None") -> Iterator[list[tuple["Program", str]]]:
    """Yield the other program and how it is run, or nothing. Where mlx-lm has no checkpoint to load, the model is
    exported to a temporary folder."""
    from gptoss_mlx.bench.suite import beside_llama_cpp, beside_mlx_lm

    if other is None:
        yield []
    elif other.name == "llama.cpp" and other.model is not None:
        yield [beside_llama_cpp(other.model, None if other.python is None else str(other.python))]
    elif other.model is not None:
        yield [beside_mlx_lm(other.model)]
    else:
        import tempfile

        import convert.export
        from gptoss_mlx.cli.progress import byte_progress

        with tempfile.TemporaryDirectory() as temporary:
            checkpoint = Path(temporary) / folder.path.resolve().name
            with byte_progress("Exporting") as progress:
                convert.export.export(folder, checkpoint, progress)
            yield [beside_mlx_lm(checkpoint)]


@contextmanager
def _progress(total: int) -> Iterator["Callable[[Measured | LeftOut], None]"]:
    """Yield a function that shows a result as it comes: a bar at a terminal, else a line each."""
    from rich.console import Console

    from gptoss_mlx.bench.measuring import LeftOut

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda result: _say(f"{result.label}: {'left out' if isinstance(result, LeftOut) else 'measured'}")
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("Measuring"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        done: set[str] = set()

        def advance(result: "Measured | LeftOut") -> None:
            done.add(result.label)
            bar.update(task, completed=len(done), description=result.label)

        yield advance


def _give_out(report: "Report", folder: "ModelFolder", json_file: Path | None, plot: Path | None) -> None:
    """Print the tables, and write the files that are asked for."""

    from gptoss_mlx.bench.report import heading, notes, rates_table, starts_table

    console = table_console()
    console.print(heading(report), markup=False, soft_wrap=True)
    if any(measured.tokens for measured in report.found):
        console.print(rates_table(report))
    console.print(starts_table(report))
    for line in notes(report):
        console.print(line, markup=False, soft_wrap=True)
    if not report.complete:
        console.print("Stopped: the tables hold what was measured until then.")
    if json_file is not None:
        _write(json_file, report)
    if plot is not None:
        from gptoss_mlx.bench.plots import draw

        for path in draw(report, folder.config, folder.dense, plot):
            _say(f"drawn: {path}")


def record_path(chip: str, model: str, day: str) -> Path:
    """Return the name of a record that is not taken in this folder."""
    import os
    import re
    from itertools import chain, count

    words = (chip.removeprefix("Apple "), model, day)
    stem = "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", word).strip("-") for word in words).lower()
    names = (Path(f"{stem}{ending}.json") for ending in chain([""], (f"-{number}" for number in count(2))))
    return next(name for name in names if not os.path.lexists(name))


def _record(report: "Report") -> None:
    path = record_path(report.machine.get("chip") or "unknown", report.model["name"], report.made[:10])
    _write(path, report)
    print(
        f"{path} is a record of this machine: chip, system, versions, model and figures, and no names or paths.\n"
        "To offer it, add the file to the folder benchmarks/ of the project's sources, and propose that change where "
        "you got them. benchmarks/README.md says what is in it and how it is checked."
    )


def _write(path: Path, report: "Report") -> None:
    import json

    from gptoss_mlx.files import replaced_whole, storage_errors

    with storage_errors(path), replaced_whole(path) as partial:
        partial.write_text(json.dumps(report.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _say(f"written: {path}")


def _say(text: str) -> None:
    print(shown(text), file=sys.stderr)
