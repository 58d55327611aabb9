"""The native library is built once, with whatever compiler there is, and its absence costs a user nothing but speed."""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from metal_kernels import build_cache, toolchain
from metal_kernels.cpu import build, library
from tests.support.cli import run_cli
from tests.test_imports import HEAVY, ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="built on Linux only")

SOURCE = '#include "answer.h"\nextern "C" __attribute__((visibility("default"))) int answer() { return ANSWER; }\n'
COMPILERS = list({os.path.realpath(each.driver[0]): each for each in toolchain.candidates(build.COMPILERS)}.values())
"""One compiler often has several names."""
BUILDS = """
echo "$@" >> "$0.log"
while read line; do case "$line" in *broken*) echo "$1:1:5: error: broken" >&2; exit 1;; esac; done < "$1"
for target; do :; done
echo compiled > "$target"
"""
"""A compiler that notes each call and refuses a source with the word broken."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache's folder, of a user of whom nothing is known."""
    usual = build_cache.folder(build.KIND).parents[1]
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(usual / "zig"))  # or ziglang builds libraries of its own again
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return build_cache.folder(build.KIND)


@pytest.fixture
def native(tmp_path, monkeypatch):
    """The folder of other sources, which compile in no time."""
    folder = tmp_path / "native"
    folder.mkdir()
    (folder / "library.cpp").write_text(SOURCE)
    (folder / "answer.h").write_text("#define ANSWER 42\n")
    monkeypatch.setattr(build, "NATIVE", folder)
    return folder


@pytest.fixture
def compiler(programs, monkeypatch):
    """The only compiler. Returns a function that says how often it was called."""
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    log = Path(programs("g++", BUILDS) + ".log")
    log.touch()

    def calls():
        return len(log.read_text().splitlines())

    return calls


