"""The second pass: from a kernel's source to a library that can be loaded, through the cache.

Address spaces are erased and the code instrumented as the mode asks. On the way the compiler's intermediate text is
edited, to say where in the source each call into the runtime comes from, and in two modes for more.
"""

import functools
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from metal_kernels.emulator import cache
from metal_kernels.emulator import toolchain as tools
from metal_kernels.emulator.cover import insert_marks
from metal_kernels.emulator.errors import EmulatorError, LintError
from metal_kernels.emulator.flush import flush_halves
from metal_kernels.emulator.lint import diagnostics, lint
from metal_kernels.emulator.report import Place
from metal_kernels.emulator.signature import Function
from metal_kernels.emulator.sites import insert_sites
from metal_kernels.emulator.source_edit import edit
from metal_kernels.emulator.toolchain import NATIVE, Toolchain

Mode = Literal["fast", "count", "check", "cover"]


@dataclass(frozen=True)
class Library:
    """A compiled kernel: the file to load, places by site number, in cover mode the lines each mark vouches for."""

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
    """Lint, compile and link, or find it done. Raises LintError if the source does not compile.

    ``linted=False`` is for source that Apple's compiler is known to take, and the stricter lint does not: MLX's own.
    ``as_written``: in the checked modes make every load and store of device and threadgroup memory happen as the source
    says, so that counts do not depend on the optimiser. Source that copies whole structs out of such memory needs
    False. ``flush_subnormals``: of half; the dispatch has to be told too, for float.
    """
    toolchain = toolchain or tools.find()
    if linted:
        lint(function, toolchain)
    final = cache.place(".so", mode, as_written, flush_subnormals, toolchain, *asdict(function).values())
    table = final.with_suffix(".json")
    if not (cache.use(table) and cache.use(final)):
        with cache.workshop() as work:
            source, library = work / "kernel.cpp", work / "kernel.so"
            source.write_text(tools.PRELUDE + tools.INLINE_ALL + edit(function.source) + _entry(function))
            code, places, blocks = _compile(toolchain, source, mode, as_written, flush_subnormals)
            _link(toolchain, [code, _runtime(toolchain)], library)
            tables = {
                "sites": [[p.file, p.line, p.column] for p in places],
                "blocks": [sorted(block) for block in blocks],
            }
            (work / "tables.json").write_text(json.dumps(tables))
            (work / "tables.json").replace(table)  # first, so that a library in the cache has its tables
            library.replace(final)
    tables = json.loads(table.read_text())
    return Library(
        final,
        tuple(Place(*row) for row in tables["sites"]),
        tuple(frozenset((file, line) for file, line in block) for block in tables["blocks"]),
    )


def _entry(function: Function) -> str:
    """The function the runtime calls in every thread."""
    arguments = []
    index = 0
    for parameter in function.parameters:
        if parameter.kind == "buffer":
            number = int(parameter.name) if parameter.name.isdigit() else index
            arguments.append(f"{{buffers[{number}], nullptr}}")
            index += 1
        else:
            arguments.append(f"{{nullptr, ids->{parameter.name}}}")
    return (
        f'\n{tools.INLINE_END}#line 1 "<emulator>"\n'
        f'extern "C" void emu_entry(void** buffers) {{\n  const emu_ids* ids = emu_self();\n'
        f"  const emu_argument arguments[] = {{{', '.join(arguments)}}};\n  (void)ids;\n"
        f"  emu_call({function.expression}, arguments);\n}}\n"
    )


def _compile(
    toolchain: Toolchain, source: Path, mode: Mode, as_written: bool, flush_subnormals: bool
) -> tuple[Path, list[Place], list[frozenset[tuple[str, int]]]]:
    """The object file beside a source, the places by site number and the lines by mark."""
    own = (str(NATIVE), "<emulator", str(source.parent))
    optimise = [*tools.PLACE_FLAGS, *(["-O1", *tools.HOOK_FLAGS] if mode in ("count", "check") else ["-O2"])]
    front = [*tools.LANGUAGE_FLAGS, *tools.CODE_FLAGS, *tools.MACHINE_FLAGS, *tools.include_flags(source.parent)]
    if mode in ("count", "check") and as_written:
        front.append("-DEMU_AS_WRITTEN")
    if mode == "check":
        front += ["-DEMU_CHECK", *tools.UNDEFINED_FLAGS]
    blocks: list[frozenset[tuple[str, int]]] = []
    if mode == "cover" or flush_subnormals:  # edits that have to come before the optimiser
        raw = source.with_suffix(".raw.ll")
        _run(toolchain, *front, *optimise, *tools.NO_PASSES, "-S", "-emit-llvm", "-o", raw, source)
        text = raw.read_text()
        if mode == "cover":
            text, blocks = insert_marks(text, own)
        if flush_subnormals:
            text = flush_halves(text)
        raw.write_text(text)
        front, source = ["-fPIC", *tools.MACHINE_FLAGS], raw
    ir, code = source.with_suffix(".ll"), source.with_suffix(".o")
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
    """No library is linked: any Python process has the few C functions used, and ziglang has nothing to build first."""
    flags = ["-dynamiclib", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared", "-nostdlib"]
    done = toolchain.drive(*flags, "-o", library, *objects)
    if done.returncode:
        raise EmulatorError(f"linking failed: {done.stderr.strip()[-2000:]}")


def _runtime(toolchain: Toolchain) -> Path:
    """The runtime's object file, compiled once per toolchain."""
    final = cache.place(".o", toolchain)
    if not cache.use(final):
        with cache.workshop() as work:
            flags = ("-std=c++17", "-O2", "-fPIC", "-fno-exceptions", "-fno-rtti", *tools.MACHINE_FLAGS)
            done = toolchain.drive(*flags, "-c", "-o", work / "runtime.o", NATIVE / "runtime.cpp")
            if done.returncode:
                raise EmulatorError(f"the emulator's runtime does not compile: {done.stderr.strip()[-2000:]}")
            (work / "runtime.o").replace(final)
    return final
