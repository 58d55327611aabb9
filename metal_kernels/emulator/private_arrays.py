"""Finds private variables that stay in memory after optimisation. A GPU would keep them in slow memory of each thread.

An array leaves the registers if a thread chooses one of its addresses. Whether it does depends on the compiler's age as
well as on the source, and nobody knows how old Apple's is. So the source is compiled as for a run, and what is left on
the stack is named by its debug information. Knows no counts of registers: ``cuda`` has them.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from metal_kernels.emulator import toolchain as tools
from metal_kernels.emulator.program import program
from metal_kernels.emulator.report import Finding, FindingKind
from metal_kernels.emulator.signature import Function
from metal_kernels.emulator.sites import DebugInfo
from metal_kernels.toolchain import Toolchain

_ON_STACK = re.compile(r"(?m)^  (%[\w.-]+) = alloca ")
_DECLARATION = re.compile(r"(?m)^.*(?:#dbg_|@llvm\.dbg\.)(?:declare|assign)\((.*!\d.*)$")


def private_arrays(function: Function, toolchain: Toolchain, work: Path) -> list[Finding]:
    """Return a finding for each variable of the kernel's own source that this compiler leaves in memory.

    ``work`` is a folder for files, which has Metal's headers (``include_flags``). A source that does not compile has
    none; building it tells why.
    """
    source = work / "private.cpp"
    text = work / "private.ll"
    source.write_text(program(function))
    flags = (*tools.LANGUAGE_FLAGS, *tools.MACHINE_FLAGS, *tools.include_flags(work), "-fno-discard-value-names")
    if toolchain.compile(*flags, "-O2", "-g", "-S", "-emit-llvm", "-o", text, source).returncode:
        return []
    return list(dict.fromkeys(_left(text.read_text(), (str(tools.NATIVE), "<emulator", str(work)), toolchain)))


def _left(ir: str, own: tuple[str, ...], toolchain: Toolchain) -> Iterator[Finding]:
    debug = DebugInfo(ir, own)
    on_stack = set(_ON_STACK.findall(ir))
    for match in _DECLARATION.finditer(ir):
        variable = int(re.findall(r"!(\d+)", match[1])[0])  # the first number is the variable's
        declared = debug.variable(variable) if on_stack & set(re.findall(r"ptr (%[\w.-]+)", match[1])) else None
        if declared:
            name, place = declared
            message = (
                f"{name} stays in memory with {toolchain.version}: index it by constants, and load two elements before "
                "`?:` chooses one"
            )
            yield Finding(FindingKind.LINT, place, message)
