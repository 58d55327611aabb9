"""Generates the kernel function around a body as ``mx.fast.metal_kernel`` does, and reads the signature of a whole one.

The rules are those of MLX 0.32 (mlx/backend/common/metal_kernel.cpp). An input of fewer than 8 elements is a pointer to
``constant`` memory, a larger one to ``device`` memory, and a 0-d one is a reference. ``NAME_shape``, ``NAME_strides``,
``NAME_ndim`` and the thread attributes become parameters if their names occur in the body, also as substrings and in
comments.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from metal_kernels.emulator.arrays import dtype_name
from metal_kernels.emulator.errors import CallError
from metal_kernels.source import (
    ATTRIBUTES,
    CONSTANT_BELOW,
    METAL_TYPES,
    SHAPE_PARAMETERS,
    TemplateValue,
    closing,
    split_arguments,
    without_comments,
)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel function: a buffer or a thread attribute, with its name."""

    kind: Literal["buffer", "attribute"]
    name: str


@dataclass(frozen=True)
class Function:
    """A kernel ready to compile: its source, the expression that names the instantiation, its parameters in order."""

    source: str
    expression: str
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True)
class Input:
    """The part of an input that decides the signature."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def space(self) -> str:
        """The address space MLX passes it in."""
        return "constant" if int(np.prod(self.shape)) < CONSTANT_BELOW else "device"


def template_values(template: Sequence[tuple[str, Any]]) -> list[tuple[str, TemplateValue]]:
    """Return template arguments as bool, int or the name of a dtype."""
    return [(name, value if isinstance(value, bool | int) else dtype_name(value)) for name, value in template]


def shape_parameters(name: str, body: str) -> list[tuple[str, str]]:
    """Return which of an input's shape, strides and ndim the body uses, as (suffix, Metal type)."""
    return [(suffix, type_) for suffix, type_ in SHAPE_PARAMETERS.items() if name + suffix in body]


def generate(
    name: str,
    body: str,
    header: str,
    inputs: Sequence[Input],
    outputs: Sequence[tuple[str, str]],
    template: Sequence[tuple[str, TemplateValue]],
    *,
    atomic_outputs: bool,
) -> Function:
    """Return the function MLX would generate. ``outputs`` are (name, dtype). Raise CallError if no attribute is
    used."""
    kinds = {bool: "bool", int: "int", str: "typename"}
    lines: list[tuple[str, Parameter]] = []

    def buffer(declaration: str, parameter: str) -> None:
        index = sum(p.kind == "buffer" for _, p in lines)
        lines.append((f"{declaration} {parameter} [[buffer({index})]]", Parameter("buffer", parameter)))

    for given in inputs:
        pointer = "*" if given.shape else "&"
        buffer(f"const {given.space} {METAL_TYPES[given.dtype]}{pointer}", given.name)
        if given.shape:
            for suffix, type_ in shape_parameters(given.name, body):
                buffer(type_, given.name + suffix)
    for output, dtype in outputs:
        type_ = METAL_TYPES[dtype]
        buffer(f"device {f'atomic<{type_}>' if atomic_outputs else type_}*", output)
    attributes = [attribute for attribute in ATTRIBUTES if attribute in body]
    if not attributes:
        raise CallError(f"{name}: the body reads no thread attribute, so every thread would do the same")
    for attribute in attributes:
        declaration = f"{ATTRIBUTES[attribute]} {attribute} [[{attribute}]]"
        lines.append((declaration, Parameter("attribute", attribute)))

    function = f"custom_kernel_{name}"
    parts = [_numbered(header, f"{name} (header)")] if header else []
    parts.append(f'#line 1 "{name} (signature)"')
    if template:
        parts.append("template <" + ", ".join(f"{kinds[type(value)]} {key}" for key, value in template) + ">")
    parts.append(f"[[kernel]] void {function}(")
    parts.append(",\n".join("  " + line for line, _ in lines) + ") {")
    parts += [_numbered(body, f"{name} (source)"), "}", ""]
    expression = function
    if template:
        written = [str(int(v)) if isinstance(v, bool | int) else METAL_TYPES[v] for _, v in template]
        expression += "<" + ", ".join(written) + ">"
    return Function("\n".join(parts), expression, tuple(parameter for _, parameter in lines))


def _numbered(text: str, file: str) -> str:
    """Return the text with a ``#line`` directive before it, unless it has its own."""
    return text if text.lstrip().startswith("#line") else f'#line 1 "{file}"\n{text}'


def read_signature(source: str, name: str) -> tuple[Parameter, ...]:
    """Return the parameters of a kernel function in a source, buffers by number. Raise CallError if it is not there."""
    text = without_comments(source)
    match = re.search(rf"\bvoid\s+{name}\s*\(", text)
    if not match:
        raise CallError(f"no kernel named {name} in the source")
    parameters = []
    next_buffer = 0
    for argument in split_arguments(text[match.end() : closing(text, match.end()) - 1]):
        words = re.findall(r"\w+", " ".join(re.findall(r"\[\[(.*?)\]\]", argument, re.S)))
        if attribute := next((word for word in words if word in ATTRIBUTES), None):
            parameters.append(Parameter("attribute", attribute))
            continue
        number = re.search(r"buffer\((\d+)\)", argument)
        index = int(number[1]) if number else next_buffer
        next_buffer = index + 1
        parameters.append(Parameter("buffer", str(index)))
    return tuple(parameters)
