"""End a process that cannot end itself, because it is stopped or waits in a collective. A program of its own.

``python -m gptoss_mlx.distributed.guard`` reads a line of JSON, then beats, one byte every second, from rank 0. It
starts the rank that the line describes, or watches rank 0 itself where it names a ``pid``. When the beats stop, rank 0
does not run; when the input ends, rank 0 has ended. Either way no rank has anything left to do. A remote rank's guard
runs beside it, at the other end of ssh.

Imports the standard library only, as there is one for each rank.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

LIMIT = 8.0
"""Seconds without a beat: a little more than ``wire.SILENT_SECONDS``, so that the ranks can say why first."""

STOPPED = 6.0
"""Seconds that a rank may be stopped, by a signal. Before it has connected to rank 0 nobody else notices."""

GRACE = 1.0
"""Seconds that a rank has to end by itself once rank 0 has ended."""

POLL = 0.1
NEVER = float("inf")


def main() -> int:
    """Return the rank's exit code, or 1 if it was killed."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the end of the input says when to end
    job = _first_line()
    if job is None:
        return 1
    if "pid" in job:
        return _watch(job["pid"])
    rank = subprocess.Popen([sys.executable, "-m", "gptoss_mlx.distributed.follower"], stdin=subprocess.PIPE)
    assert rank.stdin is not None
    with suppress(OSError):  # of a rank that has ended
        rank.stdin.write(json.dumps(job).encode() + b"\n")
        rank.stdin.flush()
    if sys.platform == "darwin":  # an idle Mac falls asleep, and is missed
        nowhere = subprocess.DEVNULL
        with suppress(OSError):
            subprocess.Popen(["caffeinate", "-i", "-w", str(rank.pid)], stdin=nowhere, stdout=nowhere, stderr=nowhere)
    heard = time.monotonic()
    until = stopped = NEVER
    while time.monotonic() < min(until, heard + LIMIT, stopped + STOPPED):
        changed, status = os.waitpid(rank.pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        if changed and (os.WIFEXITED(status) or os.WIFSIGNALED(status)):
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1
        if changed:
            stopped = time.monotonic() if os.WIFSTOPPED(status) else NEVER
        if until != NEVER:
            time.sleep(POLL)
        elif beats := _beats(POLL):
            heard = time.monotonic()
        elif beats == b"":
            until = time.monotonic() + GRACE
    if stopped != NEVER:
        print("it was stopped", file=sys.stderr)
    rank.kill()
    return 1


def _watch(pid: int) -> int:
    """Kill the parent, which is rank 0, when its beats stop."""
    while beats := _beats(LIMIT):
        pass
    if beats is None and os.getppid() == pid:
        why = "it is stopped, or waits for a rank that is gone"
        print(f"gptoss-mac: rank 0 has said nothing for {LIMIT:.0f} s: {why}; all ranks are ended", file=sys.stderr)
        os.kill(pid, signal.SIGKILL)
        return 1
    return 0


def _first_line() -> "dict[str, int] | None":
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(0, 1)
        if not data:
            return None
        line += data
    found: dict[str, int] = json.loads(line)
    return found


def _beats(seconds: float) -> bytes | None:
    """Return what has come, nothing at the end of the input, or None if nothing came in so many seconds."""
    return os.read(0, 4096) if select.select([0], [], [], seconds)[0] else None


if __name__ == "__main__":
    sys.exit(main())
