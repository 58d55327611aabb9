"""The cubin of each shader and template: one that lies beside this module, one kept from before, or NVRTC's now.

A cubin depends on the shader, its template, and its threadgroup where that is large. So tests count the registers of
the very ones that run.
"""

import ctypes
import functools
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from metal_kernels import build_cache
from metal_kernels.cuda import nvrtc
from metal_kernels.cuda.nvrtc import Compiled
from metal_kernels.cuda.translation import translated
from metal_kernels.emulator.kernel import function_of
from metal_kernels.source import MetalSource, TemplateValue

KIND = "cuda"
PACKAGED = Path(__file__).parent / "packaged"
"""Where ``make gpu-bundle`` puts what its machine compiled, for machines that have no NVRTC."""


def of_shader(
    source: MetalSource, template: Mapping[str, TemplateValue], threads: int, architecture: str = nvrtc.ARCHITECTURE
) -> Compiled:
    """Return the cubin of a shader and template in threadgroups of so many threads. Raises nvrtc.Absent where there is
    none and no NVRTC, and nvrtc.CompileError."""
    return of_source(translated(function_of(source, template), threads), architecture)


def of_source(text: str, architecture: str = nvrtc.ARCHITECTURE, options: Sequence[str] = nvrtc.OPTIONS) -> Compiled:
    """Return the cubin of CUDA C++ with one entry. Raises as :func:`of_shader`."""
    packaged = PACKAGED / f"{name(text, architecture, options)}.json"
    if packaged.is_file():
        return _read(packaged)
    library = nvrtc_here()
    place = build_cache.place(KIND, ".json", name(text, architecture, options), nvrtc.version(library))
    if not (build_cache.use(place) and build_cache.use(place.with_suffix(".cubin"))):
        made = nvrtc.compiled(text, library, architecture, options)
        with build_cache.workshop(KIND) as work:
            write(made, work, place.stem)
            for suffix in (".cubin", ".json"):
                (work / f"{place.stem}{suffix}").replace(place.with_suffix(suffix))
    return _read(place)


def name(text: str, architecture: str = nvrtc.ARCHITECTURE, options: Sequence[str] = nvrtc.OPTIONS) -> str:
    """Return what a source's cubin is called in a package, which is compiled by one NVRTC."""
    return hashlib.sha256("\0".join((architecture, *options, text)).encode()).hexdigest()[:24]


def write(made: Compiled, folder: Path, stem: str) -> None:
    """Write a cubin and what is known of it, as two files."""
    (folder / f"{stem}.cubin").write_bytes(made.cubin)
    (folder / f"{stem}.json").write_text(json.dumps([made.registers, made.local_bytes]))


def _read(place: Path) -> Compiled:
    return Compiled(place.with_suffix(".cubin").read_bytes(), *json.loads(place.read_text()))


@functools.cache
def nvrtc_here() -> ctypes.CDLL:
    """Return the NVRTC of this environment, or of the one that ``make .venv-cuda`` makes beside this checkout. Raises
    nvrtc.Absent."""
    root = Path(__file__).resolve().parents[2]
    sites = [Path(path) for path in sys.path if path.endswith("site-packages")]
    sites += sorted((root / ".venv-cuda").glob("lib/python*/site-packages"))
    for site in sites:
        try:
            return nvrtc.load(site)
        except nvrtc.Absent:
            continue
    try:
        return ctypes.CDLL(nvrtc.LIBRARY)  # the one that MLX's CUDA backend has loaded, wherever it is from
    except OSError:
        raise nvrtc.Absent("no NVRTC here: run `make .venv-cuda/.ready`, on Linux") from None
