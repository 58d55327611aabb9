"""Reads shader files, one operation each in plain Metal, into the arguments of ``mx.fast.metal_kernel``.

A file has helpers and then, last, one kernel function, as a Metal programmer would write them::

    // What it computes, in a line or more.
    #include "mxfp4.h"                      // helpers shared by shaders; pasted, as MLX has no include path

    METAL_FUNC float swiglu(float gate, float up) { ... }

    template <typename T = float, int ROWS = 4, bool TAIL = false>
    [[kernel]] void gate_up(
        const device T* x,                  // inputs: const; MLX passes 8 elements or more in device memory,
        const constant float& epsilon,      //   fewer in constant memory, and a 0-d array as a reference
        const constant int* x_shape,        // of an input: NAME_shape, NAME_strides (int64_t*), NAME_ndim (int&)
        device T* out,                      // outputs: device, not const
        uint3 threadgroup_position_in_grid [[threadgroup_position_in_grid]],
        uint thread_index_in_simdgroup [[thread_index_in_simdgroup]]) {
      ...
    }

MLX writes the signature itself: inputs and outputs in this order, attributes under their own names. So a parameter has
the name of its attribute. Declared types are compared with the arrays (:meth:`MetalSource.check`), and no array is
converted. Template parameters are typename, int or bool; the lint compiles their defaults. The text before the template
line becomes MLX's ``header``, and the function's body its ``source``. Both get ``#line``, so that messages name the
shader file.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_SAME = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "bfloat16")
METAL_TYPES = {"bool": "bool", **{name: f"{name}_t" for name in _SAME}, "float32": "float"}
"""Metal's name for each dtype, as MLX writes it into a generated signature."""
_ALIASES = {
    "half": "float16",
    "bfloat": "bfloat16",
    "int": "int32",
    "uint": "uint32",
    "uchar": "uint8",
    "char": "int8",
    "short": "int16",
    "ushort": "uint16",
    "long": "int64",
    "ulong": "uint64",
}
"""Other names of the same types that shaders may use."""
DTYPE_NAMES = {**{metal: dtype for dtype, metal in METAL_TYPES.items()}, **_ALIASES}
"""The dtype of each Metal type."""
ATTRIBUTES = {
    "dispatch_quadgroups_per_threadgroup": "uint",
    "dispatch_simdgroups_per_threadgroup": "uint",
    "dispatch_threads_per_threadgroup": "uint3",
    "grid_origin": "uint3",
    "grid_size": "uint3",
    "quadgroup_index_in_threadgroup": "uint",
    "quadgroups_per_threadgroup": "uint",
    "simdgroup_index_in_threadgroup": "uint",
    "simdgroups_per_threadgroup": "uint",
    "thread_execution_width": "uint",
    "thread_index_in_quadgroup": "uint",
    "thread_index_in_simdgroup": "uint",
    "thread_index_in_threadgroup": "uint",
    "thread_position_in_grid": "uint3",
    "thread_position_in_threadgroup": "uint3",
    "threadgroup_position_in_grid": "uint3",
    "threadgroups_per_grid": "uint3",
    "threads_per_grid": "uint3",
    "threads_per_simdgroup": "uint",
    "threads_per_threadgroup": "uint3",
}
"""Thread attributes in MLX's order (0.32, mlx/backend/common/metal_kernel.cpp). MLX declares those that the body
names."""
CONSTANT_BELOW = 8
"""MLX passes inputs of fewer elements in constant memory."""
SHAPE_PARAMETERS = {
    "_shape": "const constant int*",
    "_strides": "const constant int64_t*",
    "_ndim": "const constant int&",
}
"""Parameters that MLX adds for an input if the body uses its name with the suffix."""
TemplateValue = bool | int | str
"""The value of a template parameter. A str is the name of a dtype."""


class SourceError(Exception):
    """A shader file breaks the convention, or a call does not fit a file. ``str()`` is one line with file and line."""


@dataclass(frozen=True)
class Template:
    """A template parameter: its kind, name and default."""

    kind: Literal["typename", "int", "bool"]
    name: str
    default: TemplateValue


@dataclass(frozen=True)
class Array:
    """An input or output: its element type as written (a type or a template parameter), and how it is passed."""

    name: str
    type: str
    space: str  # device or constant
    scalar: bool = False
    atomic: bool = False


