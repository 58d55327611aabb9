"""Arrays as inputs and outputs: numpy arrays, mlx arrays, and bfloat16, which numpy lacks.

A dtype is given by its numpy name or "bfloat16". mlx is imported only if the caller passes its arrays.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from metal_kernels.emulator.errors import CallError
from metal_kernels.source import METAL_TYPES

_UNSET = {
    "float32": (0xFFFF0000, 0xFFFF0000),
    "float16": (0xFFF8, 0xFFF8),
    "bfloat16": (0xFFFF, 0xFFFF),
    **dict.fromkeys(("int32", "uint32"), (2**32 - 1, 0xAAAAAAAA)),
    **dict.fromkeys(("int64", "uint64"), (2**64 - 1, 0xAAAAAAAAAAAAAAAA)),
}
"""Mask and value of the bits by which an element shows the pattern of unset memory (runtime.cpp). A NaN keeps as many
leading bits of its payload as the narrowest type it passed through has. Small integers cannot show it."""


def unset_pattern(dtype: str | None) -> tuple[int, int]:
    """Return mask and value of the bits by which an element shows that it was never set, or (0, 0) if it cannot."""
    return _UNSET.get(dtype or "", (0, 0))


@dataclass(frozen=True)
class BFloat16:
    """A bfloat16 array as its bits: uint16 of the same shape."""

    bits: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "BFloat16":
        """Return float values rounded to nearest, ties to even."""
        u = np.ascontiguousarray(values, np.float32).view(np.uint32)
        rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16
        nan = (u & 0x7FFFFFFF) > 0x7F800000
        return cls(np.where(nan, (u >> 16) | 0x40, rounded).astype(np.uint16).reshape(np.shape(values)))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, as of a numpy array."""
        return self.bits.shape


def dtype_name(dtype: Any) -> str:
    """Return the name of a dtype, given as a string, a numpy dtype or an mlx dtype.

    Raises CallError if Metal has no such type.
    """
    name = str(dtype).removeprefix("mlx.core.") if not isinstance(dtype, type) else np.dtype(dtype).name
    name = {"bool_": "bool"}.get(name, name)
    if name not in METAL_TYPES:
        raise CallError(f"no Metal type for dtype {dtype}")
    return name


def is_mlx(array: Any) -> bool:
    """Return whether an array is of mlx, without importing mlx."""
    return type(array).__module__.split(".")[0] == "mlx"


def storage(name: str) -> np.dtype:
    """Return the numpy dtype that holds a dtype's bits."""
    return np.dtype(np.uint16 if name == "bfloat16" else name)


def take(array: Any) -> tuple[np.ndarray, str]:
    """Return an array's bits as a numpy array, and the name of its dtype.

    A number becomes a 0-d array of int32 or float32, as in MLX. Raises CallError for anything else.
    """
    if isinstance(array, BFloat16):
        return array.bits, "bfloat16"
    if is_mlx(array):
        import mlx.core as mx

        name = dtype_name(array.dtype)
        if name == "bfloat16":
            array = array.reshape(array.shape or (1,)).view(mx.uint16).reshape(array.shape)
        return np.array(array, copy=None), name
    if isinstance(array, bool | int | float):
        array = np.asarray(array, {bool: np.bool_, int: np.int32, float: np.float32}[type(array)])
    if not isinstance(array, np.ndarray | np.generic):
        raise CallError(f"an input is a {type(array).__name__}, not an array")
    return np.asarray(array), dtype_name(array.dtype)


def give(bits: np.ndarray, name: str, as_mlx: bool) -> Any:
    """Return an output from its bits: an mlx array, a numpy array or a BFloat16."""
    if not as_mlx:
        return BFloat16(bits) if name == "bfloat16" else bits
    import mlx.core as mx

    array = mx.array(bits)
    return array.view(mx.bfloat16) if name == "bfloat16" else array
