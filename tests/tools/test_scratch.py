"""The sandbox's files in memory, beside a real folder."""

import os
import random
import shutil

import pytest

from gptoss_mlx.tools import scratch
from gptoss_mlx.tools.scratch import Scratch

NAMES = ["/a", "/b", "/a/x", "/a/y", "/b/x", "/a/x/z"]


class Real:
    """The same operations on a folder of this machine."""

    def __init__(self, root):
        self.root = str(root)

    def list(self, path):
        with os.scandir(self.root + path) as found:
            return [(one.name, "dir" if one.is_dir() else "file") for one in found]

    def read(self, path):
        with open(self.root + path, "rb") as file:
            return file.read()

    def write(self, path, data):
        with open(self.root + path, "wb") as file:
            file.write(data)

    def mkdir(self, path):
        os.mkdir(self.root + path)

    def remove(self, path):
        if os.path.isdir(self.root + path):
            raise IsADirectoryError
        os.remove(self.root + path)

    def rmdir(self, path):
        os.rmdir(self.root + path)

    def rename(self, src, dst):
        os.rename(self.root + src, self.root + dst)


def answer(provider, method, *arguments):
    try:
        found = getattr(provider, method)(*arguments)
        return sorted(found) if method == "list" else found
    except OSError as error:
        return type(error).__name__


@pytest.mark.parametrize("seed", range(20))
def test_a_scratch_folder_answers_as_a_file_system_does(tmp_path, seed):
    draw = random.Random(seed)
    ours = Scratch(folders=set())
    real = Real(tmp_path / "root")
    os.mkdir(real.root)
    for _ in range(300):
        method = draw.choice(["list", "read", "write", "mkdir", "remove", "rmdir", "rename"])
        arguments = [draw.choice(NAMES)]
        arguments += [draw.choice(NAMES)] if method == "rename" else [b"%d" % draw.randrange(9)] * (method == "write")
        assert answer(ours, method, *arguments) == answer(real, method, *arguments), (method, arguments)
    shutil.rmtree(real.root)


def test_what_does_not_fit_is_refused_and_changes_nothing(monkeypatch):
    monkeypatch.setattr(scratch, "MOST_BYTES", 10)
    monkeypatch.setattr(scratch, "MOST_ENTRIES", len(scratch.FOLDERS) + 2)
    files = Scratch()
    files.write("/a", b"12345678")
    with pytest.raises(OSError, match="full"):
        files.write("/b", b"123")
    files.write("/a", b"1234567890")
    files.write("/b", b"")
    with pytest.raises(OSError, match="too many"):
        files.write("/c", b"")
    with pytest.raises(OSError, match="too many"):
        files.mkdir("/d")
    assert files.read("/a") == b"1234567890"
