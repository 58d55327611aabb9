"""MLX's own Metal kernels as CUDA C++, to be timed beside ours on one card. Ours has a shim of its own.

What MLX passes by value (numbers, shapes, strides) is passed by value here too.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metal_kernels.cuda.translation import ENTRY, THREADGROUP_VARIABLE
from metal_kernels.emulator.signature import Function
from metal_kernels.source import closing, split_arguments, without_comments

SHIM = Path(__file__).resolve().parent / "native" / "mlx.cuh"
OPTIONS = ("--std=c++17", "--device-as-default-execution-space", "--ptxas-options=-v", "-w")
"""As Apple's compiler does, MLX's kernels may fuse a product and a sum."""
_FUNCTION_CONSTANT = re.compile(r"constant\s+(bool|int|float)\s+(\w+)\s*\[\[function_constant\(\d+\)\]\];")
_THREAD = "(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z))"
ATTRIBUTES = {
    "threadgroup_position_in_grid": "uint3(blockIdx.x, blockIdx.y, blockIdx.z)",
    "threadgroups_per_grid": "uint3(gridDim.x, gridDim.y, gridDim.z)",
    "thread_position_in_threadgroup": "uint3(threadIdx.x, threadIdx.y, threadIdx.z)",
    "threads_per_threadgroup": "uint3(blockDim.x, blockDim.y, blockDim.z)",
    "thread_index_in_threadgroup": _THREAD,
    "simdgroup_index_in_threadgroup": f"({_THREAD} / 32)",
    "thread_index_in_simdgroup": f"({_THREAD} % 32)",
}


@dataclass(frozen=True)
class Parameter:
    """One argument of the entry: a pointer, a number, or eight numbers of a shape."""

    name: str
    kind: Literal["pointer", "value", "values"]
    type: str = ""


def translated(
    function: Function, name: str, threads: int, constants: Mapping[str, bool | int]
) -> tuple[str, list[Parameter]]:
    """Return the source of an entry for the kernel ``name`` in threadgroups of ``threads``, and its parameters.

    ``constants`` are function constants; those not given are false. Raises KeyError for an attribute not known.
    """
    source = _FUNCTION_CONSTANT.sub(
        lambda found: f"constexpr {found[1]} {found[2]} = {str(constants.get(found[2], False)).lower()};",
        function.source,
    )
    source = re.sub(r"\[\[\s*threadgroup\s*\(\d+\)\s*\]\]", "", source)
    source = THREADGROUP_VARIABLE.sub(r"\1__shared__\2", source)
    source = re.sub(r'_Pragma\("clang loop unroll\(full\)"\)|#pragma clang loop unroll\(full\)', "", source)
    source = re.sub(r"(?m)^\s*#\s*include\s*<metal[^>]*>.*$", "", source)
    parameters: list[Parameter] = []
    declared: list[str] = []
    arguments: list[str] = []
    for text in _signature(source, name):
        attributes = re.findall(r"\w+", " ".join(re.findall(r"\[\[(.*?)\]\]", text, re.S)))
        plain = " ".join(re.sub(r"\[\[.*?\]\]", "", text, flags=re.S).split())
        if "buffer" not in attributes and (
            attribute := next((word for word in attributes if word in ATTRIBUTES), None)
        ):
            whole = ATTRIBUTES[attribute]
            arguments.append(
                f"{whole}.x" if whole.startswith("uint3") and plain.startswith(("uint ", "ushort ")) else whole
            )
            continue
        parameter = _parameter(plain)
        at = f"b{len(parameters)}"
        if parameter.kind == "pointer":
            declared.append(f"void* {at}")
            arguments.append(f"mlx_pointer{{{at}}}")
        else:
            of = parameter.type if parameter.kind == "value" else f"mlx_eight<{parameter.type}>"
            declared.append(f"const __grid_constant__ {of} {at}")
            arguments.append(at if parameter.kind == "value" else f"{at}.of")
        parameters.append(parameter)
    entry = (
        f'#line 1 "entry"\nextern "C" __global__ void __launch_bounds__({threads}) {ENTRY}({", ".join(declared)}) {{\n'
        f"  {function.expression}({', '.join(arguments)});\n}}\n"
    )
    return f"{SHIM.read_text()}\n{source}\n{entry}", parameters


def _signature(source: str, name: str) -> list[str]:
    text = without_comments(source)
    found = re.search(rf"\bvoid\s+{name}\s*\(", text)
    assert found, name
    return split_arguments(text[found.end() : closing(text, found.end()) - 1])


def _parameter(plain: str) -> Parameter:
    name = re.search(r"(\w+)$", plain)
    assert name, plain
    words = re.sub(r"\b(const|device|constant)\b", "", plain[: -len(name[1])])
    type_ = words.replace("&", "").replace("*", "").strip()
    if "&" in words:
        return Parameter(name[1], "value", type_)
    if re.search(r"_(shape|strides?)$", name[1]) and "constant" in plain:
        return Parameter(name[1], "values", type_)
    return Parameter(name[1], "pointer")
