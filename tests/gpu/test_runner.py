"""The runner: refusals, what a cut-off run keeps, tables and goals; the bundle's library cut to one architecture."""

import ctypes
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu import dry, fat_binary, on_mlx, runner, tables
from tests.gpu.bundle import manifest
from tests.gpu.driver import NEEDED, Gpu, NoGpu
from tests.gpu.plan import Plan

ROOT = Path(__file__).resolve().parents[2]


def test_without_a_driver_it_is_refused_in_a_line():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(NoGpu, match="no NVIDIA driver"):
        Gpu()
    for module in ("tests.gpu.driver", "tests.gpu.runner"):
        code = f"import runpy, sys; sys.argv[1:] = ['test']; runpy.run_module({module!r}, run_name='__main__')"
        if module.endswith("runner"):
            code = "import sys; sys.argv[1:] = ['test']; from tests.gpu.runner import main; main()"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.splitlines() == [f"not run: this machine has no NVIDIA driver (libcuda.so.1). {NEEDED}"]


def test_what_runs_on_the_card_imports_numpy_alone():
    """So a machine needs no MLX for the parts that need none."""
    ours = {"mlx", "gptoss_mlx", "metal_kernels", "convert", "pytest"}
    code = (
        "import sys; import tests.gpu.runner, tests.gpu.replay; "
        f"print(*({{name.split('.')[0] for name in sys.modules}} & {ours}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A bundle's folder with nothing in it but what every run reads, on a stand-in for a card."""
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan/tools.json").write_text("{}")
    manifest(tmp_path, "sm_90")
    monkeypatch.setattr(runner, "Gpu", lambda: dry.DryGpu(Plan()))
    return tmp_path


def test_a_damaged_bundle_and_one_for_another_card_are_refused(bundle):
    (bundle / "plan/tools.json").write_text("{} ")
    with pytest.raises(SystemExit, match=r"1 files of this bundle are missing or damaged, such as plan/tools.json"):
        runner.run_all("test", bundle, bundle / "out")
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"architecture": "sm_80", "files": {}}))
    with pytest.raises(SystemExit, match="for sm_80, and none: emulated is sm_90: make one with `make gpu-bundle ARCH"):
        runner.run_all("test", bundle, bundle / "out")


def test_a_manifest_names_every_file_and_each_is_looked_at(bundle):
    (bundle / "run.py").write_text("print()")
    manifest(bundle, "sm_90")
    listed = json.loads((bundle / "manifest.json").read_text())
    assert set(listed["files"]) == {"plan/tools.json", "run.py"}
    assert runner.run_all("test", bundle, bundle / "out", only="none")["machine"]["architecture"] == "sm_90"
    (bundle / "run.py").unlink()
    with pytest.raises(SystemExit, match=r"such as run\.py"):
        runner.run_all("test", bundle, bundle / "out")


def test_a_part_that_fails_leaves_the_others_and_is_told(bundle, monkeypatch):
    def wrong(*_):
        raise ValueError("no such scene")

    line = {"what": "norm_router", "differences": {"normed": 0.0}, "right": True, "same_bits": True}
    parts = (runner.Part("scenes", wrong, 1), runner.Part("replay", lambda *_: [line], 1))
    monkeypatch.setattr(runner, "PARTS", {"test": parts})
    found = runner.run_all("test", bundle, bundle / "out")
    assert found["scenes"] == "failed: ValueError: no such scene"
    assert json.loads((bundle / "out/gpu-test.json").read_text()) == found
    text = tables.table("test", found)
    assert "failed: ValueError: no such scene" in text
    assert "1 dispatches replayed, 0 differ from the emulator" in text
    assert not tables.passed("test", found)
    assert tables.passed("test", {name: part for name, part in found.items() if name != "scenes"})


def test_a_part_without_mlx_s_libraries_is_not_run_and_one_that_fails_says_why(bundle):
    """As on a machine without cuBLAS."""
    (bundle / "tests").symlink_to(ROOT / "tests")
    (bundle / "mlx").mkdir()
    (bundle / "mlx/core.py").write_text("raise ImportError('libcublasLt.so.13: cannot open shared object file')")
    (bundle / "out").mkdir()
    run = runner.Run(bundle, bundle / "out")
    found = run.on_mlx(60, "large")
    assert found.startswith(
        "not run: ImportError: libcublasLt.so.13: cannot open shared object file. PyTorch's packages"
    )
    assert tables.passed("report", {"large": found})
    (bundle / "mlx/core.py").write_text("raise RuntimeError('the card is lost')")
    found = run.on_mlx(60, "large")
    assert found == {"failed": "RuntimeError: the card is lost"}
    assert not tables.passed("report", {"large": found})


def test_nvidia_s_libraries_are_found_where_packages_bring_them(tmp_path, monkeypatch):
    for folder in ("cublas/lib", "cu13/lib", "cu13/include"):
        (tmp_path / "nvidia" / folder).mkdir(parents=True)
    (tmp_path / "nvidia/cu13/include/cuda.h").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/before")
    found = runner.mlx_environment()
    libraries = [str(tmp_path / "nvidia" / name / "lib") for name in ("cu13", "cublas")]
    assert found["LD_LIBRARY_PATH"].split(os.pathsep) == [*libraries, "/before", "/usr/local/cuda/lib64"]
    assert found["CUDA_HOME"] == str(tmp_path / "nvidia/cu13")
    assert found["GPTOSS_MAC_KERNELS"] == "cuda"


def timed(scene: str, ours: float, mlx: float) -> list[dict]:
    shared = {"scene": scene, "bytes": 16, "registers": 64, "local_bytes": 0, "right": True}
    return [shared | {"variant": "ours", "us": ours}, shared | {"variant": "mlx", "us": mlx}]


