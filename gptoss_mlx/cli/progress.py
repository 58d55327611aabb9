"""A long run over bytes, shown: a bar with rate and time left on a terminal, now and then a plain line elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal

LINE_SECONDS = 5.0


@contextmanager
def byte_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function to call with (bytes done, bytes in all). Writes to stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console, label)
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(console: Console, label: str) -> Callable[[int, int], None]:
    start = time.monotonic()
    last = start

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < LINE_SECONDS:
            return
        last = now
        rate = done / max(now - start, 1e-6)
        left = f", {(total - done) / rate:.0f} s left" if done < total else f" in {now - start:.0f} s"
        console.print(
            f"{label}: {done / total:4.0%}, {decimal(done)} of {decimal(total)}, {decimal(int(rate))}/s{left}",
            highlight=False,
            soft_wrap=True,
        )

    return report
