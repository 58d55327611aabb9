"""A user installs only what the product imports, and a make target only what it uses."""

import os
import re
import subprocess
import sys
import tomllib

import pytest

from tests.test_imports import PACKAGES, ROOT, imports

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {"markdown-it-py": "markdown_it"}
"""Modules whose package has another name."""


def declared(requirements):
    return {MODULES.get(name, name) for name in (re.match(r"[\w.-]+", line)[0] for line in requirements)}


def imported():
    """Return the packages that the product imports."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    found = {name.split(".")[0] for path in files for name in imports(path)}
    return found - sys.stdlib_module_names - set(PACKAGES)


def test_dependencies_are_what_the_product_imports():
    assert declared(PROJECT["dependencies"]) == imported()


def installed_by(target, folder):
    """Return what ``make TARGET`` gives to pip if nothing is installed yet."""
    places = (f"VENV={folder}/venv", f"ORACLE_VENV={folder}/oracle", f"PYTHON={sys.executable}")
    command = ["make", "-n", target, *places]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pips = re.findall(r"pip install .*?--disable-pip-version-check (.*?) &&", done.stdout)
    return [packages for packages in pips if "torch" not in packages]


@pytest.mark.parametrize("target", ["chat", "readme", "tiny-eval", "oracle"])
def test_what_only_runs_the_product_installs_only_the_product(target, tmp_path):
    assert installed_by(target, tmp_path) == ["-e ."]


@pytest.mark.parametrize(
    ("target", "extra"),
    [("test", "dev"), ("check", "dev"), ("mutate", "dev"), ("compare", "compare"), ("engine-report", "compare")],
)
def test_what_needs_more_adds_it(target, extra, tmp_path):
    assert installed_by(target, tmp_path) == ["-e .", f"-e '.[{extra}]'"]
    assert extra in PROJECT["optional-dependencies"]


@pytest.mark.parametrize(("exit_code", "ready"), [(0, True), (1, False)])
def test_an_environment_is_ready_only_when_pip_has_succeeded(exit_code, ready, tmp_path):
    """This also holds if it was ready before and pyproject.toml has changed."""
    venv = tmp_path / "venv"
    python = tmp_path / "python"
    pip = venv / "bin/pip"
    pip.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")
    pip.write_text(f"#!/bin/sh\necho Collecting x\necho '  Downloading x.whl (9.9 MB)'\nexit {exit_code}\n")
    for program in (python, pip):
        program.chmod(0o755)
    (venv / ".ready").touch()
    os.utime(venv / ".ready", (0, 0))
    command = ["make", f"{venv}/.ready", f"VENV={venv}", f"PYTHON={python}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "Downloading x.whl" in done.stdout
    assert "Collecting" not in done.stdout
    assert (done.returncode == 0) == ready
    assert (venv / ".ready").exists() == ready
