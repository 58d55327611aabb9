'''Runs Metal kernels on any machine, thread by thread, and says what is wrong with them.

A kernel is compiled by clang against a shim of ``metal_stdlib``; every thread of a threadgroup is a fiber, so barriers
and simd operations really happen. It takes what ``mx.fast.metal_kernel`` takes, with MLX's generated signature::

    kernel = metal_kernel("scale", ["x"], ["out"], """
        uint i = thread_position_in_grid.x;
        out[i] = T(2.0f * float(x[i]));
    """)
    (out,), report = kernel(inputs=[x], output_shapes=[x.shape], output_dtypes=["float32"],
                            grid=(x.size, 1, 1), threadgroup=(64, 1, 1), template=[("T", "float32")])
    assert not report.findings, report

A shader file (see :mod:`metal_kernels.source`) goes in as ``metal_kernel(**MetalSource.read(path).arguments())``, and
``python -m metal_kernels.emulator FILE.metal`` lints it.

For whoever writes kernels
--------------------------

*Modes.* ``mode="check"`` (the default) finds races, uninitialised memory, out-of-bounds and misaligned accesses,
divergence, undefined arithmetic, outputs never written. ``"count"`` fills the traffic counters, 128-byte lines
included. ``"cover"`` says which lines no thread reached (``report.lines_missed``). ``"fast"`` only runs: an access past
a buffer still ends in an error, without a line. The lint comes before each; it is where address spaces are checked.

*What to assert.* ``report.findings`` is empty in check mode, on shapes that reach every branch; outputs are bit-equal
for ``order="forward"``, ``"reversed"`` and ``"shuffled"``; the error against a float64 reference, in float32 outputs
(make the output type a template parameter). The same outputs with ``flush_subnormals=True`` if a GPU may flush.

*What it demands of a source.* Each ``threadgroup`` variable in a statement of its own. Structs in device or
threadgroup memory are read and written member by member, or through vectors: in the checked modes such memory is
volatile, so that every access happens as written. Accesses to constant memory are counted as compiled.

*Divergence is strict.* All live lanes of a simdgroup must meet at one simd operation in the source, where hardware
may let a subset pass. Reading a lane that takes no part is an error. A barrier must be reached by all threads.

*bfloat16.* numpy lacks it: inputs as ``BFloat16(bits)`` or ``BFloat16.of(floats)``, outputs come back so. mlx arrays
go in and out as they are.

What it cannot vouch for: that Apple's compiler takes the source, registers and occupancy, fast-math, the accuracy of
exp and rsqrt, the order of a simd_sum, speed. Say "emulated" wherever a figure comes from here.
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
