"""Run the command line in this process, as a shell would."""

import contextlib
import io
import sys
from unittest.mock import patch

from gptoss_mlx.cli import main


def run_cli(*args: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, both piped."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv = ["gptoss-mac", *map(str, args)]
    with patch.object(sys, "argv", argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    return code, out.getvalue(), err.getvalue()
