"""``gptoss-mac doctor``: report what this machine offers, which models fit, and whether shaders compute correctly."""

import platform
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptoss_mlx import __version__
from gptoss_mlx.cli import options
from gptoss_mlx.cli.terminal import print_json, table_console
from gptoss_mlx.errors import KernelError, UsageError, one_line, shown

if TYPE_CHECKING:
    from rich.table import Table

    from gptoss_mlx.diagnosis import Diagnosis
    from gptoss_mlx.memory.plan import MemoryPlan

PLACES = {
    "metal": "shaders, on Metal",
    "emulated": "shaders, emulated",
    "cuda": "shaders, on an NVIDIA GPU: a bench for them, with no promise to users of NVIDIA cards",
    "cpu": "the native CPU library",
    None: "plain MLX",
}
"""What ``launch.where`` returns, in words."""


def doctor(
    memory: options.Memory = None,
    context: options.ContextTokens = None,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Compare every shader with plain MLX, at the published sizes.")
    ] = False,
    macs: Annotated[
        str | None,
        typer.Option(metavar="LIST", help='Plan for Macs that work together instead: "M4 Pro 24GB, M2 16GB".'),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Report what this machine offers, and which models fit.

    Changes nothing. Speeds are predictions from published ones, never measured.

    Exit codes: 0 success, 2 bad usage, 9 a shader disagrees with plain MLX.
    """
    from gptoss_mlx.limits import context_limit, memory_limit
    from metal_kernels import comparison, launch

    limit = memory_limit(memory)
    wanted = context_limit(context)
    if kernels and as_json:
        raise UsageError("--json does not go with --kernels")
    if macs is not None:
        if kernels or memory is not None:
            raise UsageError("--macs plans for other machines; leave out --kernels and --memory")
        from gptoss_mlx.cli.macs import show_macs

        show_macs(macs, wanted, as_json)
        return
    try:
        place = launch.where()
    except ValueError as error:
        raise UsageError(str(error)) from error

    from gptoss_mlx.diagnosis import diagnose

    programs = {
        "versions": f"gptoss-mac {__version__}, Python {platform.python_version()}, {comparison.machine()}",
        "operations": PLACES[place],
        "native CPU library": _native_library(),
    }
    if as_json:
        print_json(_as_json(diagnose(limit, wanted), programs))
        return
    for name, value in programs.items():
        print(f"{name}: {value}")
    if kernels:
        _compare_kernels(launch.nearest())
    else:
        _show(diagnose(limit, wanted))


def _show(found: "Diagnosis") -> None:
    for name, value in _facts(found).items():
        print(f"{name}: {shown(value)}")
    for name, problem in found.unreadable.items():
        print(f"model {shown(name)}: {problem}")

    console = table_console()
    console.print(_fits_table(found))
    console.print(_plan_table(found))
    for notice in _notes(found):
        console.print(notice, markup=False)


def _facts(found: "Diagnosis") -> dict[str, str]:
    """Return what is known of the machine in words, and say what is not known."""
    from gptoss_mlx.diagnosis import wired_command

    machine = found.machine
    unknown = "not known here"
    disk = found.disk
    wired = f"{unknown}, only macOS has one"
    if (command := wired_command(machine)) is not None:
        now = _gigabytes(machine.wired_limit) if machine.wired_limit else "macOS's own"
        wired = (
            f"{now}. This raises it until the next start: {command}. Then the GPU may take memory that macOS needs: "
            "kernel panics were reported with much wired memory (mlx issue 3186). This program never sets it"
        )
    return {
        "system": machine.system,
        "chip": machine.chip or unknown,
        "GPU cores": unknown if machine.gpu_cores is None else str(machine.gpu_cores),
        "memory": f"{_gigabytes(machine.memory)}, {_gigabytes(machine.available)} available",
        "Metal working set": f"{unknown}, no Metal" if machine.working_set is None else _gigabytes(machine.working_set),
        "wired limit": wired,
        "power mode": machine.power_mode or unknown,
        "free disk": _gigabytes(found.free_disk),
        "disk read speed": "not measured: no installed model has a large file"
        if disk is None
        else f"{disk.speed / 1e9:.2f} GB/s over {disk.nbytes / 1e6:.0f} MB"
        + ("" if disk.cold else ", perhaps from memory"),
        "a model may take": _gigabytes(found.budget),
    }


def _fits_table(found: "Diagnosis") -> "Table":
    from rich.table import Table

    table = Table("model", "context", "verdict", "experts in memory", "predicted tokens/s")
    seen = {(fit.model, fit.plan.context) for fit in found.fits if fit.asked is None and fit.plan is not None}
    for fit in found.fits:
        plan = fit.plan
        if (fit.model, fit.asked) in seen:
            continue
        name = fit.model if fit.installed else f"{fit.model} (not installed)"
        if plan is None:
            table.add_row(name, _tokens(fit.asked), fit.verdict, "", "")
            continue
        held = "all" if plan.slots is None else f"{plan.slots} of {fit.experts} a layer"
        rate = "-" if fit.rate is None else f"{fit.rate:.0f}"
        context = f"{plan.context:,}" + ("" if fit.asked in (None, plan.context) else f" of {fit.asked:,}")
        table.add_row(name, context, fit.verdict, held, rate)
    return table


def _plan_table(found: "Diagnosis") -> "Table":
    """Return the parts of each model's first plan."""
    from rich.table import Table

    from gptoss_mlx.memory.plan import PARTS

    firsts = {fit.model: fit.plan for fit in reversed(found.fits) if fit.plan is not None}
    names = list(firsts)[::-1]
    table = Table("predicted GB" if found.backend == "metal" else "GB", *names)
    for part in PARTS:
        table.add_row(part, *(_part(firsts[name], part) for name in names))
    table.add_row("in all", *(f"{firsts[name].peak / 1e9:.2f}" for name in names))
    left = [firsts[name].left for name in names]
    table.add_row("left to the system", *("?" if rest is None else f"{rest / 1e9:.2f}" for rest in left))
    return table


def _part(plan: "MemoryPlan", name: str) -> str:
    for part in plan.parts:
        if part.name == name:
            return f"{part.nbytes / 1e9:.2f}" + (" mapped" if part.mapped else "") + ("" if part.counted else ", apart")
    return ""


def _notes(found: "Diagnosis") -> list[str]:
    from gptoss_mlx.prediction.speed import WORST_ERROR

    notes = []
    firsts = {fit.model: fit for fit in reversed(found.fits)}
    for fit in reversed(firsts.values()):
        notes += [f"{fit.model}: {said}" for said in ((fit.problem,) if fit.plan is None else fit.plan.notices)]
    if found.backend == "metal":
        notes.append("What Metal takes is a prediction: nobody has measured it.")
    if any(fit.rate is not None for fit in found.fits):
        notes.append(
            f"Speeds are predicted from published ones and may be off by a factor of {WORST_ERROR:.1f}, and by more "
            "where heat or the power mode slows the chip."
        )
    else:
        notes.append("No speeds are predicted: that takes an Apple chip whose bandwidth is known here.")
    return notes


def _as_json(found: "Diagnosis", programs: dict[str, str]) -> dict[str, Any]:
    """Return what was found as JSON's values. What is not known is null."""
    from gptoss_mlx.diagnosis import wired_command

    fits = []
    for fit in found.fits:
        plan = None if fit.plan is None else asdict(fit.plan) | {"peak": fit.plan.peak, "left": fit.plan.left}
        about = {"model": fit.model, "installed": fit.installed, "asked_context": fit.asked, "verdict": fit.verdict}
        fits.append(about | {"plan": plan, "problem": fit.problem, "predicted_tokens_per_second": fit.rate})
    return {
        "programs": programs,
        "machine": asdict(found.machine) | {"wired_limit_command": wired_command(found.machine)},
        "backend": found.backend,
        "budget": found.budget,
        "free_disk": found.free_disk,
        "disk": None if found.disk is None else asdict(found.disk),
        "fits": fits,
        "unreadable_models": found.unreadable,
    }


def _gigabytes(nbytes: int | None) -> str:
    return "not known here" if nbytes is None else f"{nbytes / 1e9:.2f} GB"


def _tokens(count: int | None) -> str:
    return "as many as fit" if count is None else f"{count:,}"


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

    try:
        launch.check(place)
    except ValueError as reason:
        raise UsageError(str(reason)) from reason
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
    except launch.CompileError as error:
        raise KernelError(f"a shader does not compile: {str(error).partition(chr(10))[0]}") from error
    if failed:
        raise KernelError(f"shaders disagree with plain MLX ({', '.join(failed)}); set GPTOSS_MAC_KERNELS=off")
