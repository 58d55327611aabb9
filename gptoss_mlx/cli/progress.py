"""Show the progress of a long run on standard error: as a bar on a terminal, else as a plain line every few seconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal

if TYPE_CHECKING:
    from gptoss_mlx.batch.run import Tally

LINE_SECONDS = 5.0


@contextmanager
def byte_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows (bytes done, all bytes)."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _byte_lines(console, label)
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@dataclass(frozen=True)
class DownloadDisplay:
    """``fetching`` shows (file, bytes of it that are there, its size), ``converting`` shows (bytes converted, all), and
    ``say`` prints a line."""

    fetching: Callable[[str, int, int], None]
    converting: Callable[[int, int], None]
    say: Callable[[str], None]


@contextmanager
def download_progress(total: int) -> Iterator[DownloadDisplay]:
    """Yield a display of a download that is converted as it arrives: a bar for the ``total`` bytes of all files, one
    for what has been converted, and one for each file that is arriving. The bytes that a file begins with came earlier,
    so they say nothing about the speed."""
    console = Console(stderr=True)
    there: dict[str, int] = {}

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    if not console.is_terminal:
        lines = _byte_lines(console, "Downloading")
        earlier = 0

        def show_line(file: str, done: int, size: int) -> None:
            nonlocal earlier
            if file not in there:
                earlier += done
            before, there[file] = there.get(file), done
            if before != done:
                lines(sum(there.values()), total, earlier)

        yield DownloadDisplay(show_line, lambda done, total: None, say)
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        all_files = bar.add_task("Downloading", total=total)
        converted = bar.add_task("Converting", total=None)
        tasks = {}

        def show_bars(file: str, done: int, size: int) -> None:
            if file not in tasks:
                tasks[file] = bar.add_task(f"  {file}", total=size, completed=done)
                bar.tasks[all_files].completed += done
            else:
                bar.update(tasks[file], completed=done)
            there[file] = done
            bar.update(all_files, completed=sum(there.values()))
            if done == size:
                bar.update(tasks[file], visible=False)

        def show_converted(done: int, total: int) -> None:
            bar.update(converted, completed=done, total=total)

        yield DownloadDisplay(show_bars, show_converted, say)


def _byte_lines(console: Console, label: str) -> Callable[..., None]:
    """Return a function that prints (bytes done, all bytes, bytes done before) every few seconds, and at the end."""
    start = time.monotonic()
    due = _every(LINE_SECONDS)

    def report(done: int, total: int, earlier: int = 0) -> None:
        if done >= total or due():
            seconds = time.monotonic() - start
            rate = (done - earlier) / max(seconds, 1e-6)
            left = f", {(total - done) / rate:.0f} s left" if rate else ""
            left = left if done < total else f" in {seconds:.0f} s"
            line = f"{label}: {done / total:4.0%}, {decimal(done)} of {decimal(total)}, {decimal(int(rate))}/s{left}"
            console.print(line, highlight=False, soft_wrap=True)

    return report


def _every(seconds: float) -> Callable[[], bool]:
    """Return a function that returns True when ``seconds`` have passed since it last did."""
    last = time.monotonic()

    def due() -> bool:
        nonlocal last
        if time.monotonic() - last < seconds:
            return False
        last = time.monotonic()
        return True

    return due


@contextmanager
def batch_progress() -> Iterator[Callable[["Tally"], None]]:
    """Yield a function that shows a batch's tally. It may be called at every step."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _tally_lines(console)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("Answering"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None)
        yield lambda tally: bar.update(task, completed=tally.done, total=tally.total, description=_rates(tally))


def _tally_lines(console: Console) -> Callable[["Tally"], None]:
    due = _every(LINE_SECONDS)

    def report(tally: "Tally") -> None:
        if due():
            line = f"Answering: {tally.done} of {tally.total}, {_rates(tally)}"
            console.print(line, highlight=False, soft_wrap=True)

    return report


def _rates(tally: "Tally") -> str:
    parts = [f"{tally.tokens_per_second:.1f} tokens/s"]
    if tally.seconds_left is not None:
        parts.append(f"{timedelta(seconds=round(tally.seconds_left))} left")
    if tally.errors:
        parts.append(f"{tally.errors} errors")
    return ", ".join(parts)
