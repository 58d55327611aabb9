"""Gives places in the source to the runtime, by editing the compiler's intermediate text.

Clang's instrumentation passes only addresses, and a tool that turns program counters into lines may not be installed.
In LLVM's text form every call has its place, with the chain of inlined calls that led there. So the build takes that
form, puts the number of the place before each call into the runtime, and compiles the result.
"""

import posixpath
import re

from metal_kernels.emulator.report import Place
from metal_kernels.source import closing

_CALL = re.compile(r"^(\s*(?:%\S+ = )?(?:tail |musttail |notail )?call [^@\n]*)@(\w+)\((.*)$")
_DEBUG = re.compile(r"!dbg !(\d+)")
_READ_WRITE = re.compile(r"__tsan_(unaligned_)?(read_write|read|write)(\d+)$")
_NODE = re.compile(r"^!(\d+) = (?:distinct )?!\w+\((.*)\)$")


class DebugInfo:
    """The places of the instructions of a text, by the number after ``!dbg``."""

    def __init__(self, ir: str, own: tuple[str, ...]):
        """``own`` are the beginnings of the names of the emulator's own files."""
        self.nodes: dict[int, str] = {}
        for line in ir.split("\n"):
            if line.startswith("!") and (match := _NODE.match(line)):
                self.nodes[int(match[1])] = match[2]
        self.own = own

    def _field(self, node: int, name: str) -> str | None:
        match = re.search(rf'(?:^|, ){name}: (?:!(\d+)|"([^"]*)"|(\d+))', self.nodes[node])
        return next((group for group in match.groups() if group is not None), None) if match else None

    def _file(self, scope: int | None) -> tuple[str, bool]:
        """Return the file of a scope, and whether it is the emulator's own.

        Clang removes the folder it works in from names.
        """
        while scope is not None:
            file = self._field(scope, "file")
            if file is not None:
                name = self._field(int(file), "filename") or ""
                whole = posixpath.join(self._field(int(file), "directory") or "", name)
                return name, name.startswith(self.own) or whole.startswith(self.own)
            parent = self._field(scope, "scope")
            scope = int(parent) if parent is not None else None
        return "", True

    def chain(self, location: int) -> tuple[Place, ...]:
        """Return the place in the kernel's source and its callers, innermost first, without the emulator's own
        files."""
        chain = []
        at: int | None = location
        while at is not None:
            scope = self._field(at, "scope")
            file, own = self._file(int(scope) if scope else None)
            line = int(self._field(at, "line") or 0)
            if line and not own:
                chain.append(Place(file, line, int(self._field(at, "column") or 0)))
            caller = self._field(at, "inlinedAt")
            at = int(caller) if caller is not None else None
        return tuple(chain)

    def variable(self, node: int) -> tuple[str, Place] | None:
        """Return a variable's name and where it is declared, or None for one of the emulator's own."""
        name = self._field(node, "name")
        scope = self._field(node, "scope")
        file, own = self._file(int(scope) if scope else None)
        return None if own or not name else (name, Place(file, int(self._field(node, "line") or 0)))


class SiteTable:
    """Numbers of places, from 1. Places with the same line but different call chains have different numbers."""

    def __init__(self, debug: DebugInfo):
        self.debug = debug
        self.places: list[Place] = [Place()]
        self._numbers: dict[tuple[Place, ...], int] = {(): 0}
        self._known: dict[int, int] = {}

    def number(self, location: int) -> int:
        """Return the number of the place of an instruction, given by the number after its ``!dbg``."""
        if location not in self._known:
            chain = self.debug.chain(location)
            if chain not in self._numbers:
                self._numbers[chain] = len(self.places)
                self.places.append(chain[0])
            self._known[location] = self._numbers[chain]
        return self._known[location]


def insert_sites(ir: str, own: tuple[str, ...]) -> tuple[str, list[Place]]:
    """Return LLVM text in which every call into the runtime has its place, and the table from number to place."""
    table = SiteTable(DebugInfo(ir, own))
    result = []
    declared = set()
    for line in ir.split("\n"):
        call = _CALL.match(line) if "call" in line else None
        if (
            not call
            or not call[2].startswith(("__tsan_", "__ubsan_", "emu_"))
            or call[2] in ("emu_self", "__tsan_init")
        ):
            result.append(line)
            continue
        debug = _DEBUG.search(line)
        site = table.number(int(debug[1])) if debug else 0
        access = _READ_WRITE.match(call[2])
        if access:
            pointer = call[3][: closing(f"({call[3]}", 1) - 2]  # one argument, possibly an expression
            tail = f", !dbg !{debug[1]}" if debug else ""
            for verb in access[2].split("_"):
                hook = f"emu_{access[1] or ''}{verb}"
                declared.add(hook)
                result.append(f"  call void @{hook}({pointer}, i32 {access[3]}, i32 {site}){tail}")
        else:
            result += [f"  store i32 {site}, ptr @emu_site, align 4", line]
    header = [f"declare void @{hook}(ptr, i32, i32)" for hook in sorted(declared)]
    if not re.search(r"(?m)^@emu_site =", ir):
        header.append("@emu_site = external global i32, align 4")
    first = next(i for i, line in enumerate(result) if line.startswith(("define", "declare", "@")))
    return "\n".join([*result[:first], *header, *result[first:]]), table.places
