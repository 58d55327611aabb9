"""Run the command line in this process, as a shell would."""

import contextlib
import io
import signal
import sys
from unittest.mock import patch

from gptoss_mlx.cli import main
from gptoss_mlx.cli.signals import ENDING


def run_cli(*args: object, stdin: str = "") -> tuple[int, str, str]:
    """Exit code, stdout and stderr, both piped. A chat reads no ``stdin`` here."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv = ["gptoss-mac", *map(str, args)]
    handlers = {number: signal.getsignal(number) for number in ENDING}  # `main` leaves its own for the process's end
    piped = io.TextIOWrapper(io.BytesIO(stdin.encode()))
    with patch.multiple(sys, argv=argv, stdin=piped), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return code, out.getvalue(), err.getvalue()
