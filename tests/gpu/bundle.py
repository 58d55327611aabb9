"""Puts what the GPU machine needs into one folder: cubins, records, this package, the runtime and MLX's CUDA backend.

Run as ``python -m tests.gpu.bundle FOLDER [sm_90]``, on Linux, without a GPU. MLX's library is cut to one
architecture; whole it would be larger than all the rest. What MLX needs of NVIDIA's libraries (cuBLAS, cuDNN and
others, gigabytes) is not there: the parts that use MLX run where PyTorch or the nvidia-* packages bring them. All else
needs the driver, Python and numpy.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from math import prod
from pathlib import Path
from unittest.mock import patch

import mlx.core as mx
import numpy as np
import pytest

from convert import convert
from gptoss_mlx import runtime
from gptoss_mlx.bundled import checkpoint
from gptoss_mlx.kernel_check import shapes_of
from metal_kernels import comparison, dispatches, launch
from metal_kernels.cuda import cubins, nvrtc
from metal_kernels.cuda.translation import translated
from metal_kernels.dispatches import Dispatch
from metal_kernels.emulator.kernel import function_of
from metal_kernels.source import MetalSource
from tests.gpu import fat_binary, recording, scenes
from tests.gpu.plan import Plan
from tests.gpu.runner import MANIFEST
from tests.metal_kernels.shaders import registers
from tests.support import decode_graph

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 60_000_000
"""Of the compressed folder."""
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
"""Whose extension module of MLX is brought along."""
PLATFORM = "manylinux_2_35_x86_64"
LAYERS = 24
STEP_KEYS = 1024
PACKAGES = ("metal_kernels", "gptoss_mlx", "tests/gpu")
"""Folders that go whole, apart from what IGNORED names."""
IGNORED = ("__pycache__", "*.xz", "checkpoint")
SINGLE = (
    "tests/__init__.py",
    "tests/support/__init__.py",
    "tests/support/decode_graph.py",
    "tests/data/tiny_replies.json",
)
LICENSES = ("LICENSE",)
MLX_LM = ("activations", "base", "cache", "gpt_oss", "rope_utils", "switch_layers")
"""mlx-lm's modules of gpt-oss, which need MLX alone."""


def write(folder: Path, architecture: str = nvrtc.ARCHITECTURE) -> Path:
    """Write the folder and, beside it, its archive. Return the archive. A run that is stopped leaves neither.

    Raises nvrtc.Absent, fat_binary.NotFat, and RuntimeError if a wheel cannot be fetched or the archive is too large.
    """
    cubins.nvrtc_here()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="bundle-") as scratch:
        work = Path(scratch) / folder.name
        print("records")
        _records(work / "plan", architecture)
        print("the runtime and the bundled model")
        _sources(work)
        _model(work / "tiny")
        print("cubins of the shaders that models launch")
        _packaged(work, architecture)
        print("MLX's CUDA backend")
        _mlx(work, int(architecture.removeprefix("sm_")))
        (work / "run.py").write_text(RUN)
        manifest(work, architecture)
        print("the archive")
        archive = work.with_name(folder.name + ".tar.xz")
        with tarfile.open(archive, "w:xz", preset=6) as packed:
            packed.add(work, folder.name)
        if archive.stat().st_size > MOST_BYTES:
            raise RuntimeError(f"{archive.name} has {archive.stat().st_size} bytes; at most {MOST_BYTES} may travel")
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
        return archive.replace(folder.with_name(archive.name))


RUN = '''"""Judge (`python run.py test`) or time (`... report`) gptoss-mac's shaders on this machine's NVIDIA GPU."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from tests.gpu.runner import main

main()
'''


def _records(folder: Path, architecture: str) -> None:
    """Write the records of ``replay`` and ``bench``, and the cubins that they name."""
    plan = Plan(architecture)
    kept: dict[str, np.ndarray] = {}
    written = {
        "replay": list(recording.recorded(plan, kept)),
        "scenes": list(scenes.scenes(plan, scenes.published())),
        "steps": [scenes.step(plan, scenes.published(q8), LAYERS, STEP_KEYS) for q8 in (True, False)],
    }
    plan.write(folder)
    for name, records in written.items():
        (folder / f"{name}.json").write_text(json.dumps(records))
    (folder / "tools.json").write_text(json.dumps(plan.tools))
    np.savez_compressed(folder / "replay.npz", **kept)  # type: ignore[arg-type]


def _packaged(folder: Path, architecture: str) -> None:
    """Write the cubin of every shader and template that the published models or the bundled one may launch."""
    packaged = folder / cubins.PACKAGED.relative_to(ROOT)
    packaged.mkdir(parents=True)
    for source, template, threads in templates(folder / "tiny"):
        text = translated(function_of(source, template), threads)
        cubins.write(cubins.of_source(text, architecture), packaged, cubins.name(text, architecture))


