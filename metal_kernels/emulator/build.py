"""From a kernel's source to a library that can be loaded, through a cache.

Two passes, always both. *Lint* checks the source with real address spaces and generates nothing. *Run* erases them,
instruments as the mode asks, and links with the runtime. Results lie in a cache under a name that hashes everything
they came from; they are moved there whole, so any number of processes may build at once.
"""

import functools
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from metal_kernels.emulator import toolchain as tools
from metal_kernels.emulator.errors import EmulatorError, LintError
from metal_kernels.emulator.report import Finding, Kind, Place
from metal_kernels.emulator.signature import Function
from metal_kernels.emulator.sites import insert_sites
from metal_kernels.emulator.source_edit import edit, unqualified_parameters
from metal_kernels.emulator.toolchain import Toolchain

NATIVE = Path(__file__).resolve().parent / "native"
# Names under which kernels may include metal_stdlib or parts of it.
METAL_HEADERS = (
    *(
        "metal_stdlib",
        "metal_atomic",
        "metal_common",
        "metal_compute",
        "metal_integer",
        "metal_limits",
        "metal_logging",
    ),
    *("metal_math", "metal_simdgroup", "metal_simdgroup_matrix", "metal_type_traits", "metal_types"),
)
PRELUDE = '#include "metal/prelude.h"\n'
# A variable used before it is set is an error; so is a function that may end without its result.
LINT_FLAGS = (
    *("-fsyntax-only", "-DEMU_LINT", "-ferror-limit=0", "-fno-caret-diagnostics", "-Wno-undefined-inline"),
    *("-Wno-undefined-internal", "-Wno-c++11-narrowing", "-Wuninitialized", "-Wsometimes-uninitialized"),
    *("-Wconditional-uninitialized", "-Werror=uninitialized", "-Werror=sometimes-uninitialized"),
    *("-Werror=conditional-uninitialized", "-Werror=return-type"),
)

Mode = Literal["fast", "count", "check"]


@dataclass(frozen=True)
class Library:
    """A compiled kernel: the file to load and the table from site numbers to places."""

    path: Path
    sites: tuple[Place, ...]


def cache_folder() -> Path:
    """Where compiled kernels are kept, per user."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "gptoss-mac" / "emulator"


@functools.cache
def _native_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(NATIVE.rglob("*")):
        if path.suffix in (".h", ".cpp"):
            digest.update(path.name.encode() + path.read_bytes())
    for module in ("sites.py", "source_edit.py", "build.py", "toolchain.py"):
        digest.update((Path(__file__).parent / module).read_bytes())
    return digest.hexdigest()


def _key(*parts: object) -> str:
    return hashlib.sha256("\0".join([_native_digest(), *map(str, parts)]).encode()).hexdigest()[:24]


@contextmanager
def _workshop(final: Path) -> Iterator[Path]:
    """A scratch folder beside the final file."""
    final.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="building-", dir=final.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_headers(folder: Path) -> None:
    for name in METAL_HEADERS:
        (folder / name).write_text('#include "metal/metal.h"\n')


def _includes(folder: Path, extra: Sequence[Path]) -> list[str]:
    return [f"-I{path}" for path in (*extra, folder, NATIVE)]


_DIAGNOSTIC = re.compile(r"^(.+?):(\d+):(\d+): (?:fatal )?error: (.*)$")
# Clang's words for the rules of Metal that the shim expresses by other means.
_TRANSLATIONS = (
    (
        re.compile(r"automatic variable qualified with an address space"),
        "a threadgroup variable must be declared alone, as `threadgroup TYPE NAME[N];` at the beginning of a statement",
    ),
    (re.compile(r"__attribute__\(\(address_space\(1\)\)\)"), "device"),
    (re.compile(r"__attribute__\(\(address_space\(2\)\)\)"), "constant"),
    (re.compile(r"__attribute__\(\(address_space\(3\)\)\)"), "threadgroup"),
    (re.compile(r"unknown type name 'emu_error_Metal_has_no_double'"), "Metal has no double"),
)


def _diagnostics(stderr: str) -> list[Finding]:
    found = []
    for line in stderr.splitlines():
        if match := _DIAGNOSTIC.match(line):
            message = match[4]
            for pattern, words in _TRANSLATIONS:
                message = pattern.sub(words, message)
            found.append(Finding(Kind.LINT, Place(match[1], int(match[2]), int(match[3])), message))
    unique = list(dict.fromkeys(found))
    return unique or [Finding(Kind.LINT, Place(), stderr.strip()[-2000:] or "the compiler failed without a word")]


def lint(
    function: Function, *, prelude: str = PRELUDE, includes: Sequence[Path] = (), toolchain: Toolchain | None = None
) -> None:
    """Check a kernel against Metal's rules. Raises LintError with every finding; returns nothing if there is none."""
    toolchain = toolchain or tools.find()
    folder = cache_folder()
    passed = folder / f"{_key('lint', toolchain, prelude, includes, function.source, function.expression)}.linted"
    if passed.exists():
        return
    found = unqualified_parameters(function.source, "source")
    instantiate = ""
    if "<" in function.expression:
        instantiate = f'\n#line 1 "<emulator>"\ntemplate decltype({function.expression}) {function.expression};\n'
    with _workshop(passed) as work:
        _write_headers(work)
        source = work / "lint.cpp"
        source.write_text(prelude + edit(function.source) + instantiate)
        done = toolchain.run(*tools.LANGUAGE_FLAGS, *LINT_FLAGS, *_includes(work, includes), str(source))
        if done.returncode:
            found += _diagnostics(done.stderr)
        if found:
            raise LintError(found)
        (work / "passed").touch()
        (work / "passed").replace(passed)


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
        f'\n#pragma clang attribute pop\n#line 1 "<emulator>"\n'
        f'extern "C" void emu_entry(void** buffers) {{\n  const emu_ids* ids = emu_self();\n'
        f"  const emu_argument arguments[] = {{{', '.join(arguments)}}};\n  (void)ids;\n"
        f"  emu_call({function.expression}, arguments);\n}}\n"
    )


