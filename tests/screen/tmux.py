"""A program in tmux, a terminal that people use: keys go in, and the screen comes out, also as a picture."""

import re
import shutil
import subprocess
import time

INSTALLED = shutil.which("tmux") is not None


class Tmux:
    """One window of so many columns and lines that runs a shell command without single quotes. Close it at the end."""

    def __init__(self, name, columns, lines, command, environment):
        self.name = name
        given = " ".join(f"{key}='{value}'" for key, value in environment.items())
        self._run(
            "new-session",
            "-d",
            "-x",
            str(columns),
            "-y",
            str(lines),
            f"exec env {given} sh -c 'trap : INT; {command}; sleep 600'",
        )

    def _run(self, *arguments, stdin=None):
        command = ["tmux", "-L", self.name, "-f", "/dev/null", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def keys(self, *keys):
        """Press keys by tmux's names for them. Other text is typed."""
        self._run("send-keys", *keys)

    def type(self, text):
        self._run("send-keys", "-l", "--", text)

    def paste(self, text):
        self._run("load-buffer", "-", stdin=text)
        self._run("paste-buffer", "-p")

    def resize(self, columns, lines):
        self._run("resize-window", "-x", str(columns), "-y", str(lines))

    def lines(self):
        """All that was on the screen and still can be scrolled to, each of the program's lines as one."""
        return [line.rstrip() for line in self._run("capture-pane", "-p", "-J", "-S", "-").split("\n")]

    def rows(self, *, colours=False):
        """The rows of the screen as they are."""
        return self._run("capture-pane", "-p", *(["-e"] if colours else [])).split("\n")[:-1]

    def wait_for(self, pattern, seconds=60):
        end = time.monotonic() + seconds
        while not re.search(pattern, text := "\n".join(self.lines())):
            assert time.monotonic() < end, f"no {pattern!r} in\n{text}"
            time.sleep(0.05)
        return text

    def close(self):
        subprocess.run(["tmux", "-L", self.name, "kill-server"], capture_output=True)
