"""Join the commands, which have a module each, and turn errors into one line and an exit code.

Slow imports wait until a command runs, so that ``--help`` is quick.
"""

import errno
import io
import os
import signal
import sys
from typing import Annotated

import typer

import gptoss_mlx
from gptoss_mlx.cli import batch, bench, chat, completion, convert, doctor, inspect, launch, logs, models, run, serve
from gptoss_mlx.cli.signals import code, hang_up
from gptoss_mlx.errors import EngineError, GptOssError, StorageError, shown

app = typer.Typer(
    name="gptoss-mac",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help is quick, and README can show it
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(chat.chat)
app.command()(run.run)
app.command()(batch.batch)
app.command()(serve.serve)
app.command()(launch.launch)
app.command()(convert.convert)
app.command()(doctor.doctor)
app.command()(bench.bench)
app.add_typer(inspect.app, name="inspect")
app.add_typer(models.app, name="models")
app.add_typer(logs.app, name="logs")
app.command()(completion.completion)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"gptoss-mac {gptoss_mlx.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Run OpenAI's gpt-oss models on a Mac."""


def execute() -> None:
    """Run the command in ``sys.argv``. Exit with a code of ``gptoss_mlx.errors``."""
    _replace_closed_streams()
    _write_any_text()
    if completion.VARIABLE in os.environ:
        completion.answer_shells()
    try:
        app(prog_name=completion.PROGRAM)
    except GptOssError as error:
        print(f"gptoss-mac: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except ImportError as error:
        if "cannot open shared object file" not in str(error):
            raise
        # MLX's CUDA backend on a machine without NVIDIA's driver
        print(f"gptoss-mac: MLX cannot be loaded here: {shown(str(error))}; use another environment", file=sys.stderr)
        sys.exit(EngineError.exit_code)
    except OSError as error:
        if error.errno == errno.EIO and error.filename is None:
            hang_up()  # the terminal was closed, and SIGHUP has not arrived yet
            sys.exit(code(signal.SIGHUP))
        # For example a folder without permission, or a full disk behind standard output.
        where = shown(str(error.filename or "input or output"))
        print(f"gptoss-mac: {where}: {error.strerror}; check permissions and free space", file=sys.stderr)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (flushing the old one at exit would fail again)
        sys.exit(StorageError.exit_code)


def _replace_closed_streams() -> None:
    """Replace streams that the shell closed (``>&-``), which are None in Python, by the null device."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _write_any_text() -> None:
    """Write characters that the locale's encoding lacks, such as emoji in ASCII, as escapes instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
