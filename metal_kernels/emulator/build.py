"""The second pass: compiles a kernel's source to a library that can be loaded, through the cache.

Erases address spaces and instruments the code for the mode. Edits the compiler's intermediate text, so that each call
into the runtime knows its place in the source; cover mode and flushing need further edits. Knows nothing of a run.
"""

import functools
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from metal_kernels.build_cache import use
from metal_kernels.emulator import cache
from metal_kernels.emulator import toolchain as tools
from metal_kernels.emulator.cover import insert_marks
from metal_kernels.emulator.errors import EmulatorError, LintError
from metal_kernels.emulator.flush import flush_halves
from metal_kernels.emulator.lint import diagnostics, lint
from metal_kernels.emulator.program import program
from metal_kernels.emulator.report import Place
from metal_kernels.emulator.signature import Function
from metal_kernels.emulator.sites import insert_sites
from metal_kernels.emulator.toolchain import NATIVE
from metal_kernels.toolchain import Toolchain

Mode = Literal["fast", "count", "check", "cover"]


@dataclass(frozen=True)
class Library:
    """A compiled kernel: the file to load, places by site number, and in cover mode the lines each mark stands for."""

    path: Path
    sites: tuple[Place, ...]
    blocks: tuple[frozenset[tuple[str, int]], ...]


@functools.lru_cache(maxsize=1024)
def build(
    function: Function,
    mode: Mode,
    *,
    linted: bool = True,
    as_written: bool = True,
    flush_subnormals: bool = False,
    toolchain: Toolchain | None = None,
) -> Library:
    """Lint, compile and link a kernel, or find it in the cache. Raise LintError if the source does not compile.

    ``linted=False`` is for MLX's own source, which Apple's compiler takes and the stricter lint does not.
    ``as_written`` makes every load and store of device and threadgroup memory happen as the source says in the checked
    modes, so that counts do not depend on the optimiser. Source that copies whole structs from such memory needs False.
    ``flush_subnormals`` flushes those of half; for float, :func:`runner.run` has to be told too.
    """
    toolchain = toolchain or tools.find()
    if linted:
        lint(function, toolchain)
    final = cache.place(".so", mode, as_written, flush_subnormals, toolchain, *asdict(function).values())
    table = final.with_suffix(".json")
    if not (use(table) and use(final)):
        with cache.workshop() as work:
            source = work / "kernel.cpp"
            library = work / "kernel.so"
            source.write_text(program(function))
            code, places, blocks = _compile(toolchain, source, mode, as_written, flush_subnormals)
            _link(toolchain, [code, _runtime(toolchain)], library)
            tables = {
                "sites": [[p.file, p.line, p.column] for p in places],
                "blocks": [sorted(block) for block in blocks],
            }
            (work / "tables.json").write_text(json.dumps(tables))
            (work / "tables.json").replace(table)  # before the library, so that a library in the cache has its tables
            library.replace(final)
    tables = json.loads(table.read_text())
    return Library(
        final,
        tuple(Place(*row) for row in tables["sites"]),
        tuple(frozenset((file, line) for file, line in block) for block in tables["blocks"]),
    )


def _compile(
    toolchain: Toolchain, source: Path, mode: Mode, as_written: bool, flush_subnormals: bool
) -> tuple[Path, list[Place], list[frozenset[tuple[str, int]]]]:
    """Compile a source. Return the object file beside it, the places by site number and the lines by mark."""
    own = (str(NATIVE), "<emulator", str(source.parent))
    optimise = [*tools.PLACE_FLAGS, *(["-O1", *tools.HOOK_FLAGS] if mode in ("count", "check") else ["-O2"])]
    front = [*tools.LANGUAGE_FLAGS, *tools.CODE_FLAGS, *tools.MACHINE_FLAGS, *tools.include_flags(source.parent)]
    if mode in ("count", "check") and as_written:
        front.append("-DEMU_AS_WRITTEN")
    if mode == "check":
        front += ["-DEMU_CHECK", *tools.UNDEFINED_FLAGS]
    blocks: list[frozenset[tuple[str, int]]] = []
    if mode == "cover" or flush_subnormals:  # these edits come before the optimiser
        raw = source.with_suffix(".raw.ll")
        _run(toolchain, *front, *optimise, *tools.NO_PASSES, "-S", "-emit-llvm", "-o", raw, source)
        text = raw.read_text()
        if mode == "cover":
            text, blocks = insert_marks(text, own)
        if flush_subnormals:
            text = flush_halves(text)
        raw.write_text(text)
        front = ["-fPIC", *tools.MACHINE_FLAGS]
        source = raw
    ir = source.with_suffix(".ll")
    code = source.with_suffix(".o")
    if ir == source:
        ir = source.with_suffix(".optimised.ll")
    _run(toolchain, *front, *optimise, "-S", "-emit-llvm", "-o", ir, source)
    text, places = insert_sites(ir.read_text(), own)
    ir.write_text(text)
    _run(toolchain, "-O2", *tools.NO_PASSES, "-fPIC", *tools.MACHINE_FLAGS, "-c", "-o", code, ir)
    return code, places, blocks


def _run(toolchain: Toolchain, *arguments: str | Path) -> None:
    done = toolchain.compile("-fno-caret-diagnostics", *arguments)
    if done.returncode:
        raise LintError(diagnostics(done.stderr))


def _link(toolchain: Toolchain, objects: Sequence[Path], library: Path) -> None:
    """Link object files to a library. No other library is linked, because any Python process has the few C functions
    used, and ziglang would have to build others first."""
    flags = ["-dynamiclib", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared", "-nostdlib"]
    done = toolchain.drive(*flags, "-o", library, *objects)
    if done.returncode:
        raise EmulatorError(f"linking failed: {done.stderr.strip()[-2000:]}")


def _runtime(toolchain: Toolchain) -> Path:
    """Return the runtime's object file, compiled once per toolchain."""
    final = cache.place(".o", toolchain)
    if not use(final):
        with cache.workshop() as work:
            flags = ("-std=c++17", "-O2", "-fPIC", "-fno-exceptions", "-fno-rtti", *tools.MACHINE_FLAGS)
            done = toolchain.drive(*flags, "-c", "-o", work / "runtime.o", NATIVE / "runtime.cpp")
            if done.returncode:
                raise EmulatorError(f"the emulator's runtime does not compile: {done.stderr.strip()[-2000:]}")
            (work / "runtime.o").replace(final)
    return final
