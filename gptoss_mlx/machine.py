"""Facts of this machine: its chip, memory, disk, and what macOS says of its GPU. Changes nothing, knows no model.

A fact that cannot be known is None, never a guess. macOS's commands were not run: no Mac was available. What reads
their output was tested on output that others have published.
"""

import contextlib
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

MARGIN = 0.04
"""The part of the memory on offer that is left alone: for what a plan does not count, such as Metal's own buffers. On a
Mac with 16 GB it leaves macOS 5 GB."""

READ_BYTES = 256 << 20
"""The most bytes that are read to measure the disk."""

SPEED_BYTES = 256 << 20
"""Bytes that are read to measure the memory, more than a cache holds."""

BLOCK = 8 << 20
"""Bytes of a read: about an expert of a published model."""

POWER_MODES = {"0": "automatic", "1": "low power", "2": "high power"}
"""What ``pmset -g`` means by ``powermode``."""

THERMAL_PRESSURE = "com.apple.system.thermalpressurelevel"
"""macOS's notification of the thermal pressure, whose state ``notifyutil -g`` tells. What ``pmset -g therm`` says of it
is empty on Apple chips (stats issue 749)."""

THERMAL_PRESSURES = {"0": "nominal", "1": "moderate", "2": "heavy", "3": "trapping", "4": "sleeping"}
"""Its levels, as mactop and others name them."""

WIRED_LIMIT = "iogpu.wired_limit_mb"
"""macOS's setting for the most memory that the GPU may hold, in MiB. 0 is its own default."""


@dataclass(frozen=True)
class Machine:
    """What is known of a machine. Sizes are bytes. ``working_set`` is what Metal recommends. ``wired_limit`` is the
    setting that raises it, 0 for macOS's own. ``power_source`` is "AC Power" or "Battery Power", ``thermal_pressure``
    one of THERMAL_PRESSURES."""

    system: str
    chip: str | None
    gpu_cores: int | None
    memory: int | None
    working_set: int | None
    power_mode: str | None
    wired_limit: int | None
    available: int
    power_source: str | None = None
    thermal_pressure: str | None = None


@dataclass(frozen=True)
class DiskSpeed:
    """How fast a file was read, in bytes a second. ``cold`` says that the page cache was told to forget it first."""

    speed: float
    nbytes: int
    cold: bool


def this_machine() -> Machine:
    """Return what is known of this machine."""
    mac = sys.platform == "darwin"
    power = _said("pmset", "-g") if mac else None
    displays = _said("system_profiler", "SPDisplaysDataType") if mac else None
    wired = _said("sysctl", "-n", WIRED_LIMIT) if mac else None
    battery = _said("pmset", "-g", "batt") if mac else None
    version = platform.mac_ver()[0] if mac else platform.release()
    return Machine(
        system=f"{'macOS' if mac else platform.system()} {version}, {platform.machine()}",
        chip=_chip(),
        gpu_cores=gpu_cores(displays) if displays else None,
        memory=memory_bytes(),
        working_set=working_set(),
        power_mode=power_mode(power) if power else None,
        wired_limit=int(wired) << 20 if wired and wired.isdecimal() else None,
        available=available_bytes(),
        power_source=power_source(battery) if battery else None,
        thermal_pressure=thermal_pressure_now(),
    )


def thermal_pressure_now() -> str | None:
    """Return by how much macOS slows the chip because it is hot, one of THERMAL_PRESSURES, or None if unknown."""
    said = _said("notifyutil", "-g", THERMAL_PRESSURE) if sys.platform == "darwin" else None
    return thermal_pressure(said) if said else None


def memory_bytes() -> int | None:
    """Return the machine's memory, or less if this process's control group may use no more."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
    group = _group()
    return total if group is None else min(total, group[0])


def working_set() -> int | None:
    """Return the bytes that Metal recommends to use at most, or None where there is no Metal."""
    return int(mx.device_info()["max_recommended_working_set_size"]) if mx.metal.is_available() else None


def available_bytes() -> int:
    """Return how many more bytes can be allocated now without swapping, by the machine's own account. On Metal that is
    the recommended working set less MLX's active memory. On Linux it is MemAvailable, or less if the control group may
    use no more. Elsewhere it is half of the physical memory."""
    if (recommended := working_set()) is not None:
        return max(0, recommended - mx.get_active_memory())
    found = _number(Path("/proc/meminfo"), r"^MemAvailable:\s+(\d+) kB$")
    if found is None:
        return (memory_bytes() or 0) // 2
    available = found * 1024
    group = _group()
    return available if group is None else max(0, min(available, group[0] - group[1]))


def own_bytes() -> int:
    """Return the anonymous bytes of this process, 0 where the system does not tell."""
    found = _number(Path("/proc/self/status"), r"^RssAnon:\s+(\d+) kB$")
    return 0 if found is None else found * 1024


def model_bytes() -> int:
    """Return the bytes that models take in this process: on Metal those that MLX has, else its anonymous memory."""
    return mx.get_active_memory() + mx.get_cache_memory() if mx.metal.is_available() else own_bytes()


def spendable_bytes() -> int:
    """Return the bytes that a model may take here, with those that this process has: what is available, less a
    margin. On Metal this process's own memory is not part of it."""
    own = 0 if mx.metal.is_available() else own_bytes()
    return int((available_bytes() + own) * (1 - MARGIN))