def templates(model: Path) -> list[tuple[MetalSource, dict, int]]:
    """Return the shaders, templates and threads of threadgroups that the published models and the bundled one, in a
    folder, launch, and those of their comparisons with plain MLX."""
    made: list[Dispatch] = []
    plain = launch.Kernel.launch

    def noted(kernel: launch.Kernel, one: Dispatch) -> list[mx.array]:
        made.append(one)
        return plain(kernel, one)

    def compared(one: Dispatch) -> list[mx.array]:
        made.append(one)
        return [mx.zeros(*output) for output in zip(one.output_shapes, one.output_dtypes, strict=True)]

    for dense in ("q8", "bf16"):
        made += registers.launched(dense)
    bundled = runtime.load(model, dtype="float32").model
    with patch.object(launch.Kernel, "launch", noted):
        for rows in range(1, dispatches.FEW_ROWS + 1):
            for length in (100, STEP_KEYS):
                decode_graph.record(bundled.config, "q8", length, rows=rows, dtype=mx.float32)
                decode_graph.record(
                    bundled.config, "q8", length, rows=rows, dtype=mx.float32, ending=lambda m, x: [m.logits(x)]
                )
    for shapes in (*comparison.PUBLISHED, shapes_of(bundled)):
        for _ in comparison.compare(compared, shapes):
            pass
    found = {(one.shader, one.template): prod(one.threadgroup) for one in made}
    return [
        (MetalSource.read(dispatches.FOLDER / f"{shader}.metal"), dict(template), threads)
        for (shader, template), threads in found.items()
    ]


def _sources(folder: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns(*IGNORED), dirs_exist_ok=True)
    for name in (*SINGLE, *LICENSES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    found = importlib.util.find_spec("mlx_lm")
    if found is None or found.origin is None:
        raise RuntimeError("mlx-lm is not installed: run `make gpu-bundle`")
    models = Path(found.origin).parent / "models"
    (folder / "mlx_lm/models").mkdir(parents=True)
    (folder / "mlx_lm/__init__.py").touch()  # mlx-lm's own imports transformers
    (folder / "mlx_lm/models/__init__.py").touch()
    for name in MLX_LM:
        shutil.copy(models / f"{name}.py", folder / "mlx_lm/models")
    for file in importlib.metadata.files("mlx-lm") or ():
        if "LICENSE" in file.name:
            shutil.copy(str(file.locate()), folder / "mlx_lm")


def _model(folder: Path) -> None:
    """Convert the bundled model without its tokenizer: the golden prompts are ids, and tiktoken may not be there."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        shutil.copytree(checkpoint(), source, ignore=shutil.ignore_patterns("tokenizer*"))
        convert(source, folder, dense="q8")


def _mlx(folder: Path, architecture: int) -> None:
    """Unpack MLX's wheels of this environment's version, one for each Python, and cut the library."""
    version = importlib.metadata.version("mlx")
    with tempfile.TemporaryDirectory() as scratch:
        for python in PYTHONS:
            _fetch(Path(scratch), f"mlx=={version}", "--python-version", python)
        _fetch(Path(scratch), f"mlx-cuda-13=={version}")
        for wheel in sorted(Path(scratch).glob("*.whl")):
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(folder)
    library = folder / "mlx/lib/libmlx.so"
    code = bytearray(library.read_bytes())
    fat_binary.cut(code, architecture)
    library.write_bytes(code)


def manifest(folder: Path, architecture: str) -> None:
    """Write what the folder is for and made of, and the SHA-256 of each file."""
    files = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    about = {"architecture": architecture, "mlx": importlib.metadata.version("mlx")}
    (folder / MANIFEST).write_text(json.dumps(about | {"files": files}, indent=1))


def _fetch(folder: Path, package: str, *options: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "download", "--no-deps"]
    command += ["--only-binary=:all:", "--platform", PLATFORM, "--implementation", "cp", "--dest", str(folder)]
    done = subprocess.run([*command, *options, package], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{package} could not be fetched: {done.stderr.strip()[-300:]}")


REASONS = (nvrtc.Absent, nvrtc.CompileError, fat_binary.NotFat, RuntimeError, pytest.skip.Exception)
"""Why there may be no bundle, an architecture that NVRTC does not know or MLX's headers out of reach among them."""


def main() -> None:
    folder = Path(sys.argv[1])
    try:
        archive = write(folder, *sys.argv[2:])
    except REASONS as error:
        sys.exit(f"no bundle: {str(error).strip()}")
    print(f"{archive}: {archive.stat().st_size / 1e6:.1f} MB; elsewhere unpack it, and run `python run.py test`")


if __name__ == "__main__":
    main()
