"""Judges and times the shaders on this machine's NVIDIA GPU, from a bundle. Needs the driver, Python and numpy alone.

``run.py test`` says whether they are right: the recorded dispatches of the shaders' own checks replayed, and the
same under compute-sanitizer's four tools where it is installed. Where MLX's CUDA backend finds the libraries it needs
(PyTorch brings them): every shader beside plain MLX at the published sizes, and the bundled model's golden replies.

``run.py report`` says how fast: each shader at 1 and 4 rows beside MLX's own kernels and a plain read of the
same bytes; a 24-layer step of 20b's layout as one graph; with MLX, the runtime's step beside mlx-lm's, and a model of
120b's layout that decodes 64 tokens.

Each writes a table and ``NAME.json``. ``--out FOLDER`` says where, by default here. ``--only PART`` runs one part.

A lent card's fifteen minutes hold both, as two calls of at most ten minutes. Expected, from the prototype's and the
emulator's times, not measured::

    call 1, test      start 60 s, replay 5, sanitizer 4 x 30, compare 30, replies 40        255 s, limit 330
    call 2, report    scenes 70, steps of the graph 20, MLX q8 120, MLX bf16 100, 120b 60    370 s, limit 540

Each part has a limit of its own, and what a part found before it is kept, so a call that is cut off still says
something. Parts that need MLX come last. Give the card back after each call.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.gpu import bench, replay, tables
from tests.gpu.driver import NEEDED, DriverError, Gpu, NoGpu

HERE = Path(__file__).resolve().parents[2]
SANITIZER = "compute-sanitizer"
SANITIZER_TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
NOT_RUN = "not run"
MISSING = "cannot open shared object file"
MANIFEST = "manifest.json"
"""Of a bundle: its architecture, versions, and the SHA-256 of each file."""
Found = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One part of a run: its name, what does it, and the seconds it may take in a process of its own."""

    name: str
    run: Callable[["Run", int], Any]
    limit: int


class Run:
    """A run over a bundle's folder: the GPU, and where results go."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.folder = folder
        self.out = out
        self.plan = folder / "plan"
        self.gpu = Gpu()
        self.tools = bench.load(self.plan / "tools.json")
        self.about = {**self.gpu.about, "python": sys.version.split()[0]}

    def child(self, limit: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the folder. Raises subprocess.TimeoutExpired."""
        paths = [str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "GPTOSS_MAC_HOME": str(self.out / "home")}
        env |= environment
        return subprocess.run(
            arguments,
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
        )

    def on_mlx(self, limit: int, part: str, *arguments: str) -> Any:
        """Return what a part of ``on_mlx`` found. A part that fails gives the reason, and what it had found before.
        Where MLX lacks a library of NVIDIA's, which no bundle has, the part is not run."""
        out = self.out / f"mlx-{part}.json"
        out.unlink(missing_ok=True)
        reason = None
        try:
            done = self.child(
                limit, sys.executable, "-m", "tests.gpu.on_mlx", part, str(out), *arguments, **mlx_environment()
            )
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        except subprocess.TimeoutExpired:
            reason = f"longer than {limit} s"
        found = json.loads(out.read_text()) if out.is_file() else {}
        if reason and MISSING in reason:
            return f"{NOT_RUN}: {reason}. PyTorch's packages, or nvidia-* of mlx-cuda-13, bring what MLX needs"
        return found | ({"failed": reason} if reason else {})


def mlx_environment() -> dict[str, str]:
    """Return the environment in which MLX's CUDA backend finds NVIDIA's libraries and headers: those that came with
    Python packages, then the system's. Products of float32 are of float32."""
    found = {"GPTOSS_MAC_KERNELS": "cuda", "MLX_ENABLE_TF32": "0"}
    sites = [Path(path) / "nvidia" for path in sys.path if (Path(path) / "nvidia").is_dir()]
    libraries = [str(folder) for site in sites for folder in sorted(site.glob("*/lib"))]
    own = [os.environ[name] for name in ("LD_LIBRARY_PATH",) if os.environ.get(name)]
    found["LD_LIBRARY_PATH"] = os.pathsep.join([*libraries, *own, "/usr/local/cuda/lib64"])
    headers = [
        folder.parent for site in sites for folder in sorted(site.glob("*/include")) if (folder / "cuda.h").is_file()
    ]
    if headers and "CUDA_HOME" not in os.environ:
        found["CUDA_HOME"] = str(headers[0])
    return found


def replayed(run: Run, _: int) -> Any:
    """Replay the recorded dispatches."""
    with np.load(run.plan / replay.ARRAYS) as kept:
        return replay.replayed(run.gpu, run.plan, bench.load(run.plan / replay.FILE), dict(kept))


