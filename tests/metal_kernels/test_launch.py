"""Which body runs where; that all give the model the same; that MLX gets the source that the emulator ran."""

import re
import shutil
import warnings
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

import gptoss_mlx
from convert import convert
from gptoss_mlx import bundled
from gptoss_mlx import runtime as gptoss_runtime
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import UsageError
from gptoss_mlx.model.moe import mix
from gptoss_mlx.model.weights import LayerWeights
from metal_kernels import comparison, dispatches, launch
from metal_kernels.dispatches import FEW_ROWS
from metal_kernels.emulator import ToolchainError, toolchain
from metal_kernels.emulator.kernel import function_of
from metal_kernels.launch import Kernel
from metal_kernels.operands import Dense
from metal_kernels.source import MetalSource
from tests.metal_kernels.shaders import decode_attention
from tests.metal_kernels.shaders.common import run
from tests.metal_kernels.shaders.experts import Case, dispatch
from tests.model.test_logits import GOLDENS
from tests.oracle.cases import GOLDEN_CASES, sampled_rows
from tests.support.checkpoints import TWO_LAYERS_OF_20B, write_checkpoint
from tests.support.cli import run_cli
from tests.support.measure import relative_l2, run_in_chunks
from tests.support.models import random_model

OPERATIONS = ("norm_router", "expert_gate_up", "expert_down_residual")
AROUND = ("grouped_swiglu", "grouped_sum")
LAYER = ("norm_qkv_rope", "decode_attention", "output_residual", *OPERATIONS)


@pytest.fixture(autouse=True)
def fresh_kernels():
    launch.kernel_at.cache_clear()
    yield
    launch.kernel_at.cache_clear()


@pytest.fixture
def emulated(monkeypatch):
    """Run shaders in the emulator, and list the name of each one that has run."""
    monkeypatch.setenv(launch.VARIABLE, "emulated")
    monkeypatch.setattr(gptoss_runtime, "replace_wrong_shaders", lambda decoder: None)  # it has tests of its own
    ran = []
    plain = Kernel.launch

    def launched(self, made):
        ran.append(self.source.name)
        return plain(self, made)

    monkeypatch.setattr(Kernel, "launch", launched)
    return ran


def layer_of(case: Case) -> tuple[mx.array, LayerWeights, ModelConfig]:
    a = case.arrays
    config = ModelConfig(
        num_hidden_layers=1,
        num_local_experts=case.experts,
        hidden_size=case.hidden,
        intermediate_size=case.inter,
        num_experts_per_tok=case.k,
    )
    none = mx.zeros((1,))
    dense = Dense(mx.zeros((1, 1)))
    router = Dense(a.router.weight.astype(mx.float32), a.router.bias.astype(mx.float32))
    weights = LayerWeights(none, dense, none, dense, a.norm, router, a.slots, a.gate_up, a.down)
    return a.x, weights, config


def mixed(case: Case) -> np.ndarray:
    return np.array(mix(*layer_of(case)))


