"""A model folder appears complete or not at all: after kills, full disks, interrupts, and unwritable destinations."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convert import convert
from gptoss_mlx.errors import StorageError
from gptoss_mlx.model_folder import ModelFolder
from tests.support.checkpoints import SMALL, write_checkpoint
from tests.support.cli import run_cli

ROOT = Path(__file__).parent.parent.parent
SIZES = SMALL | {"num_hidden_layers": 1}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("source") / "hf", SIZES)


@pytest.fixture
def place(tmp_path):
    """Return the folder of destinations, in which a test looks for leftovers."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def one_line(*args: object) -> str:
    code, out, err = run_cli("convert", *args)
    assert (code, out) == (5, "")
    lines = [line for line in err.splitlines() if not line.startswith("Converting:")]
    assert len(lines) == 1, err
    return lines[0].removeprefix("gptoss-mac: ")


# Forks a converting child for each n; the child kills itself at its n-th step that changes the disk, a write half done.
KILLED_AT_EVERY_STEP = """
import os, signal, sys
from convert import convert

source, place, start, stride = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

def arm(n):
    count = 0
    def wrap(name):
        real = getattr(os, name)
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == n:
                if name in ("write", "pwrite"):
                    real(args[0], args[1][: len(args[1]) // 2], *args[2:])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        setattr(os, name, call)
    for name in ("mkdir", "write", "pwrite", "ftruncate", "fsync", "rename", "close"):
        wrap(name)

n = start
while True:
    child = os.fork()
    if child == 0:
        arm(n)
        convert(source, f"{place}/{n}", dense="bf16")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert status == 0
        print(n - start)
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
    n += stride
"""


def test_a_kill_at_any_step_leaves_no_model_or_a_whole_one(checkpoint, place):
    command = [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(checkpoint), str(place), "1", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    assert steps > 50

    whole = []
    for n in range(1, steps + 1):
        destination = place / str(n)
        if destination.exists():
            ModelFolder.open(destination).verify()
            whole.append(n)
    assert whole, "no kill came after the rename"
    assert whole == list(range(whole[0], steps + 1))
    assert whole[0] > 50

    # The next run removes what the killed runs left.
    for n in (1, 2, whole[0] // 2, whole[0] - 1):
        convert(checkpoint, place / str(n), dense="bf16")
        ModelFolder.open(place / str(n)).verify()
        assert not (place / f".{n}.partial").exists()


def test_a_kill_at_random_moments_of_the_real_command(checkpoint, place):
    for n, delay in enumerate((0.3, 0.5, 0.7, 0.9)):
        command = [sys.executable, "-m", "gptoss_mlx.cli", "convert", str(checkpoint), "--out", str(place / "model")]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        child.kill()
        child.wait()
        if (place / "model").exists():
            ModelFolder.open(place / "model").verify()
            shutil.move(place / "model", place / f"whole-{n}")
    convert(checkpoint, place / "model")
    assert not list(place.glob(".*"))


def test_a_file_size_limit_ends_in_one_line_and_no_folder(checkpoint, place):
    code = (
        "import resource, sys; from gptoss_mlx.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "sys.argv = ['gptoss-mac', 'convert', sys.argv[1], '--out', sys.argv[2]]; main()"
    )
    command = [sys.executable, "-c", code, str(checkpoint), str(place / "model")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 5
    assert "Traceback" not in done.stderr
    assert "model-layer-000.safetensors: cannot be written (File too large)" in done.stderr.splitlines()[-1]
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("room", [0, 20_000, 200_000, 500_000])
def test_a_disk_that_fills_up_ends_in_one_line_and_no_folder(checkpoint, place, monkeypatch, room):
    left = room
    real = os.pwrite

    def pwrite(fd, data, offset):
        nonlocal left
        if left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(fd, data[:left], offset)  # a full disk accepts what still fits
        left -= written
        return written

    monkeypatch.setattr(os, "pwrite", pwrite)
    line = one_line(checkpoint, "--out", place / "new" / "model")
    assert "cannot be written (No space left on device); free some space" in line
    assert list(place.iterdir()) == []


def test_too_little_room_is_said_before_anything_is_written(checkpoint, place, monkeypatch):
    usage = shutil.disk_usage(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=500_000))
    line = one_line(checkpoint, "--out", place / "new" / "model")
    assert re.fullmatch(rf"{place}/new/model: needs \d\.\d MB, 0\.5 MB are free; free some space or use --out", line)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_a_target_that_exists_is_not_touched(checkpoint, place, kind):
    target = place / "model"
    if kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to(place / "nowhere")
    assert (
        one_line(checkpoint, "--out", target)
        == f"{target}: exists already; remove it or choose another place with --out"
    )
    assert list(place.iterdir()) == [target]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("/", "/: exists already"),
        ("x" * 300, "cannot be written (File name too long)"),
        (("x" * 200 + "/") * 25, "cannot be written (File name too long)"),
    ],
)
def test_a_target_that_no_file_can_be(checkpoint, place, name, problem):
    assert problem in one_line(checkpoint, "--out", place / name)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(("name", "shown"), [("nul\0", r"nul\x00"), ("half \ud83d", r"half \ud83d")])
