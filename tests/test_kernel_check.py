"""The first load on a machine finds wrong shaders, and plain MLX does their work. Emulated."""

import json
import shutil
import warnings
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

import gptoss_mlx
from gptoss_mlx import kernel_check
from gptoss_mlx.home import verdicts_dir
from metal_kernels import comparison, dispatches, launch
from metal_kernels.comparison import PUBLISHED
from tests.support.checkpoints import SMALL
from tests.support.models import random_model

SIZES = SMALL | {"num_hidden_layers": 2}
WRONG = ("expert_gate_up.metal", "float gate = sums[2 * j] + ", "float gate = 0.01f + sums[2 * j] + ")


@pytest.fixture
def shaders(monkeypatch, tmp_path):
    """A function that changes a text in a copy of the shaders, which are then emulated. The home is empty."""
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(launch.VARIABLE, "emulated")
    folder = tmp_path / "shaders"
    folder.mkdir()
    for path in [*dispatches.FOLDER.glob("*.metal"), *dispatches.FOLDER.glob("*.h")]:
        shutil.copy(path, folder)
    monkeypatch.setattr(launch, "FOLDER", folder)
    launch.kernel_at.cache_clear()

    def change(file, old, new):
        text = (folder / file).read_text()
        assert text.count(old) == 1, text.count(old)
        (folder / file).write_text(text.replace(old, new))

    yield change
    launch.kernel_at.cache_clear()


@pytest.fixture
def compared(monkeypatch):
    """A list that gets an entry for each time that all shaders are compared."""
    times = []
    plain = comparison.compare

    def noted(run, shapes):
        times.append(shapes)
        return plain(run, shapes)

    monkeypatch.setattr(comparison, "compare", noted)
    return times


def loaded(path) -> tuple[np.ndarray, list[str]]:
    """Load a model again. Return logits of a few tokens and the warnings."""
    launch.kernel_at.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runtime = gptoss_mlx.load(path)
    return np.array(runtime.logits([[1, 2, 3]])), [str(w.message) for w in caught if w.category is RuntimeWarning]


def test_a_wrong_shader_is_replaced_and_named_once_and_the_verdict_is_kept(shaders, compared, tmp_path, monkeypatch):
    monkeypatch.setenv(launch.VARIABLE, "off")
    path = random_model(tmp_path, SIZES, seed=3, dense="q8").folder.path
    want, _ = loaded(path)
    assert not compared
    monkeypatch.setenv(launch.VARIABLE, "emulated")
    shaders(*WRONG)
    for _ in range(2):
        got, said = loaded(path)
        assert len(said) == 1
        assert "expert_gate_up (off by" in said[0]
        assert said[0].count("off by") == 1
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    assert len(compared) == 1
    (file,) = verdicts_dir().iterdir()
    assert list(json.loads(file.read_text())) == ["expert_gate_up"]
    file.write_text("{")
    shaders("expert_gate_up.metal", WRONG[2], WRONG[1])
    assert loaded(path)[1] == []
    assert len(compared) == 2
    assert len(list(verdicts_dir().iterdir())) == 2


def test_another_system_is_compared_anew(shaders, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(kernel_check, "judged", lambda place, shapes: seen.append(shapes) or {})
    path = random_model(tmp_path, SIZES, seed=3).folder.path
    assert len(seen) == 1
    loaded(path)
    assert len(seen) == 1
    monkeypatch.setattr(kernel_check, "_machine", lambda: ("another chip", "macOS 27.0", "mlx 0.32.2"))
    loaded(path)
    assert len(seen) == 2
    gptoss_mlx.load(path, dtype="bfloat16")
    assert [(shapes.q8, shapes.dtype) for shapes in seen] == 2 * [(False, mx.float32)] + [(False, mx.bfloat16)]


def test_a_shader_that_does_not_compile_is_named_with_its_reason(shaders):
    shaders("norm_router.metal", "float2 total = parts[0];", "float2 total = oops[0];")
    verdict = kernel_check.judged("emulated", replace(PUBLISHED[1], hidden=64, inter=64))
    assert list(verdict) == ["norm_router"]
    assert verdict["norm_router"].startswith("does not compile: norm_router.metal:")


@pytest.mark.parametrize("shapes", [*PUBLISHED, replace(PUBLISHED[1], experts=128)], ids=str)
def test_a_first_load_reads_at_most_300_mb_in_60_launches(shapes):
    launched = []

    def run(made):
        launched.append(made)
        return [mx.zeros(shape, dtype) for shape, dtype in zip(made.output_shapes, made.output_dtypes, strict=True)]

    assert not any(one.agrees for one in comparison.compare(run, shapes))
    assert {made.shader for made in launched} == {path.stem for path in dispatches.FOLDER.glob("*.metal")}
    assert len(launched) <= 60
    read = sum(array.nbytes for made in launched for array in made.inputs)
    print(f"{shapes}, {shapes.experts} experts: {len(launched)} launches read {read / 1e6:.0f} MB")
    assert read <= 300e6
