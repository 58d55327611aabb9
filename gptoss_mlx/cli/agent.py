"""The launchd agent that runs the server while a user of a Mac is logged in: its file, and what launchctl is asked.

Knows none of the server's options. launchd's own words are in its manual, launchd.plist(5).
"""

import os
import plistlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptoss_mlx.errors import StorageError, UsageError, one_line
from gptoss_mlx.files import replaced_whole
from gptoss_mlx.home import home_dir, server_log_file

LABEL = "gptoss-mac.serve"
"""What launchd calls the agent."""

AGAIN_SECONDS = 60
"""How long launchd waits before it starts a server again that has failed, such as one whose model was removed."""

END_SECONDS = 30.0
"""How long an agent may take to end: launchd kills it after 20 seconds."""


def agent_file() -> Path:
    """Return where launchd looks for a user's agents at each login."""
    return Path.home() / "Library" / "LaunchAgents" / f"{LABEL}.plist"


def description(arguments: Sequence[str]) -> dict[str, Any]:
    """Return what launchd is told: to run ``gptoss-mac`` with ``arguments`` now and at each login, and again if it
    fails. Its home is that of this process, because launchd has none of a shell's variables."""
    log = str(server_log_file())
    return {
        "Label": LABEL,
        "ProgramArguments": [*_program(), *arguments],
        "EnvironmentVariables": {"GPTOSS_MAC_HOME": os.path.abspath(home_dir())},
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": AGAIN_SECONDS,
        "ProcessType": "Interactive",  # any other is slowed down in favour of programs with windows
        "StandardOutPath": log,
        "StandardErrorPath": log,
        "Umask": 0o077,
    }


def check_platform() -> None:
    """Raise UsageError where there is no launchd."""
    if sys.platform != "darwin":
        raise UsageError(
            "--install and --uninstall are for macOS, whose launchd runs the agent; elsewhere have your own service "
            "manager run `gptoss-mac serve`"
        )


def stop() -> bool:
    """Have launchd end the agent and forget it until the next login. Return whether it had one. Waits for its end."""
    if _launchctl("print", _agent()).returncode:
        return False
    done = _launchctl("bootout", _agent())
    end = time.monotonic() + END_SECONDS
    while not _launchctl("print", _agent()).returncode:
        if time.monotonic() > end:
            raise UsageError(f"the agent {LABEL} does not end: {_said(done)}; run: launchctl bootout {_agent()}")
        time.sleep(0.1)
    return True


def start(described: dict[str, Any]) -> None:
    """Write the agent's file and have launchd run it. Nothing of the name may run. Leaves no file if launchd refuses.
    Raises UsageError and StorageError."""
    file = agent_file()
    try:
        for folder in (file.parent, server_log_file().parent):
            folder.mkdir(parents=True, exist_ok=True)
        with replaced_whole(file) as partial:
            partial.write_bytes(plistlib.dumps(described))
    except OSError as error:
        raise StorageError(
            f"{error.filename or file}: cannot be written ({error.strerror}); make it writable"
        ) from error
    _launchctl("enable", _agent())  # it may have been disabled once, which launchd remembers
    done = _launchctl("bootstrap", _domain(), str(file))
    if done.returncode:
        file.unlink()
        raise UsageError(
            f"launchd does not take the agent: {_said(done)}; run this in a terminal of the logged-in user"
        )


def remove() -> bool:
    """End the agent and remove its file. Return whether there was any of it. Its log stays."""
    ran = stop()
    try:
        agent_file().unlink()
    except FileNotFoundError:
        return ran
    except OSError as error:
        raise StorageError(f"{agent_file()}: cannot be removed ({error.strerror}); make it writable") from error
    return True


def _program() -> list[str]:
    """Return what starts this program again: the command that was typed, whose path outlives an upgrade, unless a
    module was run."""
    command = Path(os.path.abspath(sys.argv[0]))
    if command.name == "gptoss-mac" and os.access(command, os.X_OK):
        return [str(command)]
    return [sys.executable, "-m", "gptoss_mlx.cli"]


def _domain() -> str:
    return f"gui/{os.getuid()}"


def _agent() -> str:
    return f"{_domain()}/{LABEL}"


def _launchctl(*arguments: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            ["launchctl", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise UsageError(f"launchctl cannot be run ({error.strerror}); put /bin on PATH") from error


def _said(done: "subprocess.CompletedProcess[str]") -> str:
    return one_line(RuntimeError(done.stderr or done.stdout or f"exit code {done.returncode}"))