def test_a_target_that_no_system_can_name(checkpoint, place, name, shown):
    with pytest.raises(StorageError) as refused:
        convert(checkpoint, place / name)
    assert str(refused.value) == f"{place}/{shown}: is no path a file can have; choose another place with --out"


def test_a_target_whose_name_is_no_text_is_written_and_shown_in_one_line(checkpoint, place):
    target = os.fsencode(place) + b"/caf\xe9\n"
    command = [sys.executable, "-m", "gptoss_mlx.cli", "convert", str(checkpoint), "--out", target]
    done, again = (subprocess.run(command, capture_output=True, cwd=ROOT) for _ in range(2))
    assert done.returncode == 0, done.stderr
    assert rb"caf\udce9\n" in done.stdout
    ModelFolder.open(os.fsdecode(target)).verify()
    assert again.returncode == 5
    assert again.stderr.count(b"\n") == 1
    assert rb"caf\udce9\n: exists already" in again.stderr


def test_a_target_that_appears_meanwhile_is_not_touched(checkpoint, place):
    def progress(done, total):
        (place / "model").mkdir(exist_ok=True)

    with pytest.raises(StorageError, match="exists already"):
        convert(checkpoint, place / "model", progress=progress)
    assert list(place.iterdir()) == [place / "model"]
    assert not list((place / "model").iterdir())


def test_a_parent_that_is_a_file(checkpoint, place):
    (place / "file").write_text("")
    line = one_line(checkpoint, "--out", place / "file" / "model")
    assert "cannot be written (Not a directory)" in line
    assert list(place.iterdir()) == [place / "file"]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_parent(checkpoint, place, monkeypatch, code):
    def refuse(path, mode=0o777, **kwargs):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    line = one_line(checkpoint, "--out", place / "model")
    assert line == f"{place / '.model.partial'}: cannot be written ({os.strerror(code)}); choose another place"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_parent_without_permission(checkpoint, place):
    place.chmod(0o555)
    try:
        assert "cannot be written (Permission denied)" in one_line(checkpoint, "--out", place / "model")
    finally:
        place.chmod(0o755)


def test_two_conversions_to_one_place(checkpoint, place):
    lines = []

    def progress(done, total):
        if not lines:
            lines.append(one_line(checkpoint, "--out", place / "model"))

    convert(checkpoint, place / "model", progress=progress)
    assert lines == [f"{place / 'model'}: another process is converting to it; wait for it to end"]
    ModelFolder.open(place / "model").verify()


def test_an_interrupt_leaves_nothing(checkpoint, place):
    def progress(done, total):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, place / "new" / "model", progress=progress)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("call", ["mkdir", "open", "pwrite"])
@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda n: str(n)
)
def test_a_signal_ends_the_command_with_its_code_and_leaves_nothing(checkpoint, place, number, exit_code, call):
    code = (
        "import os, signal, sys; from gptoss_mlx.cli import main\n"
        f"real = os.{call}\n"
        "def call(path, *args, **named):\n"
        "    made = real(path, *args, **named)\n"
        "    if not isinstance(path, (str, os.PathLike)) or path.name == '.model.partial':\n"
        f"        os.{call} = real\n"
        f"        signal.raise_signal({int(number)})\n"
        "    return made\n"
        f"os.{call} = call\n"
        f"signal.signal({int(number)}, signal.SIG_DFL)\n"  # a shell starts background jobs with Ctrl-C ignored
        "sys.argv = ['gptoss-mac', 'convert', sys.argv[1], '--out', sys.argv[2]]; main()"
    )
    command = [sys.executable, "-c", code, str(checkpoint), str(place / "new" / "model")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (exit_code, "")
    assert list(place.iterdir()) == []


def test_only_our_own_leftovers_are_removed(checkpoint, place):
    (place / ".model.partial").mkdir()
    (place / ".model.partial" / "model-layer-000.safetensors").write_text("half")
    (place / ".other.partial").mkdir()
    (place / "model.txt").write_text("mine")
    convert(checkpoint, place / "model")
    assert sorted(path.name for path in place.iterdir()) == [".other.partial", "model", "model.txt"]


def test_a_leftover_that_is_a_link_is_not_followed(checkpoint, place, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    (place / ".model.partial").symlink_to(tmp_path / "precious")
    assert "cannot be written" in one_line(checkpoint, "--out", place / "model")
    assert (tmp_path / "precious" / "file").read_text() == "mine"