def test_the_goals_are_four_fifths_of_the_ratios_and_none_far_below():
    reads = {"empty": 1.0, "reads": {"16": 9.5}}

    def passed(*lines):
        return tables.passed("report", {"scenes": {"lines": [one for line in lines for one in line], **reads}})

    good = [timed(f"norm_head {form}/{rows}", 10, 11) for form in ("q8", "bf16") for rows in (1, 4)]
    assert passed(*good)
    assert passed(*good, timed("decode_attention, 1024 keys/1", 10, 8.5))
    assert not passed(*good, timed("decode_attention, 1024 keys/1", 10, 7.5)), "below 0.8 of its goal"
    assert not passed(timed("decode_attention, 1024 keys/1", 10, 9)), "too few hold"
    assert not passed(*good, timed("expert_gate_up/1", 20, 80)), "too small a part of a plain read"


def test_a_model_drawn_at_random_decodes(monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_KERNELS", "off")
    config = on_mlx.model_config(2, 8, hidden_size=64, intermediate_size=64, num_attention_heads=8, vocab_size=128)
    found = on_mlx.large(config, "q8", 3)
    assert (found["tokens"], found["finite"]) == (3, True)
    assert found["bytes"] > 100_000


def test_a_step_is_timed_where_mlx_lm_cannot_be(monkeypatch):
    def absent(*_):
        raise ImportError("no mlx-lm here")

    monkeypatch.setenv("GPTOSS_MAC_KERNELS", "off")
    monkeypatch.setattr(on_mlx, "mlx_lm_model", absent)
    config = on_mlx.model_config(2, 8, hidden_size=64, intermediate_size=64, num_attention_heads=8, vocab_size=128)
    lines = list(on_mlx.steps(config, "bf16", (100, 300), (2,), groups=1, steps=1))
    assert [(line["positions"], line["batch"]) for line in lines] == [(100, 2), (300, 2)]
    assert all(line["ours_ms"] >= line["ours_host_ms"] > 0 for line in lines)
    assert {line["mlx_lm_error"] for line in lines} == {"no mlx-lm here"}


def test_the_table_names_what_mlx_adds_to_a_step():
    graph = {"step": "24 layers, q8, 1024 keys", "launches": 146, "bytes": 26 * 10**8, "us": 1500.0}
    graph |= {"read_us": 820.0, "share": 0.55}
    row = {"dense": "q8", "positions": 1024, "batch": 1, "ours_ms": 4.0, "ours_host_ms": 3.5, "mlx_lm_error": "none"}
    found = {"machine": dry.DryGpu(Plan()).about, "seconds": {}, "graph_steps": [graph]}
    found["steps_q8"] = {"mlx": "mlx 0.32.4, CUDA", "device": "gpu", "shaders": "cuda", "found": [row]}
    text = tables.table("report", found)
    assert "4.00 ms through MLX, 1.50 as one graph: 2.50 ms more; the host is busy for 3.50" in text
    assert "| q8 | 1024 | 1 | 4.00 (3.50) | none |  |  |" in text
    assert tables.passed("report", found)
    assert not tables.passed("report", found | {"graph_steps": [graph | {"share": 0.44}]})


def elf(section: bytes) -> bytearray:
    """A 64-bit ELF file with one section .nv_fatbin, and the names of sections."""
    names = b"\0.nv_fatbin\0.names\0"
    data = 0x40
    table = data + len(section) + len(names)
    header = b"\x7fELF\x02" + bytes(0x40 - 5)
    whole = bytearray(header + section + names)
    struct.pack_into("<Q", whole, 0x28, table)
    struct.pack_into("<HHH", whole, 0x3A, 64, 2, 1)
    for name, at, size in ((1, data, len(section)), (12, data + len(section), len(names))):
        whole += struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, at, size, 0, 0, 0, 0)
    return whole


def fat(*entries: tuple[int, int, bytes]) -> bytes:
    packed = b"".join(
        struct.pack("<HHIQ", kind, 0, 32, len(code)) + bytes(12) + struct.pack("<I", of) + code
        for kind, of, code in entries
    )
    return struct.pack("<IHHQ", fat_binary.MAGIC, 1, 16, len(packed)) + packed


def test_a_library_keeps_the_code_of_one_architecture_in_its_place():
    section = fat((2, 80, b"a" * 8), (2, 90, b"b" * 16)) + bytes(8) + fat((1, 90, b"p" * 8), (2, 90, b"c" * 8))
    library = elf(section)
    before = bytes(library)
    assert [(each.kind, each.architecture) for each in fat_binary.entries(library)] == [
        (2, 80),
        (2, 90),
        (1, 90),
        (2, 90),
    ]
    assert fat_binary.cut(library, 90) == 90
    assert bytes(library) == before.replace(b"a" * 8, bytes(8)).replace(b"p" * 8, bytes(8))


def test_a_card_without_code_of_its_own_keeps_that_of_its_generation():
    library = elf(fat((2, 75, b"a" * 8), (2, 80, b"b" * 8), (2, 90, b"c" * 8)))
    assert fat_binary.cut(library, 89) == 80
    assert b"b" * 8 in library
    assert b"a" * 8 not in library


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        (bytearray(b"MZ" + bytes(100)), "not a 64-bit ELF"),
        (elf(fat((2, 80, b"a" * 8))), r"no code for sm_90; there is code for \[80\]"),
        (elf(fat((2, 90, b"a" * 8))[:-4]), "reaches past its section"),
    ],
)
def test_a_library_without_that_code_is_refused(library, reason):
    with pytest.raises(fat_binary.NotFat, match=reason):
        fat_binary.cut(library, 90)
