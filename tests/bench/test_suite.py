"""Which tests fit, and what is recorded of the machine and the model."""

import pytest

from gptoss_mlx.bench import suite as module
from gptoss_mlx.bench.measuring import Effort
from gptoss_mlx.bench.suite import OWN, QUICKLY, Wanted, beside_llama_cpp, beside_mlx_lm, never_together, own_program
from gptoss_mlx.errors import UsageError
from gptoss_mlx.model_folder import ModelFolder
from tests.support.checkpoints import SMALL
from tests.support.models import random_model

SIZES = SMALL | {"max_position_embeddings": 4096}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> ModelFolder:
    return random_model(tmp_path_factory.mktemp("suite") / "small", SIZES).folder


def labels(found):
    return [work.label for work in found.works]


def test_prompts_depths_and_several_sequences_are_tested_as_far_as_the_context_holds_them(folder):
    found = module.suite(folder, Wanted(), None)
    assert labels(found) == ["pp128", "pp512", "pp2048", "tg128", "tg128@d2048", "tg128 B4", "tg128 B16"]
    assert [each.label for each in found.left_out] == ["pp8192", "tg128@d8192"]
    assert found.left_out[0].reason == "it takes 8,192 positions, and the context holds 4,096"
    assert labels(module.suite(folder, QUICKLY, None)) == ["pp512", "tg128", "tg128 B4"]


def test_sequences_whose_caches_do_not_fit_are_left_out(folder):
    plenty = module.suite(folder, Wanted(), None).plan
    little = module.plan_here(folder.config, folder.dense, memory=plenty.loading + 40_000_000)
    wanted = Wanted(prompts=(), depths=(), rows=(1, 4, 5000))
    found = module.suite(folder, wanted, little.budget)
    assert labels(found) == ["tg128 B4"]
    (left,) = found.left_out
    assert left.label == "tg128 B5000"
    assert "its caches take" in left.reason


def test_the_record_has_no_path_and_knows_the_model(folder):
    programs = {OWN: own_program(folder, None)[1]}
    record = module.report_of(folder, module.suite(folder, QUICKLY, None).plan, programs, Effort()).as_json()
    assert record["model"]["name"] == folder.path.name
    assert record["model"]["layers"] == SIZES["num_hidden_layers"]
    assert record["machine"]["memory_speed"] is None or record["machine"]["memory_speed"] > 1e8
    assert str(folder.path.parent) not in str(record)
    assert {"gptoss-mac", "Python", "mlx"} <= set(record["versions"])


def test_two_programs_are_in_memory_together_only_if_it_holds_both(folder, monkeypatch):
    ours, _ = own_program(folder, None)
    size = sum(file.stat().st_size for file in folder.path.iterdir())
    for free, apart in ((3 * size, False), (size * 3 // 2, True)):
        monkeypatch.setattr(module, "spendable_bytes", lambda free=free: free)
        assert never_together([ours, ours]) is apart
    assert not never_together([ours])


def test_what_another_program_lacks_is_named(tmp_path, monkeypatch):
    (tmp_path / "m.gguf").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="install llama"):
        beside_llama_cpp(tmp_path / "m.gguf", None)
    with pytest.raises(UsageError, match="no file"):
        beside_llama_cpp(tmp_path / "absent.gguf", None)
    bench = tmp_path / "llama-bench"
    bench.touch(mode=0o755)
    program, how = beside_llama_cpp(tmp_path / "m.gguf", None)
    assert (program.most_rows, program.loads) == (1, False)
    assert how.startswith("llama-bench, m.gguf")
    assert beside_llama_cpp(tmp_path / "m.gguf", "python3")[0].most_rows is None
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"gptoss-mac\[compare\]"):
        beside_mlx_lm(tmp_path)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: True)
    with pytest.raises(UsageError, match="no checkpoint"):
        beside_mlx_lm(tmp_path)
