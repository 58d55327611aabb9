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

LIMIT = 7.0
"""Seconds without a beat: a little more than ``wire.SILENT_SECONDS``, so that the ranks can say why first."""

CONNECT = 5.0
"""Seconds that a rank has to connect to rank 0, before it imports anything slow."""

GRACE = 1.0
"""Seconds that a rank has to end by itself once rank 0 has ended."""

POLL = 0.1


def main() -> int:
    """Return the rank's exit code, or 1 if it was killed."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the end of the input says when to end
    job = _first_line()
    if job is None:
        return 1
    if "pid" in job:
        return _watch(job["pid"])
    rank = subprocess.Popen(
        [sys.executable, "-m", "gptoss_mlx.distributed.follower"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert rank.stdin is not None
    assert rank.stdout is not None
    try:
        rank.stdin.write(json.dumps(job).encode() + b"\n")
        rank.stdin.flush()
        heard = begun = time.monotonic()
        connected = False
        while rank.poll() is None:
            beats = _beats()
            now = time.monotonic()
            if beats == b"":
                rank.wait(GRACE)
                break
            if beats:
                heard = now
            connected = connected or bool(select.select([rank.stdout], [], [], 0)[0])
            if now - heard > LIMIT or (now - begun > CONNECT and not connected):
                break
    except (OSError, subprocess.TimeoutExpired):
        pass
    if rank.poll() is None:
        rank.kill()
        rank.wait()
        return 1
    return rank.returncode if rank.returncode >= 0 else 1


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


def _beats(seconds: float = POLL) -> bytes | None:
    """Return what has come, nothing at the end of the input, or None if nothing came in so many seconds."""
    return os.read(0, 4096) if select.select([0], [], [], seconds)[0] else None


if __name__ == "__main__":
    sys.exit(main())
