"""The first pass: checks that a source is Metal. Clang checks it with real address spaces and generates no code. Then a
second compilation finds what it would leave in memory (``private_arrays``)."""

import re

from metal_kernels.build_cache import use
from metal_kernels.emulator import cache
from metal_kernels.emulator import toolchain as tools
from metal_kernels.emulator.errors import LintError
from metal_kernels.emulator.private_arrays import private_arrays
from metal_kernels.emulator.report import Finding, FindingKind, Place
from metal_kernels.emulator.signature import Function
from metal_kernels.emulator.source_edit import chosen_elements, edit, unqualified_parameters
from metal_kernels.toolchain import Toolchain

_FLAGS = (
    *("-fsyntax-only", "-DEMU_LINT", "-ferror-limit=0", "-fno-caret-diagnostics"),
    *("-Wno-undefined-inline", "-Wno-undefined-internal", "-Wno-c++11-narrowing"),
    *("-Werror=uninitialized", "-Werror=sometimes-uninitialized", "-Werror=conditional-uninitialized"),
    "-Werror=return-type",
)
"""A variable that is used before it is set is an error; so is a function that may end without its result."""

_DIAGNOSTIC = re.compile(r"^(.+?):(\d+):(\d+): (?:fatal )?error: (.*)$")
_TRANSLATIONS = (
    (
        re.compile(r"automatic variable qualified with an address space"),
        "a threadgroup variable must be declared alone, as `threadgroup TYPE NAME[N];` at the beginning of a statement",
    ),
    (re.compile(r"__attribute__\(\(address_space\(1\)\)\)"), "device"),
    (re.compile(r"__attribute__\(\(address_space\(2\)\)\)"), "constant"),
    (re.compile(r"__attribute__\(\(address_space\(3\)\)\)"), "threadgroup"),
    (
        re.compile(r"(no matching constructor for initialization of '[^']*'.*)"),
        r"\1 (a struct in device or threadgroup memory is read member by member, or through a vector)",
    ),
    (re.compile(r"unknown type name 'emu_error_Metal_has_no_double'"), "Metal has no double"),
)
"""Clang's messages, where the shim expresses a rule of Metal by other means, to our words."""


def lint(function: Function, toolchain: Toolchain | None = None) -> None:
    """Check a kernel against Metal's rules. Raise LintError with all findings if there are any."""
    toolchain = toolchain or tools.find()
    passed = cache.place(".linted", toolchain, function.source, function.expression)
    if use(passed):
        return
    found = unqualified_parameters(function.source, "source") + chosen_elements(function.source, "source")
    instantiate = ""
    if "<" in function.expression:
        instantiate = f'\n#line 1 "<emulator>"\ntemplate decltype({function.expression}) {function.expression};\n'
    with cache.workshop() as work:
        source = work / "lint.cpp"
        source.write_text(tools.PRELUDE + edit(function.source) + instantiate)
        done = toolchain.compile(*tools.LANGUAGE_FLAGS, *_FLAGS, *tools.include_flags(work), source)
        if done.returncode:
            found += diagnostics(done.stderr)
        found += [] if found else private_arrays(function, toolchain, work)
        if found:
            raise LintError(found)
        (work / "passed").touch()
        (work / "passed").replace(passed)


def diagnostics(stderr: str) -> list[Finding]:
    """Return the errors in a compiler's output as findings. If none can be read, the output itself is one."""
    found = []
    for line in stderr.splitlines():
        if match := _DIAGNOSTIC.match(line):
            message = match[4]
            for pattern, words in _TRANSLATIONS:
                message = pattern.sub(words, message)
            found.append(Finding(FindingKind.LINT, Place(match[1], int(match[2]), int(match[3])), message))
    unique = list(dict.fromkeys(found))
    return unique or [
        Finding(FindingKind.LINT, Place(), stderr.strip()[-2000:] or "the compiler failed without a word")
    ]
