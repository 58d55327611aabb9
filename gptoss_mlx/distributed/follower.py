"""The process of a rank from 1 on: ``python -m gptoss_mlx.distributed.follower``, started by its guard.

A line of JSON on standard input says where rank 0 is. The process connects before it imports anything slow, so that it
is missed soon if it does not run. ``following`` knows what it does then.
"""

import json
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from gptoss_mlx.distributed.wire import BEAT, BEAT_SECONDS, RING_ERROR, SILENT_SECONDS, Wire
from gptoss_mlx.errors import GptOssError, RankError, one_line


class _Over(Exception):
    """Rank 0 has ended, or is silent."""


def main() -> int:
    """Take part until rank 0 ends. Return the exit code."""
    job = json.loads(sys.stdin.readline())
    wire = Wire(socket.create_connection(tuple(job["address"]), timeout=SILENT_SECONDS))
    wire.send({"token": job["token"], "rank": job["rank"]})
    threading.Thread(target=_beat, args=(wire,), name="beats", daemon=True).start()
    try:
        from gptoss_mlx.distributed.following import take_part

        take_part(job, wire.send, lambda: _next(wire))
    except _Over:
        return 0
    except (GptOssError, RuntimeError, MemoryError, OSError, ImportError) as error:
        if RING_ERROR in str(error):
            time.sleep(BEAT_SECONDS)  # so that the rank that is gone is named, and not this one
        with suppress(OSError):
            wire.send({"failed": one_line(error), "code": getattr(error, "exit_code", RankError.exit_code)})
    return 1


def _next(wire: Wire) -> Any:
    """Return the next thing that rank 0 says, but for beats."""
    while True:
        try:
            said = wire.receive()
        except OSError as error:
            raise _Over from error
        if said != BEAT:
            return said


def _beat(wire: Wire) -> None:
    """Say every second that this process lives, and end it where nobody listens any more."""
    while True:
        try:
            wire.send(BEAT)
        except OSError:
            os._exit(1)
        time.sleep(BEAT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
