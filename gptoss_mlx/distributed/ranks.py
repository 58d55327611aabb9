"""The other ranks as rank 0 has them: it starts them, hears whether they live, tells them what to do, and ends them.

Once the ranks work together the loss of one is the end of all, because a process that waits in a collective cannot be
woken: threads here notice it, say which rank it was, and end this process with a code of ``errors``. Before that an
error is raised. What a rank does is in ``following``; this knows no model.
"""

import atexit
import json
import os
import queue
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

from gptoss_mlx.distributed.hosts import Host
from gptoss_mlx.distributed.wire import BEAT, BEAT_SECONDS, SILENT_SECONDS, Wire
from gptoss_mlx.errors import RankError, shown

START_SECONDS = 60.0
"""How long ranks may take to connect: ssh, Python's start, and the check of a model's small files."""

STALLED = f"has not answered for {SILENT_SECONDS:.0f} s: it is stopped, or the network is down"

GUARD = ("-m", "gptoss_mlx.distributed.guard")
SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
SHOW_CURSOR = "\x1b[?25h"
KEPT_TO_ITSELF = ("GPTOSS_MAC_API_KEY", "HF_TOKEN")
"""Variables that no other rank gets. Those of MLX are rank 0's own, too."""


@dataclass(eq=False)
class _Guard:
    """The process that ends a rank, here or at the other end of an ssh. ``said`` is what it and its rank wrote to
    standard error."""

    process: "subprocess.Popen[bytes]"
    said: IO[bytes]
    remote: bool

    def beat(self) -> None:
        with suppress(OSError):
            assert self.process.stdin is not None
            os.write(self.process.stdin.fileno(), b".")

    def release(self) -> None:
        """Let it end its rank."""
        with suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        if self.remote:
            self.process.terminate()  # an ssh that has not got through reads no input; a guard sees its end either way

    def last_words(self) -> str:
        """Return the last line that was written to standard error, which most often says what was wrong."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5)
        self.said.seek(0)
        lines = self.said.read()[-4000:].decode(errors="replace").split("\n")
        found = [line.strip() for line in lines if line.strip() and not line.startswith("[ring]")]
        return f": {found[-1][:300]}" if found else ""


@dataclass(eq=False)
class Ranks:
    """The ranks from 1 on, at ``hosts[1:]``. One thread uses it."""

    hosts: Sequence[Host]
    _guards: list[_Guard] = field(default_factory=list, init=False)  # the first is rank 0's own
    _wires: dict[int, Wire] = field(default_factory=dict, init=False)
    _answers: "queue.Queue[tuple[int, Any]]" = field(default_factory=queue.Queue, init=False)
    _together: bool = field(default=False, init=False)
    _ended: bool = field(default=False, init=False)
    _loss: RankError | None = field(default=None, init=False)
    _losing: threading.Lock = field(default_factory=threading.Lock, init=False)

    @classmethod
    def start(cls, hosts: Sequence[Host], job: dict[str, Any]) -> "tuple[Ranks, list[Any]]":
        """Start the ranks, each with ``job``. Return them, and what each says of itself, in order. Raises RankError for
        one that does not start or says that it cannot take part."""
        ranks = cls(hosts)
        try:
            return ranks, ranks._start(job)
        except BaseException:
            ranks.end()
            raise

    def name(self, rank: int) -> str:
        """Return what messages call a rank."""
        return f"rank {rank} ({self.hosts[rank].ssh})"

    def tell(self, message: Any) -> None:
        """Say something to every rank."""
        for rank, wire in self._wires.items():
            try:
                wire.send(message)
            except TimeoutError:
                self._lost(rank, STALLED)
            except OSError:
                self._lost(rank, f"has ended{self._guards[rank].last_words()}")

    def work_together(self) -> None:
        """Let the loss of a rank be the end of this process from now on."""
        self._check()
        self._together = True

    def answers(self) -> list[Any]:
        """Wait for an answer of every rank, and return them in order. Raises RankError before the ranks work
        together."""
        found: dict[int, Any] = {}
        while len(found) < len(self.hosts) - 1:
            self._check()
            with suppress(queue.Empty):
                rank, answer = self._answers.get(timeout=0.05)
                found[rank] = answer
        return [found[rank] for rank in sorted(found)]

    def end(self) -> None:
        """Let the ranks end. They have done what they were told before."""
        self._ended = True
        self._together = False
        for wire in self._wires.values():
            with suppress(OSError):
                wire.socket.shutdown(socket.SHUT_WR)
        for guard in self._guards:
            guard.release()

    def _start(self, job: dict[str, Any]) -> list[Any]:
        token = secrets.token_hex(16)
        ip = (self.hosts[0].ips or ("127.0.0.1",))[0]
        try:
            listener = socket.create_server((ip, 0), backlog=len(self.hosts))
        except OSError as error:
            problem = f"{ip} is no address of this machine ({os.strerror(error.errno or 0)})"
            raise RankError(f"{problem}; the first host must be this one") from error
        with listener:
            self._guards.append(_guard([sys.executable, *GUARD], {"pid": os.getpid()}))
            for rank, host in enumerate(self.hosts[1:], 1):
                sharing = sum(other.ssh == host.ssh for other in self.hosts)
                own = {"token": token, "rank": rank, "ips": host.ips, "address": listener.getsockname()[:2]}
                self._guards.append(_guard(_command(host), job | own | {"sharing": sharing}))
            threading.Thread(target=self._beat, name="beats", daemon=True).start()
            atexit.register(self.end)
            self._accept(listener, token)
        return self.answers()

    def _accept(self, listener: socket.socket, token: str) -> None:
        """Wait until each rank has connected and proved to be one."""
        listener.settimeout(0.1)
        until = time.monotonic() + START_SECONDS
        while len(self._wires) < len(self.hosts) - 1:
            self._check()
            if time.monotonic() > until:
                missing = [rank for rank in range(1, len(self.hosts)) if rank not in self._wires]
                raise RankError(f"{self.name(missing[0])} has not connected; look whether it reaches this machine")
            with suppress(OSError):
                wire = Wire(listener.accept()[0])
                first = wire.receive()
                if not (isinstance(first, dict) and secrets.compare_digest(str(first.get("token")), token)):
                    wire.socket.close()
                    continue
                rank = int(first["rank"])
                self._wires[rank] = wire
                threading.Thread(target=self._listen, args=(rank, wire), name=f"rank {rank}", daemon=True).start()

    def _listen(self, rank: int, wire: Wire) -> None:
        """Hear what a rank says, as long as it lives."""
        try:
            while True:
                said = wire.receive()
                if isinstance(said, dict) and "failed" in said:
                    self._lost(rank, f"failed: {said['failed']}", int(said.get("code", RankError.exit_code)))
                elif said != BEAT:
                    self._answers.put((rank, said))
        except TimeoutError:
            self._lost(rank, STALLED)
        except (OSError, ValueError):
            self._lost(rank, f"has ended{self._guards[rank].last_words()}")

    def _beat(self) -> None:
        """Say every second that this process lives, and look whether the guards do."""
        while not self._ended:
            for rank, guard in enumerate(self._guards):
                guard.beat()
                if guard.process.poll() is not None:
                    self._lost(rank, f"has ended{guard.last_words()}" if rank else "has lost its guard")
            for wire in list(self._wires.values()):
                with suppress(OSError):
                    wire.send(BEAT)
            time.sleep(BEAT_SECONDS)

    def _check(self) -> None:
        if self._loss is not None:
            raise self._loss

    def _lost(self, rank: int, why: str, code: int = 0) -> None:
        """Keep the loss, to be raised, or end this process."""
        with self._losing:
            if self._ended or self._loss is not None:
                return
            self._loss = RankError(f"{self.name(rank)} {why}", code)
            if not self._together:
                return
            for guard in self._guards[1:]:
                guard.release()
            with suppress(OSError, ValueError):
                if sys.stderr.isatty():
                    sys.stderr.write(SHOW_CURSOR)  # which a progress bar has hidden
                print(f"gptoss-mac: {self._loss}; all ranks are ended", file=sys.stderr, flush=True)
            os._exit(self._loss.exit_code)


def _command(host: Host) -> list[str]:
    """Return how a rank's guard is started. A remote shell reads one line."""
    command = [host.python or sys.executable, *GUARD]
    return command if host.here else [*SSH, host.ssh, f"exec {shlex.join(command)}"]


def _guard(command: list[str], job: dict[str, Any]) -> _Guard:
    own = {
        name: value for name, value in os.environ.items() if not name.startswith("MLX_") and name not in KEPT_TO_ITSELF
    }
    watching = "pid" in job
    said = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the guard lives)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=None if watching else said,
            env=own,
            start_new_session=True,  # Ctrl-C is rank 0's to handle
        )
    except OSError as error:
        raise RankError(f"{shown(command[0])}: cannot be started ({error.strerror})") from error
    assert process.stdin is not None
    with suppress(OSError):  # of a guard that has ended, which is noticed at the next beat
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
    os.set_blocking(process.stdin.fileno(), False)
    return _Guard(process, said, remote=command[0] == SSH[0])
