"""Cuts a library's GPU code to one architecture, in place and without moving anything: other code becomes zeros.

The section .nv_fatbin holds fat binaries: a header (magic, version, its own size, the size of the rest), then entries
with a kind (1 PTX, 2 a cubin), their header's size, their payload's size, and at byte 28 the architecture. NVIDIA does
not document this; it is as in CUDA 13's libraries, and what does not look so is refused.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = 0xBA55ED50
SECTION = b".nv_fatbin"
CUBIN = 2
_HEADER = struct.Struct("<IHHQ")
_ENTRY = struct.Struct("<HHIQ")
_ARCHITECTURE = 28
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")


class NotFat(Exception):
    """There is no such GPU code in the file. ``str()`` says what is wrong."""


class Entry(NamedTuple):
    """Some code: its kind, its architecture, and where it begins and ends."""

    kind: int
    architecture: int
    begin: int
    end: int


def cut(library: bytearray, architecture: int) -> int:
    """Zero all code but the cubins that a GPU of ``architecture``, such as 89, runs: the newest of its generation that
    are not newer. Return their architecture. Raises NotFat if there is no such section, or none for the generation."""
    found = list(entries(library))
    fitting = [
        each.architecture
        for each in found
        if each.kind == CUBIN and each.architecture // 10 == architecture // 10 and each.architecture <= architecture
    ]
    if not fitting:
        there = sorted({each.architecture for each in found})
        raise NotFat(f"no code for sm_{architecture}; there is code for {there}")
    for each in found:
        if (each.kind, each.architecture) != (CUBIN, max(fitting)):
            library[each.begin : each.end] = bytes(each.end - each.begin)
    return max(fitting)


def entries(library: bytearray) -> Iterator[Entry]:
    """Yield the entries of all fat binaries. Raises NotFat."""
    at, end = _section(library)
    while at + _HEADER.size <= end:
        magic, _, header, rest = _HEADER.unpack_from(library, at)
        if magic != MAGIC:
            at += 8  # padding
            continue
        entry, stop = at + header, at + header + rest
        if stop > end or header < _HEADER.size:
            raise NotFat("a fat binary reaches past its section")
        while entry < stop:
            kind, _, size, payload = _ENTRY.unpack_from(library, entry)
            of = struct.unpack_from("<I", library, entry + _ARCHITECTURE)[0]
            if size < _ARCHITECTURE + 4 or entry + size + payload > stop:
                raise NotFat("an entry reaches past its fat binary")
            yield Entry(kind, of, entry + size, entry + size + payload)
            entry += size + payload
        at = stop


def _section(library: bytearray) -> tuple[int, int]:
    """Return where the section begins and ends in a 64-bit ELF file."""
    if library[:5] != b"\x7fELF\x02":
        raise NotFat("not a 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", library, 0x28)
    size, count, names = struct.unpack_from("<HHH", library, 0x3A)
    headers = [_SECTION_HEADER.unpack_from(library, table + number * size) for number in range(count)]
    start = headers[names][4]
    for name, _, _, _, offset, nbytes, *_ in headers:
        if library[start + name : library.index(0, start + name)] == SECTION:
            return offset, offset + nbytes
    raise NotFat("no section .nv_fatbin")