@pytest.mark.parametrize(("case", "length", "chunk"), [(GOLDEN_CASES[0], 8, 1), (GOLDEN_CASES[1], 129, 7)])
def test_the_model_on_emulated_shaders_agrees_with_transformers(case, length, chunk, tmp_path, emulated):
    convert(write_checkpoint(tmp_path / "source", case.sizes, seed=case.seed), tmp_path / "model", dense="bf16")
    runtime = gptoss_mlx.load(tmp_path / "model", dtype="float32")
    with np.load(GOLDENS / f"logits-{case.name}.npz") as golden:
        want = golden[str(length)]
    got = run_in_chunks(runtime, case.tokens(length), chunk, sampled_rows(length))
    assert relative_l2(got, want) <= 1e-5
    steps = -(-length // chunk)
    layers = case.sizes["num_hidden_layers"]
    assert [name for name in emulated if name != "norm_head"] == list(LAYER) * (steps * layers)
    assert 0 < emulated.count("norm_head") <= steps


def test_the_bundled_model_gives_the_same_greedy_reply_on_emulated_shaders(monkeypatch, tmp_path, emulated):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path))
    asked = ("run", "--model", "tiny", "--temperature", 0, "--show-thinking", "What is 12 + 30?")
    shaders = run_cli(*asked)
    assert shaders[:2] == (0, "12 + 30 = 42.\n")
    step = [*LAYER * 4, "norm_head_argmax", "norm_head_argmax_combine"]
    ran = len(emulated)
    prompt = emulated.index(step[0])  # too many rows for more than what is around the experts' products, and the head
    around = [name for name in emulated[:prompt] if name != "norm_head"]
    assert around == [*AROUND * 4] * (len(around) // 8)
    assert emulated[prompt:] == step * ((ran - prompt) // len(step))
    monkeypatch.setenv(launch.VARIABLE, "off")
    assert run_cli(*asked) == shaders
    assert len(emulated) == ran > 100


def test_bfloat16_logits_of_the_bundled_model_are_nearer_to_float32_than_transformers_own(tmp_path, emulated):
    """On the same weights. Tokens are read as decode steps, because prompts go to plain MLX."""
    convert(bundled.checkpoint(), tmp_path / "model", dense="bf16")
    runtime = gptoss_mlx.load(tmp_path / "model", dtype="bfloat16")
    with np.load(GOLDENS / "bf16-tiny.npz") as golden:
        rows = golden["rows"][golden["rows"] < 16]
        exact, theirs = (golden[dtype][: len(rows)] for dtype in ("float32", "bfloat16"))
        tokens = golden["tokens"].tolist()[:16]
    ours = run_in_chunks(runtime, tokens, FEW_ROWS, rows)
    assert set(emulated) == {*LAYER, "norm_head"}
    assert 1e-4 < relative_l2(ours, exact) < relative_l2(theirs, exact) / 4


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_both_bodies_agree_in_a_layer(dtype, monkeypatch, emulated):
    case = Case(4, 96, 64, 32, biases=dtype)
    monkeypatch.setenv(launch.VARIABLE, "off")
    plain = mixed(case)
    assert not emulated
    monkeypatch.setenv(launch.VARIABLE, "emulated")
    shaders = mixed(case)
    assert emulated == list(OPERATIONS)
    # MLX's CPU backend adds up in the dtype of the biases, so only float32 is a fair reference.
    assert np.abs(shaders - plain).max() <= (1e-5 if dtype == mx.float32 else 2e-2) * np.abs(plain).max()


@pytest.mark.slow
def test_a_sliding_and_a_full_layer_of_20b_agree(monkeypatch, tmp_path, emulated):
    """The whole step from token to logits, after a prompt that fills the window and splits the keys."""
    monkeypatch.setenv(launch.VARIABLE, "off")
    runtime = random_model(tmp_path, TWO_LAYERS_OF_20B | {"vocab_size": 2048}, seed=8, dense="q8")
    tokens = np.random.default_rng(0).integers(0, 2048, 303).tolist()

    def last_three():
        context = runtime.context()
        context.read(tokens[:300])
        return np.concatenate([np.array(context.read(tokens[:end])) for end in (301, 302, 303)])

    plain = last_three()
    assert not emulated
    monkeypatch.setenv(launch.VARIABLE, "emulated")
    error = relative_l2(last_three(), plain)
    print(f"two layers of 20b, q8 beside float32: logits by shaders (emulated) and by plain MLX {error:.1e} apart")
    prompt = ["grouped_swiglu", "grouped_sum"] * 2
    assert [name for name in emulated if name != "norm_head"] == [*prompt, *[*LAYER, *LAYER] * 3]
    assert error <= 1e-5


def test_products_of_many_rows_and_odd_shapes_go_to_plain_mlx(emulated):
    mixed(Case(9, 64, 64, 8, biases=mx.float32))
    assert emulated == list(AROUND)
    mixed(Case(2, 64, 64, 6, biases=mx.float32))  # six slots would come in constant memory
    assert emulated == list(AROUND)


def test_without_metal_the_native_library_runs_and_plain_mlx_where_there_is_none(monkeypatch):
    monkeypatch.delenv(launch.VARIABLE, raising=False)
    best = "metal" if mx.metal.is_available() else "cpu"
    monkeypatch.setattr(launch, "library", object)
    assert launch.where() == best
    monkeypatch.setenv(launch.VARIABLE, "off")
    assert launch.where() is None
    monkeypatch.delenv(launch.VARIABLE)
    monkeypatch.setattr(launch, "library", lambda: None)
    assert launch.where() == ("metal" if mx.metal.is_available() else None)


def test_an_unknown_setting_is_refused_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv(launch.VARIABLE, "fast")
    with pytest.raises(ValueError, match="use off, emulated or cuda"):
        launch.where()
    code, _, err = run_cli("doctor")
    assert code == UsageError.exit_code
    assert err == "gptoss-mac: GPTOSS_MAC_KERNELS is 'fast'; use off, emulated or cuda, or leave it unset\n"


def test_emulation_without_a_compiler_is_refused_before_anything_is_loaded(monkeypatch, emulated):
    def none():
        raise ToolchainError("no usable clang: `pip install ziglang`, or install clang 16 or newer")

    monkeypatch.setattr(toolchain, "find", none)
    with pytest.raises(ValueError, match="pip install ziglang"):
        launch.check()


def test_a_shader_that_does_not_compile_falls_back_with_one_warning(monkeypatch, tmp_path, emulated):
    case = Case(2, 64, 64, 8, biases=mx.float32)
    for path in [*dispatches.FOLDER.glob("*.metal"), *dispatches.FOLDER.glob("*.h")]:
        shutil.copy(path, tmp_path)
    broken = tmp_path / "expert_down_residual.metal"
    before, found, after = broken.read_text().partition("float sum = 0;")
    broken.write_text(f"{before}{found[:-1]} oops;{after}")
    monkeypatch.setattr(launch, "FOLDER", tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = [mixed(case), mixed(case)]
    assert [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)] == [
        "the shader expert_down_residual does not compile here, plain MLX does its work: "
        f"expert_down_residual.metal:{before.count(chr(10)) + 1}: lint: expected ';' at end of declaration"
    ]
    assert emulated == [*OPERATIONS, "norm_router", "expert_gate_up"]
    monkeypatch.setenv(launch.VARIABLE, "off")
    for out in got:
        np.testing.assert_allclose(out, mixed(case), rtol=0, atol=1e-5 * np.abs(out).max())


def test_other_failures_are_not_taken_for_a_compiler_s(monkeypatch, emulated):
    def full(self, made):
        raise RuntimeError("[metal::malloc] Attempting to allocate too much")

    monkeypatch.setattr(Kernel, "launch", full)
    with pytest.raises(RuntimeError, match="allocate"):
        mixed(Case(1, 64, 64, 8, biases=mx.float32))


LAUNCHES = [
    *(dispatch(operation, Case(3, 64, 64, 8), mx.float16) for operation in OPERATIONS),
    decode_attention.dispatch(decode_attention.Case(5, 0, 1)),
    dispatches.decode_attention_combine(mx.zeros((1, 8, 2, 68)), mx.zeros((8,)), mx.float16),
]


@pytest.mark.parametrize("made", LAUNCHES, ids=lambda made: made.shader)
def test_mlx_generates_from_our_call_the_function_that_is_emulated(made, tmp_path):
    """Tracing for export runs MLX's own code for ``metal_kernel`` without Metal, and keeps the source it made."""
    source = MetalSource.read(dispatches.FOLDER / f"{made.shader}.metal")
    file = tmp_path / "traced.mlxfn"
    mx.export_function(
        str(file), lambda *inputs: Kernel(source, "metal").launch(made._replace(inputs=inputs)), *made.inputs
    )
    text = file.read_bytes().decode(errors="replace")
    generated = text[text.index("#line 1") : text.index("\ntemplate [[host_name(")]
    emulated = function_of(source, dict(made.template)).source
    numbering = re.compile(r'#line 1 "\w+ \(.*\n')
    suffix = re.compile(r"(custom_kernel_[a-z_]+?)(__\w+)?\(")
    plain = [" ".join(suffix.sub(r"\1(", numbering.sub("", part)).split()) for part in (generated, emulated)]
    assert plain[0] == plain[1]


COMPARED = (9 + 5 + 4 + 1, 9 + 5 + 7 + 1, 9 + 5 + 7 + 1)
"""In each of the published shapes: the experts' operations with one row and three and past half and around grouped
products, attention, the dense products, of which a float32 matrix is read once, and the codes."""


@pytest.fixture
def narrow(monkeypatch):
    """Let doctor compare narrow layers."""
    shapes = [replace(each, hidden=64, inter=64) for each in comparison.PUBLISHED]
    monkeypatch.setattr(comparison, "PUBLISHED", shapes)
    return shapes


def test_doctor_compares_the_bodies_and_says_where(monkeypatch, narrow):
    monkeypatch.delenv(launch.VARIABLE, raising=False)
    code, out, err = run_cli("doctor", "--kernels")
    assert (code, err) == (0, "")
    where = "metal" if mx.metal.is_available() else "emulated"
    assert f"shaders ({where}) beside plain MLX" in out
    assert out.count(": agrees") == sum(COMPARED)
    assert "fp4 codes" in out


def test_doctor_finds_a_wrong_shader(monkeypatch, narrow):
    monkeypatch.setattr(comparison, "PUBLISHED", narrow[:1])
    right = launch.run

    def wrong(made, place):
        out = right(made, place)
        return [out[0] * 1.01] if made.shader == "expert_down_residual" else out

    monkeypatch.setattr(launch, "run", wrong)
    code, out, err = run_cli("doctor", "--kernels")
    assert code == 9
    assert out.count("DISAGREES") == 2 + 1  # one row and three; the codes pass through the shader, too
    assert "expert_down_residual 1x64 float32" in err
    assert "GPTOSS_MAC_KERNELS=off" in err


def test_the_code_check_finds_a_machine_that_flushes_subnormal_halves():
    kept = comparison.fp4_codes(lambda made: run(made, mode="fast")[0])
    lost = comparison.fp4_codes(lambda made: run(made, mode="fast", flush_subnormals=True)[0])
    assert kept.agrees
    assert lost.what == "fp4 codes, wrong: 1, 9"
    assert not lost.agrees
