"""Flushes half subnormals to zero, by editing the compiler's intermediate text before it optimises.

Only a Mac can tell whether a GPU keeps them. If results change here, the kernel depends on it. x86 has no mode that
flushes halves, so every half operand and result of arithmetic and conversions is passed through a function. The
processor flushes float arithmetic (runtime.cpp).
"""

import re

_VALUE = r"(?:%[\w.]+|0xH[0-9A-F]{4})"
_FLAGS = r"(?:(?:nnan|ninf|nsz|arcp|contract|afn|reassoc|fast) )*"
_ARITHMETIC = re.compile(
    r"^(\s*)(%\S+) = (fadd|fsub|fmul|fdiv|frem|fneg|fcmp) "
    rf"({_FLAGS}(?:[a-z]{{3}} )?)half ({_VALUE})(?:, ({_VALUE}))?(.*)$"
)
_FROM_HALF = re.compile(rf"^(\s*)(%\S+) = (fpext|fptosi|fptoui) half ({_VALUE}) to (.*)$")
_TO_HALF = re.compile(r"^(\s*)(%\S+) = (fptrunc \w+ \S+ to half)(.*)$")

_FUNCTION = """
define internal half @emu_flush_half(half %x) alwaysinline {
  %bits = bitcast half %x to i16
  %exponent = and i16 %bits, 31744
  %subnormal = icmp eq i16 %exponent, 0
  %zero = and i16 %bits, -32768
  %kept = select i1 %subnormal, i16 %zero, i16 %bits
  %half = bitcast i16 %kept to half
  ret half %half
}
"""


def flush_halves(ir: str) -> str:
    """Return LLVM text, as the front end left it, with every half operand and result flushed."""
    result = []
    count = 0

    def flushed(indent: str, value: str) -> str:
        nonlocal count
        count += 1
        result.append(f"{indent}%emu.flushed.{count} = call half @emu_flush_half(half {value})")
        return f"%emu.flushed.{count}"

    def flush_result(indent: str, name: str, operation: str) -> None:
        nonlocal count
        count += 1
        result.append(f"{indent}%emu.raw.{count} = {operation}")
        result.append(f"{indent}{name} = call half @emu_flush_half(half %emu.raw.{count})")

    for line in ir.split("\n"):
        if match := _ARITHMETIC.match(line):
            indent, name, operation, flags, a, b, rest = match.groups()
            a = flushed(indent, a)
            operands = f"{a}, {flushed(indent, b)}" if b else a
            whole = f"{operation} {flags}half {operands}{rest}"
            if operation == "fcmp":
                result.append(f"{indent}{name} = {whole}")
            else:
                flush_result(indent, name, whole)
        elif match := _FROM_HALF.match(line):
            indent, name, operation, value, rest = match.groups()
            result.append(f"{indent}{name} = {operation} half {flushed(indent, value)} to {rest}")
        elif match := _TO_HALF.match(line):
            indent, name, operation, rest = match.groups()
            flush_result(indent, name, operation + rest)
        else:
            result.append(line)
    return "\n".join(result) + _FUNCTION