def sanitized(run: Run, limit: int) -> Any:
    """Replay them under each tool of compute-sanitizer, or say that it is not installed."""
    command = shutil.which(SANITIZER) or shutil.which(SANITIZER, path="/usr/local/cuda/bin")
    if command is None:
        return f"{NOT_RUN}: no {SANITIZER} here"
    found: Found = {}
    for tool in SANITIZER_TOOLS:
        try:
            done = run.child(
                limit // len(SANITIZER_TOOLS),
                *(command, "--tool", tool, "--error-exitcode", "9"),
                *(sys.executable, "-m", "tests.gpu.replay", str(run.plan)),
            )
        except subprocess.TimeoutExpired:
            found[tool] = {"clean": False, "said": f"longer than {limit // len(SANITIZER_TOOLS)} s"}
            continue
        said = [line for line in done.stdout.splitlines() if "SUMMARY" in line or line.startswith("replayed")]
        found[tool] = {"clean": done.returncode == 0, "said": "; ".join(said) or done.stderr.strip()[-300:]}
    return found


def compared(run: Run, limit: int) -> Any:
    """Compare every shader with plain MLX at the published sizes."""
    return run.on_mlx(limit, "compare")


def golden_replies(run: Run, limit: int) -> Any:
    """Ask the bundled model for its golden replies."""
    return run.on_mlx(limit, "replies", str(run.folder / "tiny"), str(run.folder / "tests/data/tiny_replies.json"))


def scenes(run: Run, _: int) -> Any:
    """Time each shader beside MLX's kernels, and plain reads of the same sizes."""
    every = bench.load(run.plan / "scenes.json")
    found = bench.ceilings(run.gpu, run.plan, run.tools, [scene["bytes"] for scene in every])
    lines: list[Found] = []
    for scene in every:
        try:
            lines += bench.measured(run.gpu, run.plan, scene, run.tools)
        except Exception as error:  # one scene must not cost the others
            lines.append({"scene": scene["id"], "failed": str(error)})
            with suppress(DriverError):
                run.gpu.free()
    return {"lines": lines, **found}


def graph_steps(run: Run, _: int) -> Any:
    """Time a decode step's launches as one graph."""
    return [bench.step(run.gpu, run.plan, scene, run.tools) for scene in bench.load(run.plan / "steps.json")]


def mlx_steps(dense: str) -> Callable[[Run, int], Any]:
    """Return the part that times the runtime's step and mlx-lm's on the same weights."""
    return lambda run, limit: run.on_mlx(limit, "steps", dense)


def large(run: Run, limit: int) -> Any:
    """Load a model of 120b's layout, and decode 64 tokens."""
    return run.on_mlx(limit, "large")


PARTS: Mapping[str, tuple[Part, ...]] = {
    "test": (
        Part("replay", replayed, 60),
        Part("sanitizer", sanitized, 160),
        Part("compare", compared, 60),
        Part("replies", golden_replies, 60),
    ),
    "report": (
        Part("scenes", scenes, 120),
        Part("graph_steps", graph_steps, 40),
        Part("steps_q8", mlx_steps("q8"), 140),
        Part("steps_bf16", mlx_steps("bf16"), 120),
        Part("large", large, 100),
    ),
}


def refuse(reason: str) -> None:
    """End with a message that says what is needed."""
    sys.exit(f"not run: {reason}")


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def run_all(what: str, folder: Path, out: Path, only: str | None = None) -> Found:
    """Run the parts of "test" or "report". Return what they found, which is in ``out`` as JSON too, part by part.

    Raises NoGpu.
    """
    run = Run(folder, out)
    out.mkdir(parents=True, exist_ok=True)
    manifest = bench.load(folder / MANIFEST)
    if damaged := [name for name, digest in manifest["files"].items() if not _is(folder / name, digest)]:
        refuse(f"{len(damaged)} files of this bundle are missing or damaged, such as {damaged[0]}: unpack it again")
    made_for = manifest["architecture"]
    if run.about["architecture"] != made_for:
        refuse(
            f"this bundle is for {made_for}, and {run.about['card']} is {run.about['architecture']}: "
            f"make one with `make gpu-bundle ARCHITECTURE={run.about['architecture']}`"
        )
    found: Found = {"machine": run.about, "seconds": {}}
    for part in PARTS[what]:
        if only not in (None, part.name):
            continue
        start = time.monotonic()
        try:
            found[part.name] = part.run(run, part.limit)
        except Exception as error:  # what the other parts find is worth having
            found[part.name] = f"failed: {type(error).__name__}: {error}"
        found["seconds"][part.name] = round(time.monotonic() - start, 1)
        print(f"{part.name}: {found['seconds'][part.name]} s", file=sys.stderr, flush=True)
        (out / f"gpu-{what}.json").write_text(json.dumps(found, indent=1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Judge and time gptoss-mac's shaders on an NVIDIA GPU.")
    parser.add_argument("what", choices=sorted(PARTS))
    parser.add_argument("--out", type=Path, default=Path.cwd(), help="where the JSON and the table go")
    parser.add_argument("--only", choices=[part.name for parts in PARTS.values() for part in parts])
    given = parser.parse_args()
    try:
        found = run_all(given.what, HERE, given.out.resolve(), given.only)
    except KeyboardInterrupt:
        sys.exit(130)  # what was found is in the file
    except NoGpu as error:
        refuse(f"{error}. {NEEDED}")
    text = tables.table(given.what, found)
    (given.out / f"gpu-{given.what}.md").write_text(text)
    print(text)
    sys.exit(0 if tables.passed(given.what, found) else 1)