@dataclass(frozen=True)
class MetalSource:
    """The parts of a shader file."""

    path: Path
    name: str
    header: str
    body: str
    template: tuple[Template, ...]
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]

    @classmethod
    def read(cls, path: Path | str) -> "MetalSource":
        """Read a file. Raise SourceError, or OSError if it cannot be read."""
        return parse(Path(path), Path(path).read_text())

    @property
    def atomic_outputs(self) -> bool:
        """Whether an output is atomic, which makes MLX declare all so."""
        return any(output.atomic for output in self.outputs)

    def arguments(self) -> dict:
        """Return the keyword arguments for ``mx.fast.metal_kernel`` or the emulator's ``metal_kernel``."""
        return {
            "name": self.name,
            "input_names": [given.name for given in self.inputs],
            "output_names": [output.name for output in self.outputs],
            "source": self.body,
            "header": self.header,
            "atomic_outputs": self.atomic_outputs,
        }

    def template_values(self, given: Mapping[str, TemplateValue]) -> dict[str, TemplateValue]:
        """Return values for all template parameters, in order: those given, and defaults.

        Raises SourceError for an unknown name.
        """
        if unknown := set(given) - {parameter.name for parameter in self.template}:
            raise SourceError(f"{self.path.name}: no template parameter named {', '.join(sorted(unknown))}")
        return {parameter.name: given.get(parameter.name, parameter.default) for parameter in self.template}

    def dtype(self, array: Array, template: Mapping[str, TemplateValue]) -> str:
        """Return the dtype an input or output must have with these template values."""
        if array.type in DTYPE_NAMES:
            return DTYPE_NAMES[array.type]
        return str(self.template_values(template)[array.type])

    def check(self, inputs: Sequence[tuple[str, tuple[int, ...]]], template: Mapping[str, TemplateValue]) -> None:
        """Raise SourceError if (dtype, shape) of an input does not fit its declaration. MLX would compile any."""
        if len(inputs) != len(self.inputs):
            raise SourceError(f"{self.path.name}: {len(inputs)} inputs for {len(self.inputs)} parameters")
        for declared, (dtype, shape) in zip(self.inputs, inputs, strict=True):
            expected = self.dtype(declared, template)
            if dtype != expected:
                raise SourceError(f"{self.path.name}: input '{declared.name}' is {dtype}, declared {expected}")
            if declared.scalar != (len(shape) == 0):
                raise SourceError(
                    f"{self.path.name}: input '{declared.name}' has shape {shape}, declared as a "
                    f"{'reference (0-d)' if declared.scalar else 'pointer'}"
                )
            size = math.prod(shape)
            space = "constant" if size < CONSTANT_BELOW else "device"
            if space != declared.space:
                raise SourceError(
                    f"{self.path.name}: input '{declared.name}' of {size} elements is passed in {space} "
                    f"memory, declared {declared.space}: pad it, or split the kernel"
                )


def without_comments(source: str) -> str:
    """Return the source with comments blanked. Every other character keeps its place."""
    blank = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
    return blank.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), source)


def split_arguments(text: str) -> list[str]:
    """Split at the commas outside brackets: ``"a, b<c, d>"`` to ``["a", " b<c, d>"]``."""
    parts = []
    depth = 0
    current = ""
    for char in text:
        depth += {"(": 1, "<": 1, "[": 1, "{": 1, ")": -1, ">": -1, "]": -1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += char
    return [*parts, current] if current.strip() else parts


def closing(source: str, opened: int) -> int:
    """Return the index after the bracket that closes the one before ``opened``."""
    pairs = {"(": ")", "{": "}", "[": "]"}
    opener = source[opened - 1]
    depth = 1
    at = opened
    while at < len(source) and depth:
        depth += {opener: 1, pairs[opener]: -1}.get(source[at], 0)
        at += 1
    return at


_KERNEL = re.compile(r"(?:\[\[\s*kernel\s*\]\]|\bkernel)\s+void\s+(\w+)\s*\(")
_TEMPLATE = re.compile(r"\btemplate\s*<([^;{}]*)>\s*$")
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)".*$', re.M)


def parse(path: Path, text: str) -> MetalSource:
    """Parse a shader's text. ``path`` locates its includes and names it in messages. Raises SourceError."""
    code = without_comments(text)

    def fail(at: int, message: str) -> SourceError:
        return SourceError(f"{path.name}:{text.count(chr(10), 0, at) + 1}: {message}")

    kernels = list(_KERNEL.finditer(code))
    if len(kernels) != 1:
        raise fail(kernels[1].start() if kernels else 0, f"{len(kernels)} kernel functions; a shader file has one")
    kernel = kernels[0]
    start = kernel.start()
    template: tuple[Template, ...] = ()
    if found := _TEMPLATE.search(code, 0, kernel.start()):
        start = found.start()
        try:
            template = tuple(_template(part) for part in split_arguments(found[1]))
        except ValueError as error:
            raise fail(found.start(), str(error)) from None
    end = closing(code, kernel.end())
    opening = re.compile(r"\s*\{").match(code, end)
    if not opening:
        raise fail(end, f"{kernel[1]} has no body")
    last = closing(code, opening.end())
    if code[last:].strip():
        raise fail(
            last + len(code[last:]) - len(code[last:].lstrip()), "text after the kernel: it comes last in the file"
        )
    body = text[opening.end() : last - 1]

    inputs: list[Array] = []
    outputs: list[Array] = []
    attributes: list[str] = []
    names = {parameter.name for parameter in template if parameter.kind == "typename"}
    at = kernel.end()
    for parameter in split_arguments(code[kernel.end() : end - 1]):
        begins = at + len(parameter) - len(parameter.lstrip())
        try:
            _parameter(" ".join(parameter.split()), names, inputs, outputs, attributes)
        except ValueError as error:
            raise fail(begins, str(error)) from None
        at += len(parameter) + 1
    if not outputs:
        raise fail(kernel.start(), f"{kernel[1]} has no output: a `device` parameter that is not const")
    for attribute in set(ATTRIBUTES) - set(attributes):
        if used := re.compile(rf"\b{attribute}\b").search(code, opening.end()):
            raise fail(used.start(), f"{attribute} is used but is not a parameter")

    line = text.count("\n", 0, opening.end()) + 1
    return MetalSource(
        path=path,
        name=kernel[1],
        header=_paste(path, text[:start], {path.resolve()}),
        body=f'\n#line {line} "{path.name}"\n{body}',
        template=template,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
    )