def _mode_flags(mode: Mode, as_written: bool) -> list[str]:
    if mode == "fast":
        return ["-O2"]
    flags = ["-O1", *tools.HOOK_FLAGS]
    if as_written:
        flags.append("-DEMU_AS_WRITTEN")
    if mode == "check":
        flags += ["-DEMU_CHECK", *tools.UNDEFINED_FLAGS]
    return flags


def _compile(toolchain: Toolchain, *arguments: str) -> None:
    done = toolchain.run(*arguments)
    if done.returncode:
        raise LintError(_diagnostics(done.stderr))


def build(
    function: Function,
    mode: Mode,
    *,
    linted: bool = True,
    as_written: bool = True,
    prelude: str = PRELUDE,
    includes: Sequence[Path] = (),
    toolchain: Toolchain | None = None,
) -> Library:
    """Lint, compile and link, or find it done. Raises LintError if the source does not compile.

    ``linted=False`` is for source that Apple's compiler is known to take, and the stricter lint does not: MLX's own.
    ``as_written``: in the checked modes make every load and store of device and threadgroup memory happen as the source
    says, so that counts do not depend on the optimiser. Source that copies whole structs out of such memory needs
    False.
    """
    toolchain = toolchain or tools.find()
    if linted:
        lint(function, prelude=prelude, includes=includes, toolchain=toolchain)
    final = cache_folder() / f"{_key(mode, as_written, toolchain, prelude, includes, *asdict(function).values())}.so"
    table = final.with_suffix(".json")
    if not final.exists():
        with _workshop(final) as work:
            _write_headers(work)
            source, ir, code, library = (work / f"kernel{suffix}" for suffix in (".cpp", ".ll", ".o", ".so"))
            # Every function inlined, as GPUs do: a helper called in two branches is then two places.
            opening = "#pragma clang attribute push(__attribute__((always_inline)), apply_to = function)\n"
            source.write_text(prelude + opening + edit(function.source) + _entry(function))
            flags = [*tools.LANGUAGE_FLAGS, *tools.CODE_FLAGS, *tools.MACHINE_FLAGS, *tools.PLACE_FLAGS]
            mode_flags = _mode_flags(mode, as_written)
            emit = [*flags, *mode_flags, *_includes(work, includes), "-fno-caret-diagnostics", "-S", "-emit-llvm"]
            _compile(toolchain, *emit, "-o", str(ir), str(source))
            edited, places = insert_sites(ir.read_text(), (str(NATIVE), "<emulator", str(work)))
            ir.write_text(edited)
            _compile(
                toolchain,
                "-O2",
                "-Xclang",
                "-disable-llvm-passes",
                "-fPIC",
                *tools.MACHINE_FLAGS,
                "-c",
                "-o",
                str(code),
                str(ir),
            )
            _link(toolchain, [code, _runtime(toolchain)], library)
            (work / "sites.json").write_text(json.dumps([[p.file, p.line, p.column] for p in places]))
            (work / "sites.json").replace(table)  # first, so that a library in the cache has its table
            library.replace(final)
    return Library(final, tuple(Place(*row) for row in json.loads(table.read_text())))


def _link(toolchain: Toolchain, objects: Sequence[Path], library: Path) -> None:
    """No library is linked: any Python process has the few C functions used, and ziglang has nothing to build first."""
    flags = ["-dynamiclib", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared", "-nostdlib"]
    done = toolchain.run(*flags, "-o", str(library), *map(str, objects))
    if done.returncode:
        raise EmulatorError(f"linking failed: {done.stderr.strip()[-2000:]}")


def _runtime(toolchain: Toolchain) -> Path:
    """The runtime's object file, compiled once per toolchain."""
    final = cache_folder() / f"{_key('runtime', toolchain)}.o"
    if not final.exists():
        with _workshop(final) as work:
            flags = ("-std=c++17", "-O2", "-fPIC", "-fno-exceptions", "-fno-rtti", *tools.MACHINE_FLAGS)
            done = toolchain.run(*flags, "-c", "-o", str(work / "runtime.o"), str(NATIVE / "runtime.cpp"))
            if done.returncode:
                raise EmulatorError(f"the emulator's runtime does not compile: {done.stderr.strip()[-2000:]}")
            (work / "runtime.o").replace(final)
    return final