def gpu_cores(displays: str) -> int | None:
    """Return the GPU's cores by what ``system_profiler SPDisplaysDataType`` says."""
    found = re.search(r"^\s*Total Number of Cores: (\d+)", displays, re.MULTILINE)
    return int(found[1]) if found else None


def power_mode(settings: str) -> str | None:
    """Return the power mode by what ``pmset -g`` says: in ``powermode`` where a Mac has a high one, else in
    ``lowpowermode``."""
    found = re.search(r"^\s*(?:low)?powermode\s+(\d)\s*$", settings, re.MULTILINE)
    return POWER_MODES.get(found[1]) if found else None


def power_source(battery: str) -> str | None:
    """Return the power source by what ``pmset -g batt`` says."""
    found = re.search(r"^Now drawing from '([^']+)'", battery, re.MULTILINE)
    return found[1] if found else None


def thermal_pressure(state: str) -> str | None:
    """Return the thermal pressure by what ``notifyutil -g`` says: the notification's name and its level."""
    name, _, level = state.strip().rpartition(" ")
    return THERMAL_PRESSURES.get(level) if name == THERMAL_PRESSURE else None


def read_speed(files: Sequence[Path]) -> DiskSpeed | None:
    """Read up to READ_BYTES of the largest of ``files``, and return how fast that went, or None if nothing can be read.

    Where the system takes the advice the page cache drops those bytes first, so that the disk is measured and not the
    memory. Nothing is written.
    """
    sized = [(path.stat().st_size, path) for path in files if path.is_file()]
    if not sized:
        return None
    size, path = max(sized)
    try:
        with path.open("rb", buffering=0) as file:
            nbytes = min(size, READ_BYTES)
            cold = _uncached(file.fileno(), nbytes)
            buffer = memoryview(bytearray(BLOCK))
            done = 0
            begin = time.perf_counter()
            while done < nbytes and (count := file.readinto(buffer[: nbytes - done])):
                done += count
            seconds = time.perf_counter() - begin
    except OSError:
        return None
    return DiskSpeed(done / max(seconds, 1e-9), done, cold) if done else None


def memory_speed(threads: int) -> float:
    """Return the bytes a second at which so many threads read memory that is in no cache: the most of three times."""
    parts = [np.ones(SPEED_BYTES // 8 // threads, np.int64) for _ in range(threads)]
    speeds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(3):
            begin = time.perf_counter()
            list(pool.map(np.sum, parts))
            speeds.append(sum(part.nbytes for part in parts) / (time.perf_counter() - begin))
    return max(speeds)


def _uncached(descriptor: int, nbytes: int) -> bool:
    """Ask that a file's bytes are read from the disk. Return whether the system has such a request."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, nbytes, os.POSIX_FADV_DONTNEED)
        return True
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_NOCACHE, 1)
            return True
    return False


def _chip() -> str | None:
    if sys.platform == "darwin":
        return _said("sysctl", "-n", "machdep.cpu.brand_string")
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        return found[1].strip() if found else None
    return None


def group_limit(groups: str, root: Path) -> tuple[int, int] | None:
    """Return the smallest memory limit of the control groups that a process is in, and how many bytes in that group
    cannot be dropped, or None where nothing limits it.

    ``groups`` is what /proc/PID/cgroup says, and ``root`` is where groups are mounted. Groups above a group limit it
    too. In version 1 a group without a limit has a number larger than any memory.
    """
    found = []
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        first = controllers == "memory"
        names = ("memory.limit_in_bytes", r"^total_rss (\d+)$") if first else ("memory.max", r"^anon (\d+)$")
        top = root / "memory" if first else root
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):
            if (limit := _number(folder / names[0], r"^(\d+)$")) is not None and limit < 1 << 60:
                found.append((limit, _number(folder / "memory.stat", names[1]) or 0))
            if folder == top:
                break
    return min(found, default=None)


def _group() -> tuple[int, int] | None:
    try:
        return group_limit(Path("/proc/self/cgroup").read_text(), Path("/sys/fs/cgroup"))
    except (OSError, ValueError):
        return None


def _number(file: Path, pattern: str) -> int | None:
    """Return the number that ``pattern`` finds in a small file, or None."""
    try:
        found = re.search(pattern, file.read_text(), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return None
    return int(found[1]) if found else None


def _said(*command: str) -> str | None:
    """Return what a command of the system prints, or None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
