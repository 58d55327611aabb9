"""The threads of the library: any number, resized at any time, called by several of Python's, in a forked child.

Each program runs in a process of its own, which a deadlock would not let end. ThreadSanitizer watches those that it can
follow; it knows no threads in a child.
"""

import subprocess
import sys

import pytest

from metal_kernels.cpu import build
from tests.support.native import architectures
from tests.support.sanitized import THREADS, compile_sanitized
from tests.test_imports import ROOT

pytestmark = pytest.mark.skipif(not architectures(), reason="there is no native library")

SECONDS = 120
BEGIN = """
import os, random, signal, sys, threading, time
import metal_kernels
import mlx.core as mx
import numpy as np
from metal_kernels.cpu import library, operations
from tests.metal_kernels.cpu.calls import CALLS, arrays

opened = library.library()
opened.set_threads(1)
rows = {"few": arrays(5), "many": arrays(200)}
for a in rows.values():
    for name in a:  # so that a child need not ask MLX, whose threads it lacks
        a[name] = mx.contiguous(a[name])
        mx.eval(a[name])

def made(name="many"):
    # Attention over a cache takes few rows only.
    called = ("norm_qkv_rope", "expert_mlp_grouped", "norm_head", "decode_attention")[: 4 if name == "few" else 3]
    return [array for each in called for array in CALLS[each].outputs(operations, rows[name])]

want = {name: made(name) for name in rows}

def right(name="many"):
    return all(np.array_equal(one, other) for one, other in zip(made(name), want[name], strict=True))
"""
"""Computes what operations make on one thread."""

PROGRAMS = {
    "resized": """
for threads in (1, 2, 3, 7, 2, 1, 5, 4):
    opened.set_threads(threads)
    assert right()
    time.sleep(0.01 * (threads % 2))
    assert right() and right("few")
""",
    "of no sensible number": """
for threads in (0, -3, 1000, 2):
    opened.set_threads(threads)
    assert right()
""",
    "idle": """
opened.set_threads(3)
for number in range(100):
    assert right("few" if number % 3 else "many")
    time.sleep(random.choice((0, 0, 1e-5, 1e-4, 1e-3)))
""",
    "called by two": """
wrong = []

def call():
    for number in range(30):
        if not right("few" if number % 3 else "many"):
            wrong.append(number)

callers = [threading.Thread(target=call) for _ in range(3)]
for caller in callers:
    caller.start()
for threads in (2, 4, 1, 3):
    opened.set_threads(threads)
    time.sleep(0.02)
for caller in callers:
    caller.join()
assert not wrong
""",
}
"""By name: programs in which no thread waits for what never comes, and results stay the same."""

FORKS = {
    "idle": """
opened.set_threads(3)
for number in range(30):
    assert right()
    time.sleep(0.02 * (number % 2))  # asleep, or not yet
    child = os.fork()
    if not child:
        signal.alarm(30)
        opened.set_threads(1 + number % 4)
        done = right() and right("few") and len(os.listdir("/proc/self/task")) == 1 + number % 4
        os._exit(0 if done else 3)
    assert right()
    assert os.waitpid(child, 0)[1] == 0
""",
    "busy": """
opened.set_threads(3)
stop = False

def call():
    while not stop:
        made()

caller = threading.Thread(target=call)
caller.start()
for _ in range(30):
    child = os.fork()
    if not child:
        signal.alarm(30)
        opened.set_threads(9)  # while the last of them starts, the first already looks for work
        os._exit(0 if right() else 3)
    assert os.waitpid(child, 0)[1] == 0
stop = True
caller.join()
""",
    "multiprocessing": """
import multiprocessing

opened.set_threads(2)
assert right()
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(right, ["few", "many", "few"]) == [True] * 3
assert right()
""",
}
"""By what the parent does: programs with a forked child that uses the library."""


def program(text: str) -> str:
    return f"{BEGIN}\n{text}\nprint('done')"


def run(text: str):
    command = [sys.executable, "-W", "error", "-c", program(text)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)


@pytest.mark.parametrize("name", PROGRAMS)
def test_results_are_the_same_and_nothing_waits_for_ever(name):
    done = run(PROGRAMS[name])
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


@pytest.mark.parametrize("name", FORKS)
def test_a_forked_child_has_threads_of_its_own(name):
    done = run(FORKS[name])
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """The library with ThreadSanitizer."""
    return compile_sanitized(tmp_path_factory.mktemp("watched"), THREADS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_threads_do_not_race(watched, name):
    done = watched.run(program(PROGRAMS[name]))
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


RACE = """
#include <pthread.h>
static int count = 0;
static void* add(void*) { ++count; return nullptr; }
extern "C" __attribute__((visibility("default"))) int count_to_two() {
  pthread_t other;
  if (pthread_create(&other, nullptr, add, nullptr)) return 0;
  ++count;
  pthread_join(other, nullptr);
  return count;
}
"""


def test_a_planted_race_is_seen(tmp_path, monkeypatch):
    (tmp_path / "library.cpp").write_text(RACE)
    monkeypatch.setattr(build, "NATIVE", tmp_path)
    planted = compile_sanitized(tmp_path, THREADS)
    done = planted.run("import ctypes\nprint(ctypes.CDLL(str(build.find())).count_to_two())")
    assert done.returncode != 0
    assert "data race" in done.stderr
    assert "library.cpp:" in done.stderr