def run(code, **environment):
    """Run code in a process of its own, without the suite's patches."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


def needs(library):
    """Return the names of the libraries that this one needs."""
    if not shutil.which("readelf"):
        pytest.skip("readelf tells what a library needs")
    listed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"\(NEEDED\).*\[(.+?)\.so", listed))


def architectures() -> list[str]:
    """Return the architectures that the system says this machine has."""
    flags = set(re.search(r"^(?:flags|Features)\s*:(.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[1].split())
    needed = {"avx2": {"avx2", "fma"}, "avx512": {"avx2", "fma", "avx512f", "avx512bw", "avx512vl"}}
    return ["portable", *(name for name, those in needed.items() if those <= flags)]


@pytest.mark.parametrize("found", COMPILERS, ids=lambda found: found.name)
def test_the_sources_build_with_each_compiler_and_need_only_the_c_library(found, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "candidates", lambda names: iter([found]))
    target = tmp_path / "library.so"
    assert build.compile_library(target) == found
    assert library.architectures(ctypes.CDLL(str(target))) == architectures()
    assert needs(target) <= {"libc", "libm", "libpthread", "ld-linux-x86-64", "ld-linux-aarch64"}


def test_a_library_is_built_once_and_again_when_a_header_changes(native, cache):
    first = build.find()
    assert first.parent == cache
    assert ctypes.CDLL(str(first)).answer() == 42
    built = first.stat().st_ino
    assert (build.find(), build.build(), first.stat().st_ino) == (first, first, built)
    (native / "answer.h").write_text("#define ANSWER 43\n")
    second = build.find()
    assert ctypes.CDLL(str(second)).answer() == 43
    (native / "answer.h").write_text("#define ANSWER 42\n")
    assert (build.find(), first.stat().st_ino) == (first, built)
    assert sorted(cache.iterdir()) == sorted([first, second])


@pytest.mark.parametrize("found", COMPILERS, ids=lambda found: found.name)
def test_sources_that_need_the_c_plus_plus_library_are_refused(found, native, monkeypatch):
    monkeypatch.setattr(build, "candidates", lambda names: iter([found]))
    (native / "answer.h").write_text("#define ANSWER static_cast<int>(reinterpret_cast<long>(new int))\n")
    with pytest.raises(build.Absent, match=r"^it does not compile .*undefined (reference|symbol).*operator new"):
        build.find()


def test_finding_a_built_library_starts_no_process(compiler, native):
    library = build.build()
    before = compiler()
    code = (
        "import sys\nfrom pathlib import Path\nfrom metal_kernels.cpu import build\n"
        "def refuse(event, arguments):\n"
        "    assert event not in ('subprocess.Popen', 'os.posix_spawn', 'os.fork', 'os.exec', 'os.system'), event\n"
        "sys.addaudithook(refuse)\n"
        f"build.NATIVE = Path({str(native)!r})\n"
        "print(build.find())"
    )
    done = run(code)
    assert done.stdout.strip() == str(library), done.stderr
    assert compiler() == before > 0


def test_a_packaged_library_comes_first(compiler, native, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "PACKAGED", tmp_path / "packaged.so")
    build.PACKAGED.touch()
    assert build.find() == build.PACKAGED
    assert compiler() == 0


def test_a_build_that_failed_is_not_tried_again(compiler, native, cache):
    (native / "library.cpp").write_text("broken\n")
    told = r"^it does not compile \(g\+\+: library.cpp:1:5: error: broken\)$"
    with pytest.raises(build.Absent, match=told):
        build.find()
    before = compiler()
    with pytest.raises(build.Absent, match=told):
        build.find()
    assert compiler() == before > 0
    assert [path.suffix for path in cache.iterdir()] == [".failed"]


def another_compiler(programs, native, cache):
    programs("clang++", BUILDS)


def another_source(programs, native, cache):
    (native / "answer.h").write_text("\n")


def a_day_later(programs, native, cache):
    (note,) = cache.iterdir()
    then = time.time() - build.RETRY - 60
    os.utime(note, (then, then))


@pytest.mark.parametrize("change", [another_compiler, another_source, a_day_later], ids=lambda change: change.__name__)
def test_a_build_that_failed_is_tried_again_after_a_change(change, compiler, native, cache, programs):
    (native / "library.cpp").write_text("broken\n")
    for _ in range(2):
        with pytest.raises(build.Absent):
            build.find()
    before = compiler()
    change(programs, native, cache)
    with pytest.raises(build.Absent):
        build.find()
    assert compiler() > before


def test_the_command_tries_again_what_failed(compiler, native):
    (native / "library.cpp").write_text("broken\n")
    for number in range(1, 3):
        with pytest.raises(build.Absent):
            build.build()
        assert compiler() == 2 * number  # the trial, then the source


def test_no_compiler_is_told_with_the_remedy(programs, native, monkeypatch):
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(build.Absent) as absent:
        build.find()
    assert str(absent.value) == f"no C++ compiler: install g++ 11 or newer, then run `{build.COMMAND}`"


def test_an_unfit_compiler_is_passed_over(programs, native, monkeypatch):
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    programs("g++", 'echo "g++: error: unrecognized option $2" >&2; exit 1')
    with pytest.raises(build.Absent, match=r"^no usable C\+\+ compiler \(g\+\+: error: unrecognized option -std"):
        build.find()
    programs("clang++", BUILDS)
    assert build.find().read_text() == "compiled\n"


def test_it_is_not_built_on_macos(compiler, native, cache, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    for get in (build.find, build.build):
        with pytest.raises(build.Absent, match=r"^not built on macOS$"):
            get()
    assert compiler() == 0
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_told(compiler, native, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(build.Absent, match=r"^it cannot be built: .*Not a directory"):
        build.find()
    assert compiler() == 0


def test_processes_that_build_at_once_do_not_meet(compiler, native, cache):
    code = (
        "from pathlib import Path\nfrom metal_kernels.cpu import build\n"
        f"build.NATIVE = Path({str(native)!r})\n"
        "assert build.build().read_text() == 'compiled\\n'"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert [path.suffix for path in cache.iterdir()] == [".so"]


COMMAND = [sys.executable, "-m", "metal_kernels.cpu.build"]


def test_the_command_says_what_it_did_in_one_line(programs, cache):
    programs("g++", BUILDS)
    runs = [subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True) for _ in range(2)]
    assert [(done.returncode, done.stderr) for done in runs] == [(0, "")] * 2
    assert re.fullmatch(r"native CPU library: built in \d+\.\d s\n", runs[0].stdout)
    assert runs[1].stdout == "native CPU library: already there\n"
    assert [path.suffix for path in cache.iterdir()] == [".so"]


def test_the_command_succeeds_without_a_compiler(programs, monkeypatch, capsys):
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    build.main()
    assert re.fullmatch(r"native CPU library: none, no C\+\+ compiler: .*\n", capsys.readouterr().out)


def test_an_interrupted_build_leaves_nothing(programs, cache, tmp_path):
    started = tmp_path / "started"
    os.mkfifo(tmp_path / "never")
    programs("g++", f"echo > {started}; read line < {tmp_path / 'never'}")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(COMMAND, cwd=ROOT, start_new_session=True, **pipes)
    while not started.exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.communicate() == (b"", b"")
    assert process.returncode == 130
    assert list(cache.iterdir()) == []


def test_building_imports_nothing_that_a_wheel_is_built_without():
    done = run(f"import sys\nimport metal_kernels.cpu.build\nprint(*sorted(set(sys.modules) & {HEAVY}))")
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_doctor_says_where_the_library_is_from_and_what_it_runs_on(compiler, native, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "open_library", lambda path: SimpleNamespace(architecture="avx2"))
    monkeypatch.setattr(library, "cores", lambda: 6)

    def told():
        code, out, err = run_cli("doctor")
        assert (code, err) == (0, "")
        return re.search(r"^native CPU library: (.*)$", out, re.MULTILINE)[1]

    (native / "library.cpp").write_text("broken\n")
    assert told() == "none, it does not compile (g++: library.cpp:1:5: error: broken)"
    (native / "library.cpp").write_text(SOURCE)
    assert told() == "avx2, 6 threads, built on this machine"
    monkeypatch.setattr(build, "PACKAGED", tmp_path / "packaged.so")
    build.PACKAGED.touch()
    assert told() == "avx2, 6 threads, packaged"
