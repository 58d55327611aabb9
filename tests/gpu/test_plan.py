"""Plans: their kernels compile, their launches are the decoder's, and their arguments are in the kernels' order."""

import json
import re
from math import prod

import numpy as np
import pytest

from metal_kernels import dispatches
from metal_kernels.cuda import cubins, nvrtc
from metal_kernels.cuda.translation import translated
from metal_kernels.emulator.kernel import function_of
from metal_kernels.source import MetalSource
from tests.gpu import bench, dry, runner, scenes, tables
from tests.gpu.bundle import manifest
from tests.gpu.driver import value
from tests.gpu.plan import Plan
from tests.metal_kernels.shaders import registers


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan()


@pytest.fixture(scope="module")
def small(plan) -> dict[str, scenes.Scene]:
    return {scene["id"]: scene for scene in dry.small_scenes(plan, keys=(1024,))}


@pytest.fixture(scope="module")
def published() -> tuple[Plan, list[scenes.Scene]]:
    plan = Plan()
    every = list(scenes.scenes(plan, scenes.published()))
    scenes.step(plan, scenes.published(), 2, 1024)
    return plan, every


def test_every_goal_belongs_to_a_scene_that_is_timed(published):
    ids = [scene["id"] for scene in published[1]]
    assert len(ids) == len(set(ids)) == 2 * 12
    without = {id for id in ids if tables.ratio_goal(id) is None}
    assert without == {"norm_qkv_rope bf16/1", "output_residual bf16/1", "decode_attention, 8192 keys/1"}
    goals = {id: tables.share_goal(id) for id in ids if tables.share_goal(id)}
    assert sorted(goals.values()) == [0.5, 0.5, 0.6, 0.6, 0.7, 0.7, 0.9, 0.9]
    assert tables.ratio_goal("expert_gate_up/4") == 3.3
    assert tables.ratio_goal("decode_attention, 131072 keys/1") == 1.3
    assert tables.ratio_goal("norm_qkv_rope q8/1") == 1.8


def test_every_kernel_of_the_bench_compiles(published):
    try:
        cubins.nvrtc_here()
    except nvrtc.Absent as error:
        pytest.skip(str(error))
    made = [cubins.of_source(built.text, options=built.options) for built in published[0].kernels.values()]
    assert len(made) > 35
    assert all(one.cubin.startswith(b"\x7fELF") and one.local_bytes == 0 for one in made)


@pytest.mark.parametrize("q8", [True, False])
def test_a_step_is_what_the_decoder_launches(q8):
    step = scenes.step(Plan(), scenes.published(q8), 2, 1024)
    mine = {(line["shader"], line["cubin"]) for line in step["variants"]["ours"]}
    theirs = set()
    for made in registers.launched("q8" if q8 else "bf16"):
        source = MetalSource.read(dispatches.FOLDER / f"{made.shader}.metal")
        theirs.add(
            (made.shader, cubins.name(translated(function_of(source, dict(made.template)), prod(made.threadgroup))))
        )
    assert len(mine) == 9  # decode_attention over a window and over all keys, neither of them split, and no norm_head
    assert mine <= theirs


@pytest.mark.parametrize("id", ["output_residual q8/1", "decode_attention, window of 128/1"])
def test_ours_and_mlx_s_kernels_compute_their_definitions(id, plan, small):
    """`make gpu-dry-run` does it for all."""
    gpu = dry.DryGpu(plan)
    lines = bench.measured(gpu, dry.NOWHERE, small[id], plan.tools)
    assert [line["variant"] for line in lines] == ["ours", "mlx"]
    assert all(line["right"] and line["errors"] for line in lines)
    assert len(gpu.launched) > 2 * small[id]["turns"]


def test_exchanged_arguments_are_noticed(plan, small):
    scene = json.loads(json.dumps(small["output_residual q8/1"]))
    arguments = scene["variants"]["ours"][0]["arguments"]
    scales, offsets = (arguments.index({"array": f"matrix.{part}"}) for part in ("scales", "offsets"))
    arguments[scales], arguments[offsets] = arguments[offsets], arguments[scales]
    right, stock = bench.measured(dry.DryGpu(plan), dry.NOWHERE, scene, plan.tools)
    assert not right["right"]
    assert stock["right"]


def test_a_report_tells_each_scene_and_one_that_fails(plan, small, tmp_path, monkeypatch):
    scene = small["output_residual q8/1"]
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan/scenes.json").write_text(
        json.dumps([scene, scene | {"id": "broken", "variants": {"ours": [{}]}}])
    )
    (tmp_path / "plan/tools.json").write_text(json.dumps(plan.tools))
    manifest(tmp_path, "sm_90")
    monkeypatch.setattr(runner, "Gpu", lambda: dry.DryGpu(plan))
    found = runner.run_all("report", tmp_path, tmp_path / "out", only="scenes")
    text = tables.table("report", json.loads((tmp_path / "out/gpu-report.json").read_text()))
    assert re.search(r"\| output_residual q8/1 \| 1.0 \| 1.0 \| 1.00 \(1.8\) \| \d+% \(0.5\) \| 0, 0 \| yes \|", text)
    assert "| broken | FAILED: 'arguments' |" in text
    assert "Ratios: 0 of 1 goals hold, the lowest is 0.56 of its goal." in text
    assert not tables.passed("report", found)


def test_values_are_passed_as_the_kernels_declare_them():
    assert value("int", -2) == np.int32(-2).tobytes()
    assert value("size_t", 3) == np.uint64(3).tobytes()
    assert value("int64_t", [5, 1]) == np.array([5, 1, 0, 0, 0, 0, 0, 0], np.int64).tobytes()
    assert value("float", 0.5) == np.float32(0.5).tobytes()
