"""llama-bench is run once for each piece of work, and its own time is told."""

import json
import stat
import sys
from pathlib import Path

import pytest

from gptoss_mlx.bench.programs import Program, llama_bench
from gptoss_mlx.errors import PeerError

SCRIPT = """\
#!{python}
import json, sys
open({log!r}, "a").write(json.dumps(sys.argv[1:]) + "\\n")
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if words["-n"] == "666":
    print("llama_model_load: error loading model", file=sys.stderr)
    sys.exit(1)
print(json.dumps([{{"n_prompt": int(words["-p"]), "n_gen": int(words["-n"]), "samples_ns": [ 1500000000 ]}}]))
"""
"""Prints what llama-bench's ``json_printer`` prints (``tools/llama-bench/llama-bench.cpp``), with fewer fields."""


@pytest.fixture
def bench(tmp_path):
    script = tmp_path / "llama-bench"
    script.write_text(SCRIPT.format(python=sys.executable, log=str(tmp_path / "log")))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    program = Program(llama_bench("llama.cpp", str(script)), tmp_path / "model.gguf", most_rows=1, loads=False)
    with program.peer:
        program.load()
        yield program.peer


def runs(folder: Path):
    return [json.loads(line)[6:] for line in (folder / "log").read_text().splitlines()]


def test_a_prompt_is_timed_and_what_generation_follows_is_left_to_it(bench, tmp_path):
    assert bench.prefill([[1] * 512]) == 1.5
    assert bench.prefill([[1] * 2048], timed=False) == 0.0
    assert bench.generate(128) == 1.5
    bench.prefill([[1]], timed=False)
    bench.generate(128)
    assert runs(tmp_path) == [
        ["-o", "json", "-p", "512", "-n", "0"],
        ["-o", "json", "-p", "0", "-n", "128", "-d", "2048"],
        ["-o", "json", "-p", "0", "-n", "128", "-d", "0"],
    ]


def test_its_last_words_are_the_error(bench):
    with pytest.raises(PeerError, match=r"generate failed \(ValueError: exit code 1 \(llama_model_load: error"):
        bench.generate(666)


def test_several_sequences_are_refused(bench):
    with pytest.raises(PeerError, match="llama-bench decodes one sequence"):
        bench.prefill([[1], [2]])


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    program = Program(llama_bench("llama.cpp", "llama-bench"), tmp_path / "absent.gguf")
    with program.peer, pytest.raises(PeerError, match=r"absent\.gguf is no file"):
        program.load()
