"""The distributions, made as a release makes them, and how a program is run that must not find this checkout."""

import os
import shutil
import subprocess
import sys
import tomllib

import pytest

from tests.test_imports import PACKAGES, ROOT

METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = METADATA["project"]


def run(*command, cwd=None, **environment):
    """Run a program that does not find this checkout by itself. It must succeed. Return its output."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=inherited | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def source_distribution(tmp_path_factory):
    """The source distribution, made with the setuptools that pyproject.toml asks for."""
    folder = tmp_path_factory.mktemp("source")
    kept = shutil.ignore_patterns("__pycache__")
    for package in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / package, folder / package, ignore=kept)
    for name in ("pyproject.toml", "MANIFEST.in", "CHANGELOG.md", PROJECT["readme"], *PROJECT["license-files"]):
        shutil.copy(ROOT / name, folder)
    setuptools = folder / "dist/setuptools"
    run(sys.executable, "-m", "pip", "install", "--target", setuptools, *METADATA["build-system"]["requires"])
    code = "from setuptools import build_meta\nprint(build_meta.build_sdist('dist'))"
    name = run(sys.executable, "-c", code, cwd=folder, PYTHONPATH=str(setuptools)).splitlines()[-1]
    return folder / "dist" / name


@pytest.fixture(scope="session")
def wheel(source_distribution, tmp_path_factory):
    """The wheel, with the native library if there is a compiler."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, source_distribution)
    (wheel,) = folder.glob("*.whl")
    return wheel
