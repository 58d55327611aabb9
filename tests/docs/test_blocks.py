"""What the pages tell a reader to type works, with the bundled model and without a network.

A page's ``sh`` blocks run in one shell, in a fresh folder, one after the other. ``test_examples`` runs its Python.
``text`` blocks do not run: their commands are parsed by ``tests/test_quoted_commands.py``.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gptoss_mlx.bundled import install_tiny
from gptoss_mlx.home import models_dir
from tests.docs.pages import ROOT, all_pages, blocks
from tests.support.served import serving

ALONE = ("README.md", "quick-start.md")
"""Pages whose reader has no server. The commands of all others use the model of one, which saves a second each."""

RUNNING = [page for page in all_pages() if "sh" in {block.language for block in blocks(page)}]


@pytest.fixture(scope="module")
def server():
    """A server of ``tiny``. Its home has this one model, which is then the default, and which draws nothing: once in
    many draws it would give no answer."""
    install_tiny()
    with serving("--model", "tiny") as there:
        (there.home / "models").unlink()
        tiny = there.home / "models" / "tiny"
        shutil.copytree(models_dir() / "tiny", tiny)
        generation = json.loads((tiny / "generation_config.json").read_text())
        (tiny / "generation_config.json").write_text(json.dumps(generation | {"do_sample": False}))
        yield there


def run(page: Path, folder: Path, home: Path, port: str) -> subprocess.CompletedProcess:
    """Run what a page tells to type. The last line of standard error names the line of the page that failed."""
    lines = ["set -euo pipefail", "trap 'echo failed: $BASH_COMMAND >&2' ERR"]
    for block in blocks(page):
        if block.language == "sh":
            lines += [f"echo {page.name}:{block.line} >&2", block.code]
    script = "\n".join(lines).replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GPTOSS_MAC", "HF_"))}
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "GPTOSS_MAC_HOME": str(home),
            "HF_HOME": str(folder.parent / "hub"),
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "100",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def fresh(path: Path) -> Path:
    folder = path / "here"
    folder.mkdir()
    return folder


@pytest.mark.skipif(not all(map(shutil.which, ("bash", "curl"))), reason="bash or curl is not installed")
@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.name)
def test_what_a_page_tells_to_type_works(page, tmp_path, request):
    if page.name in ALONE:
        done = run(page, fresh(tmp_path), tmp_path / "home", "1")
    else:
        server = request.getfixturevalue("server")
        done = run(page, fresh(tmp_path), server.home, server.url.rpartition(":")[2])
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("```sh\ntrue\n```\n\n```sh\ngptoss-mac nothing\n```", "page.md:6\n"),
        ("```sh\nfalse | true\n```", "page.md:2\n"),
    ],
)
def test_a_block_that_fails_is_noticed(code, said, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(code)
    done = run(page, fresh(tmp_path), tmp_path / "home", "1")
    assert done.returncode != 0
    assert said in done.stderr


def test_blocks_of_a_page_share_one_shell_and_its_folder(tmp_path):
    page = tmp_path / "page.md"
    one, two = "```sh\nx=5\ncd ..\nmkdir a\n```", "```sh\ncd a && test $x = 5\n```"
    page.write_text(f"{one}\n\n    false\n\n```text\nfalse\n```\n\n{two}")
    assert run(page, fresh(tmp_path), tmp_path / "home", "1").returncode == 0