def _template(text: str) -> Template:
    """Parse one template parameter. Raise ValueError."""
    match = re.fullmatch(r"\s*(typename|class|int|bool)\s+(\w+)\s*=\s*(-?\w+)\s*", text)
    if not match:
        raise ValueError(
            f"template parameter '{' '.join(text.split())}': write typename, int or bool, a name and a default"
        )
    kind, name, default = match.groups()
    if kind == "bool":
        return Template("bool", name, default in ("true", "1"))
    if kind == "int":
        return Template("int", name, int(default))
    if default not in DTYPE_NAMES:
        raise ValueError(f"template parameter {name}: '{default}' is no type an array can have")
    return Template("typename", name, DTYPE_NAMES[default])


def _parameter(
    text: str, typenames: set[str], inputs: list[Array], outputs: list[Array], attributes: list[str]
) -> None:
    """Parse one parameter and append it to one of the lists. Raise ValueError."""
    declared, *brackets = re.split(r"\s*\[\[", text)
    written = brackets[0].rstrip("] ") if brackets else ""
    if written in ATTRIBUTES or declared.split()[-1] in ATTRIBUTES:
        type_, _, name = declared.rpartition(" ")
        if written != name or name not in ATTRIBUTES:
            raise ValueError(f"parameter '{text}': MLX names an attribute's parameter after it: `uint3 A [[A]]`")
        if type_ != ATTRIBUTES[name]:
            raise ValueError(f"parameter '{text}': MLX declares it {ATTRIBUTES[name]}")
        attributes.append(name)
        return
    match = re.fullmatch(r"(const )?(device|constant) (const )?(.+?) ?([*&]) ?(\w+)", declared)
    if not match:
        raise ValueError(f"parameter '{text}' is neither an input, an output nor an attribute")
    const, space, const_too, type_, pointer, name = match.groups()
    for suffix, shape_type in SHAPE_PARAMETERS.items():
        if name.endswith(suffix) and name.removesuffix(suffix) in {given.name for given in inputs}:
            if f"const {space} {type_}{pointer}" not in (shape_type, shape_type.replace("int64_t", "long")):
                raise ValueError(f"parameter '{text}': MLX declares it {shape_type}")
            return
    atomic = re.fullmatch(r"atomic ?< ?(\w+) ?>|atomic_(\w+)", type_)
    element = (atomic[1] or atomic[2]) if atomic else type_
    if element not in DTYPE_NAMES and element not in typenames:
        raise ValueError(f"parameter '{text}': {element} is neither an array's type nor a template parameter")
    if const or const_too:
        if outputs:
            raise ValueError(f"parameter '{text}': MLX puts inputs before outputs")
        inputs.append(Array(name, element, space, pointer == "&"))
    elif space == "device" and pointer == "*":
        outputs.append(Array(name, element, space, atomic=bool(atomic)))
    else:
        raise ValueError(f"parameter '{text}': an input is const, an output is a device pointer")


def _paste(path: Path, text: str, pasted: set[Path]) -> str:
    """Return the text with its quoted includes pasted, each once, and ``#line`` with their file names."""
    parts = [f'#line 1 "{path.name}"\n']
    at = 0
    for match in _INCLUDE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        parts.append(text[at : match.start()])
        at = match.end() + 1
        included = (path.parent / match[1]).resolve()
        if included not in pasted:
            pasted.add(included)
            try:
                content = included.read_text()
            except OSError:
                raise SourceError(f"{path.name}:{line}: cannot read {match[1]}") from None
            parts.append(_paste(included, content.replace("#pragma once", ""), pasted))
        parts.append(f'\n#line {line + 1} "{path.name}"\n')
    parts.append(text[at:])
    return "".join(parts)
