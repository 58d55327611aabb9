"""A source distribution and a wheel have what they should."""

import platform
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from metal_kernels.cpu import build
from tests.packaging.conftest import PROJECT, run
from tests.test_imports import ROOT
from tests.test_packaging import BUILDS_WHEELS


@pytest.mark.slow
def test_the_source_distribution_has_the_sources_of_the_native_library_and_no_tests(source_distribution):
    with tarfile.open(source_distribution) as archive:
        inside = {Path(*Path(name).parts[1:]) for name in archive.getnames()}
    sources = [path for path in build.NATIVE.rglob("*") if path.suffix in (".h", ".cpp")]
    assert sources
    assert {path.relative_to(ROOT) for path in [*sources, BUILDS_WHEELS]} <= inside
    assert not [path for path in inside if path.parts[:1] == ("tests",)]


@pytest.mark.slow
@pytest.mark.parametrize("compiler", [True, False])
def test_a_wheel_brings_the_library_if_there_is_a_compiler(compiler, source_distribution, tmp_path, monkeypatch):
    """Without one it serves every platform."""
    brings = compiler and sys.platform == "linux"
    if brings and not shutil.which("g++"):
        pytest.skip("no g++")
    if not compiler:
        monkeypatch.setenv("PATH", "")
    pip = (sys.executable, "-m", "pip")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, source_distribution)
    (wheel,) = tmp_path.glob("*.whl")
    tag = f"linux_{platform.machine()}" if brings else "any"
    assert wheel.name == f"gptoss_mac-{PROJECT['version']}-py3-none-{tag}.whl"
    assert ("metal_kernels/cpu/libgptoss_cpu.so" in zipfile.ZipFile(wheel).namelist()) == brings

    installed = tmp_path / "installed"
    run(*pip, "install", "--no-deps", "--target", installed, wheel)
    code = "import ctypes\nfrom metal_kernels.cpu import build\nctypes.CDLL(str(build.find()))\nprint(build.find())"
    places = {"PATH": "", "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(installed)}
    if brings:
        found = run(sys.executable, "-c", code, cwd=tmp_path, **places).strip()
        assert found == str(installed / "metal_kernels/cpu/libgptoss_cpu.so")
        assert not (tmp_path / "cache").exists()
