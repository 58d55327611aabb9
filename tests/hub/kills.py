"""Fetch in processes that are killed, from outside or at a chosen system call.

``Downloads`` is the test's side. A module as a program is the other side: it imports once and forks a process for each
download, because imports would take most of the time, and a process with threads must not fork.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from gptoss_mlx.hub import Settings, fetch, list_files

ROOT = Path(__file__).parent.parent.parent
REPO = "openai/gpt-oss-20b"
CALLS = ("pwrite", "ftruncate", "rename", "unlink")
"""What changes the disk. A download that is killed between two of them leaves the same as one killed at the second."""


class Downloads:
    """Starts downloads from a Hub at ``address`` into ``target``, as ``module`` does it. Use it as a context."""

    def __init__(self, address, target, piece, module="tests.hub.kills"):
        command = [sys.executable, "-m", module, address, str(target), str(piece)]
        # No token and no proxy of this machine.
        environment = {"PATH": os.environ["PATH"], "HF_HOME": str(target.parent / "none")}
        self._forker = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._forker.stdin.close()
        self._forker.wait()

    def start(self, call=None, half=False):
        """Start a download, and return its process id. It kills itself at the call of that number, the first being 1;
        ``half``: after half of what the call should write."""
        self._forker.stdin.write(json.dumps({"call": call, "half": half}) + "\n")
        self._forker.stdin.flush()
        return int(self._forker.stdout.readline())

    def ended(self):
        """Wait for it. Return its exit code, negative for a signal."""
        return int(self._forker.stdout.readline())


def serve(run):
    """Fork a process for each line of standard input, in which ``run`` is called with the program's arguments."""
    address, target, piece = sys.argv[1:]
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            try:
                run(address, Path(target), int(piece), **json.loads(line))
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def run(address, target, piece, call, half):
    plan = list_files(REPO, endpoint=address)
    file = next(file for file in plan.files if file.name == target.name)
    if call is not None:
        die_at(call, half)
    fetch(plan, file, target, settings=Settings(piece=piece, first_pause=0.01))


def die_at(number, half, calls=CALLS):
    """Kill this process at the call of that number to one of the functions of ``os`` that ``calls`` names."""
    made = 0

    def dying(name, real):
        def call(*args, **kwargs):
            nonlocal made
            made += 1
            if made == number:
                if half and name in ("pwrite", "write"):
                    descriptor, data, *offset = args
                    real(descriptor, data[: len(data) // 2], *offset)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in calls:
        setattr(os, name, dying(name, getattr(os, name)))


if __name__ == "__main__":
    serve(run)
