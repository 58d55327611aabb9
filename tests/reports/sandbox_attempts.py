"""What code in the sandbox tries against this machine, and how each attempt is judged."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gptoss_mlx.tools.tool import Outcome


@dataclass(frozen=True)
class Attempt:
    """``code`` prints ESCAPED where it believes to have got out, and does not contain the word itself, because errors
    quote the code. ``harmed`` looks for traces of it on this machine.

    ``must`` stands in what the model is told of an attempt that a limit has to stop.
    """

    name: str
    code: str
    harmed: Callable[[], bool] = lambda: False
    must: str = ""

    def succeeded(self, outcome: Outcome) -> bool:
        """Return whether the attempt got out, or no limit stopped it."""
        return "ESCAPED" in outcome.text or self.harmed() or self.must not in outcome.text


def _read(path: str) -> str:
    return f"print('ESC' 'APED' if open({path!r}, 'rb').read(1) else '')"


def _write(path: Path) -> str:
    return f"open({str(path)!r}, 'w').write('x')"


def attempts(outside: Path, port: int, pid: int, connected: Callable[[], bool]) -> list[Attempt]:
    """Return the attempts against a folder with a file ``secret``, a listener on a port, which says whether something
    ``connected``, and the process ``pid``."""
    secret = outside / "secret"
    written = outside / "written"

    def is_written() -> bool:
        return written.exists() or secret.read_text() != "secret"

    reach = f"import socket; s = socket.create_connection(('127.0.0.1', {port}), 2); s.send(b'x'); print('ESC' 'APED')"
    tries_descriptors = """
import os
for n in range(3, 200):
    try:
        os.write(n, b'x')
        print('ESC' 'APED', n)
    except OSError:
        pass
"""
    long_file = """
f = open('/mnt/data/f', 'wb')
for _ in range(10 << 10):
    f.write(bytes(1 << 20))
f.close()
print('ESC' 'APED')
"""
    many_files = """
for n in range(10 << 10):
    open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))
print('ESC' 'APED')
"""
    stubborn = """
while True:
    try:
        while True: pass
    except BaseException:
        pass
"""
    found = "{'etc', 'home', 'proc', 'root'} & set(os.listdir('/'))"
    http = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}/'); print('ESC' 'APED')"
    raw = f"import _socket; s = _socket.socket(); s.connect(('127.0.0.1', {port})); print('ESC' 'APED')"
    touch = f"import subprocess; subprocess.run(['touch', {str(written)!r}]); print('ESC' 'APED')"
    return [
        Attempt("read a file by its path", _read(str(secret))),
        Attempt("read /etc/passwd", _read("/etc/passwd")),
        Attempt("read through ..", _read(f"/mnt/data/../../..{secret}")),
        Attempt("read through /proc", _read("/proc/self/environ")),
        Attempt("read a relative path far up", _read("../" * 30 + str(secret).lstrip("/"))),
        Attempt("read a device", _read("/dev/mem")),
        Attempt("list the root", f"import os; print('ESC' 'APED' if {found} else '')"),
        Attempt("write outside", _write(written), is_written),
        Attempt("write through ..", _write(Path(f"/tmp/../../..{written}")), is_written),
        Attempt("append to a file outside", f"open({str(secret)!r}, 'a').write('x')", is_written),
        Attempt("remove a file outside", f"import os; os.remove({str(secret)!r})", lambda: not secret.exists()),
        Attempt("move a file outside", f"import os; os.rename({str(secret)!r}, '/tmp/s')", lambda: not secret.exists()),
        Attempt("symlink to a file outside", f"import os; os.symlink({str(secret)!r}, '/tmp/l')\n" + _read("/tmp/l")),
        Attempt("symlink to the root", "import os; os.symlink('/', '/tmp/r')\n" + _read(f"/tmp/r{secret}")),
        Attempt("hard link to a file outside", f"import os; os.link({str(secret)!r}, '/tmp/h')\n" + _read("/tmp/h")),
        Attempt("a socket to this machine", reach, connected),
        Attempt("HTTP to this machine", http, connected),
        Attempt("a socket below the library", raw, connected),
        Attempt("look a name up", "import socket; print('ESC' 'APED', socket.gethostbyname('localhost'))"),
        Attempt("descriptors that are open here", tries_descriptors, is_written),
        Attempt("subprocess", touch, is_written),
        Attempt(
            "os.system", f"import os; print('ESC' 'APED' if os.system('touch {written}') == 0 else '')", is_written
        ),
        Attempt("fork", "import os; print('ESC' 'APED', os.fork())"),
        Attempt("exec", "import os; os.execv('/bin/sh', ['sh', '-c', 'echo ESC\"\"APED'])"),
        Attempt("a signal to the process here", f"import os; os.kill({pid}, 9); print('ESC' 'APED')"),
        Attempt("a signal to itself", "import signal; signal.raise_signal(signal.SIGKILL)"),
        Attempt("the environment", "import os; print('ESC' 'APED' if 'SANDBOX_SECRET' in os.environ else '')"),
        Attempt("native code", "import ctypes; print('ESC' 'APED', ctypes.CDLL(None).getpid())"),
        Attempt("the host's functions", "from host import tools; print('ESC' 'APED', dir(tools))"),
        Attempt(
            "memory of 10 GB", "x = [bytes(1 << 20) for _ in range(10 << 10)]; print('ESC' 'APED')", must="MemoryError"
        ),
        Attempt("a file of 10 GB", long_file, must="Error"),
        Attempt("files of 10 GB together", many_files, must="Error"),
        Attempt("files without end", "for n in range(10 ** 9): open(f'/mnt/data/{n}', 'w').close()", must="OSError"),
        Attempt("an endless loop", "while True: pass", must="did not end within"),
        Attempt("an endless loop that catches all", stubborn, must="did not end within"),
        Attempt("a long wait", "import time; time.sleep(100000)", must="did not end within"),
        Attempt("output without end", "while True: print('x' * 1000)", must="cut off after"),
        Attempt(
            "recursion without end",
            "import sys; sys.setrecursionlimit(10 ** 9)\ndef f(): f()\nf()",
            must="stack overflow",
        ),
        Attempt("an abort", "import os; os.abort()", must="lost"),
    ]
