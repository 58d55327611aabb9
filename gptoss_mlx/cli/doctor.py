"""``gptoss-mac doctor``: report what this machine offers, and check that shaders compute correctly on it."""

from typing import Annotated

import typer

from gptoss_mlx.errors import KernelError, UsageError, one_line

PLACES = {
    "metal": "shaders, on Metal",
    "emulated": "shaders, emulated",
    "cpu": "the native CPU library",
    None: "plain MLX",
}
"""What ``launch.where`` returns, in words."""


def doctor(
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Compare every shader with plain MLX, at the published sizes.")
    ] = False,
) -> None:
    """Report what this machine offers.

    Exit codes: 0 success, 2 bad usage, 9 a shader disagrees with plain MLX.
    """
    from metal_kernels import comparison, launch

    try:
        place = launch.where()
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(comparison.machine())
    print(f"operations: {PLACES[place]}")
    print(f"native CPU library: {_native_library()}")
    if kernels:
        _compare_kernels(launch.nearest())


def _native_library() -> str:
    """Say what the library runs on and where it is from, or why there is none. Build it if it only has to be built."""
    from metal_kernels.cpu import build
    from metal_kernels.cpu.library import cores, open_library

    try:
        found = build.find()
        opened = open_library(found)
    except build.Absent as reason:
        return f"none, {reason}"
    except OSError as error:
        return f"none, it cannot be loaded: {one_line(error)}"
    origin = "packaged" if found == build.PACKAGED else "built on this machine"
    return f"{opened.architecture}, {cores()} threads, {origin}"


def _compare_kernels(place: str) -> None:
    from metal_kernels import comparison, launch
    from metal_kernels.emulator import ToolchainError

    failed = []
    print(f"shaders ({place}) beside plain MLX, error as a part of a row's largest value:")
    try:
        for shapes in comparison.PUBLISHED:
            for compared in comparison.compare(lambda dispatch: launch.run(dispatch, place), shapes):
                verdict = "agrees" if compared.agrees else "DISAGREES"
                error = f"{compared.error:.1e} of {compared.allowed:.0e} allowed"
                print(f"  {compared.what:<42} {error}: {verdict}", flush=True)
                if not compared.agrees:
                    failed.append(compared.what)
    except ToolchainError as error:
        raise UsageError(f"shaders cannot be emulated here: {error}") from error
    except launch.CompileError as error:
        raise KernelError(f"a shader does not compile: {str(error).partition(chr(10))[0]}") from error
    if failed:
        raise KernelError(f"shaders disagree with plain MLX ({', '.join(failed)}); set GPTOSS_MAC_KERNELS=off")
