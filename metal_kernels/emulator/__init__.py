'''Runs Metal kernels on any machine, thread by thread, and reports their defects.

Clang compiles a kernel against a shim of ``metal_stdlib``. Every thread of a threadgroup is a fiber, so barriers and
simd operations really happen. The call is that of ``mx.fast.metal_kernel``, with the signature MLX generates::

    kernel = metal_kernel("scale", ["x"], ["out"], """
        uint i = thread_position_in_grid.x;
        out[i] = T(2.0f * float(x[i]));
    """)
    (out,), report = kernel(inputs=[x], output_shapes=[x.shape], output_dtypes=["float32"],
                            grid=(x.size, 1, 1), threadgroup=(64, 1, 1), template=[("T", "float32")])
    assert not report.findings, report

A shader file (see :mod:`metal_kernels.source`) goes in as ``metal_kernel(**MetalSource.read(path).arguments())``, and
``python -m metal_kernels.emulator FILE.metal`` lints it.

For authors of kernels
----------------------

*Modes.* ``mode="check"`` (the default) finds races, uninitialised memory, out-of-bounds and misaligned accesses,
divergence, undefined arithmetic, and outputs never written. ``"count"`` fills the traffic counters, also of 128-byte
lines. ``"cover"`` reports the lines no thread reached (``report.lines_missed``). ``"fast"`` only runs; an access past a
buffer still is an error, but without a line. The lint runs before each mode and checks address spaces.

*What to assert.* ``report.findings`` is empty in check mode, on shapes that reach every branch. Outputs are bit-equal
for ``order="forward"``, ``"reversed"`` and ``"shuffled"``. The error of float32 outputs against a float64 reference is
small (make the output type a template parameter). Outputs stay the same with ``flush_subnormals=True`` if a GPU may
flush.

*What a source has to do.* It declares each ``threadgroup`` variable in a statement of its own. It reads and writes
structs in device or threadgroup memory member by member, or through vectors. In the checked modes such memory is
volatile, so that every access happens as written. Accesses to constant memory are counted as compiled. It indexes
private arrays by what is constant once loops are unrolled, because the lint rejects a private variable that the
compiler leaves in memory.

*Divergence is strict.* All live lanes of a simdgroup must meet at one simd operation in the source, although hardware
may let a subset pass. Reading a lane that takes no part is an error. All threads must reach a barrier.

*bfloat16.* numpy lacks it. Inputs are ``BFloat16(bits)`` or ``BFloat16.of(floats)``, and outputs are of that type, too.
mlx arrays go in and out as they are.

The emulator cannot show whether Apple's compiler takes the source. It shows nothing about registers, occupancy,
fast-math, the accuracy of exp and rsqrt, the order of a simd_sum, or speed. Say "emulated" wherever a figure comes from
here.
'''

from metal_kernels.emulator.arrays import BFloat16
from metal_kernels.emulator.errors import CallError, EmulatorError, KernelFault, LintError, ToolchainError
from metal_kernels.emulator.kernel import metal_kernel
from metal_kernels.emulator.report import BufferUse, Finding, FindingKind, Place, Report

__all__ = [
    "BFloat16",
    "BufferUse",
    "CallError",
    "EmulatorError",
    "Finding",
    "FindingKind",
    "KernelFault",
    "LintError",
    "Place",
    "Report",
    "ToolchainError",
    "metal_kernel",
]
