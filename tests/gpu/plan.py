"""Launches as records that need no MLX to run: which cubin, how many blocks, which arrays in which order.

Made here, from the project's own dispatches and MLX's own kernels. Whoever runs them reads JSON and cubins.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx

from metal_kernels import dispatches
from metal_kernels.cuda import cubins, nvrtc
from metal_kernels.cuda.translation import blocks, translated
from metal_kernels.dispatches import Dispatch
from metal_kernels.emulator.kernel import function_of
from metal_kernels.emulator.signature import Function
from metal_kernels.source import MetalSource
from tests.gpu import mlx_kernels
from tests.support import mlx_headers

NATIVE = Path(__file__).resolve().parent / "native"
TOOLS = ("fill", "read", "empty")
"""Kernels of the bench itself."""


@dataclass(frozen=True)
class Array:
    """An array that is not there: what decides a dispatch, its name, and what fills it (``bench.Filling``).

    With ``copies``, launches that follow each other read one after the other.
    """

    name: str
    shape: tuple[int, ...]
    dtype: mx.Dtype
    fill: tuple = ("unset",)
    copies: int = 1

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many elements it has."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes it has."""
        return self.size * self.dtype.size

    def __len__(self) -> int:
        return self.shape[0]

    def record(self) -> dict[str, Any]:
        """Return the array as JSON."""
        fill = list(self.fill)
        return {"shape": self.shape, "dtype": dispatches.name(self.dtype), "fill": fill, "copies": self.copies}


@dataclass(frozen=True)
class Built:
    """A kernel to compile: CUDA C++, options, and for the emulator the function it is made from."""

    text: str
    options: tuple[str, ...]
    function: Function | None = None
    constants: Mapping[str, bool | int] = field(default_factory=dict)


@functools.cache
def _mlx_kernel(
    headers: tuple[str, ...], name: str, template: str, threads: int, constants: tuple[tuple[str, bool | int], ...]
) -> tuple[Function, str, list[mlx_kernels.Parameter]]:
    function = mlx_headers.kernel(list(headers), name, template)
    return function, *mlx_kernels.translated(function, name, threads, dict(constants))


class Plan:
    """Launches for one architecture, and the kernels that they need."""

    def __init__(self, architecture: str = nvrtc.ARCHITECTURE) -> None:
        self.architecture = architecture
        self.kernels: dict[str, Built] = {}
        self.tools = {tool: self._add(Built((NATIVE / f"{tool}.cu").read_text(), nvrtc.OPTIONS)) for tool in TOOLS}

    def ours(self, made: Dispatch, outputs: Sequence[str], inputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the record of a dispatch whose outputs get these names. Inputs are named by their arrays, or given.

        A shape that the shader asks for is a small array with data of its own, ``{"data": [...]}``.
        """
        source = MetalSource.read(dispatches.FOLDER / f"{made.shader}.metal")
        function = function_of(source, dict(made.template))
        names = [array.name for array in made.inputs] if inputs is None else inputs  # type: ignore[attr-defined]
        given = dict(zip((one.name for one in source.inputs), zip(names, made.inputs, strict=True), strict=True))
        written = dict(zip((one.name for one in source.outputs), outputs, strict=True))
        arguments: list[dict[str, Any]] = []
        for parameter in function.parameters:
            if parameter.kind != "buffer":
                continue
            name = parameter.name
            if name in given or name in written:
                arguments.append({"array": given[name][0] if name in given else written[name]})
            else:
                arguments.append({"data": list(given[name.removesuffix("_shape")][1].shape), "dtype": "int32"})
        count, threads = blocks(source, made.grid, made.threadgroup)
        kernel = self._add(Built(translated(function, prod(made.threadgroup)), nvrtc.OPTIONS, function))
        return {"shader": made.shader, "cubin": kernel, "blocks": count, "threads": threads, "arguments": arguments}

    def mlx(
        self,
        headers: list[str],
        name: str,
        template: str,
        count: tuple[int, int, int],
        threads: tuple[int, int, int],
        values: Mapping[str, Any],
        constants: Mapping[str, bool | int] | None = None,
    ) -> dict[str, Any]:
        """Return the record of a launch of MLX's kernel. ``values`` by parameter are the names of arrays, or None for
        one that is not read, or numbers."""
        given = tuple((constants or {}).items())
        function, text, parameters = _mlx_kernel(tuple(headers), name, template, prod(threads), given)
        arguments: list[dict[str, Any]] = []
        for parameter in parameters:
            value = values[parameter.name]
            arguments.append(
                {"array": value} if parameter.kind == "pointer" else {"value": value, "type": parameter.type}
            )
        kernel = self._add(Built(text, mlx_kernels.OPTIONS, function, constants or {}))
        return {"shader": name, "cubin": kernel, "blocks": count, "threads": threads, "arguments": arguments}

    def write(self, folder: Path) -> None:
        """Compile every kernel into a folder, as ``NAME.cubin`` and, beside it, its registers. Raises nvrtc.Absent and
        nvrtc.CompileError."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, built in self.kernels.items():
            cubins.write(cubins.of_source(built.text, self.architecture, built.options), folder, name)

    def _add(self, built: Built) -> str:
        name = cubins.name(built.text, self.architecture, built.options)
        self.kernels.setdefault(name, built)
        return name
