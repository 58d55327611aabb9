"""What one must read to know how ``gptoss-mac run`` comes to a token stays small enough to read in one go.

The path are the modules of PATH_ROOMS that a run has loaded when its answer is there. So a module counts as soon as a
run needs it, and what other commands import when they are asked for (a batch's rows, for one) does not. What these
rooms stand on has rooms of its own that a reader can take on trust: operations, files, plans of memory.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PATH_ROOMS = ("harmony", "engine", "model", "reply", "runtime")
MOST_LINES = 4_000
MOST_LINES_OF_A_FILE = 400
RUN = """
import sys
from gptoss_mlx.cli import main
sys.argv = [*"gptoss-mac run --model tiny --own-model --no-log --temperature 0".split(), "What is 3 + 4?"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(*(module.__file__ for name, module in sys.modules.items() if name.startswith("gptoss_mlx.")), sep="\\n")
"""


def lines(file: Path) -> int:
    return len(file.read_text().splitlines())


@pytest.fixture(scope="module")
def path():
    """Return the files of the path."""
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded = [Path(line).relative_to(ROOT / "gptoss_mlx") for line in done.stdout.splitlines() if line.endswith(".py")]
    return [ROOT / "gptoss_mlx" / file for file in loaded if file.parts[0].removesuffix(".py") in PATH_ROOMS]


def test_the_path_from_a_prompt_to_a_token_can_be_read_in_one_go(path):
    assert {file.name for file in path} > {
        "render.py",
        "parser.py",
        "stepping.py",
        "decoder.py",
        "reply.py",
        "runtime.py",
    }
    assert sum(map(lines, path)) <= MOST_LINES, "\n".join(f"{lines(file):5} {file}" for file in path)


@pytest.mark.parametrize("package", ["gptoss_mlx", "metal_kernels", "convert"])
def test_no_file_is_longer_than_one_subject_needs(package):
    long = {str(file): lines(file) for file in (ROOT / package).rglob("*.py") if lines(file) > MOST_LINES_OF_A_FILE}
    assert not long
