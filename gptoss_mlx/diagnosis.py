"""What ``gptoss-mac doctor`` finds: this machine, what is installed, and for each model what fits and how fast.

Knows no terminal. Reads manifests, configs and a part of one large file; changes nothing. Speeds are predictions.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gptoss_mlx.config import PUBLISHED, ModelConfig
from gptoss_mlx.errors import GptOssError, MemoryBudgetError, ModelFolderError
from gptoss_mlx.home import models_dir
from gptoss_mlx.installed import installed_models
from gptoss_mlx.machine import DiskSpeed, Machine, read_speed, spendable_bytes, this_machine
from gptoss_mlx.memory.here import backend_here, plan_here
from gptoss_mlx.memory.plan import MemoryPlan
from gptoss_mlx.memory.transient import Backend
from gptoss_mlx.model_folder import layout, read_manifest
from gptoss_mlx.prediction.speed import known_chip, predict, predict_paged

CONTEXTS = (None, 8_192, 48_000, 131_072)
"""Contexts that are planned for: as many tokens as fit, a chat, an agent, and all of a published model's."""

TELLING = 16 << 20
"""Bytes of a file from which on the time to read it tells the disk's speed."""

WIRED_RESERVE = 4 << 30
"""Bytes, or an eighth of the memory if that is more, that the suggested wired limit leaves to macOS."""


@dataclass(frozen=True)
class Model:
    """A model to plan for. ``installed`` says that its folder was found."""

    name: str
    dense: str
    config: ModelConfig
    installed: bool


@dataclass(frozen=True)
class Fit:
    """What fits of a model whose layers have so many ``experts``. ``asked`` is the context, None for as many tokens as
    fit. ``plan`` is None where nothing does, and then ``problem`` says why. ``rate`` are the predicted tokens a second,
    None where nothing is known to predict them from."""

    model: str
    experts: int
    installed: bool
    asked: int | None
    plan: MemoryPlan | None
    rate: float | None
    problem: str | None = None

    @property
    def verdict(self) -> str:
        if self.plan is None:
            return "does not fit"
        return "fits" if self.plan.slots is None else "fits with paging"


@dataclass(frozen=True)
class Diagnosis:
    """All that was found. ``budget`` are the bytes a model may take, ``disk`` None where no file was large enough to
    measure it, ``unreadable`` the installed models that cannot be planned for, with the reason."""

    machine: Machine
    backend: Backend
    budget: int
    free_disk: int
    disk: DiskSpeed | None
    fits: tuple[Fit, ...]
    unreadable: dict[str, str]


def diagnose(memory: int | None = None, context: int | None = None) -> Diagnosis:
    """Return what is found. ``memory`` and ``context`` replace what the machine allows and CONTEXTS."""
    known = this_machine()
    folders = [models_dir() / name for name in installed_models()]
    unreadable: dict[str, str] = {}
    models = list(_models(folders, unreadable))
    disk = read_speed([file for folder in folders for file in folder.glob("*.safetensors")])
    if disk is not None and disk.nbytes < TELLING:
        disk = None
    chip = known_chip(known.chip)
    contexts = CONTEXTS if context is None else (context,)
    return Diagnosis(
        machine=known,
        backend=backend_here(),
        budget=spendable_bytes() if memory is None else memory,
        free_disk=shutil.disk_usage(_existing(models_dir())).free,
        disk=disk,
        fits=tuple(_fit(model, wanted, memory, chip, disk) for model in models for wanted in contexts),
        unreadable=unreadable,
    )


def wired_command(machine: Machine) -> str | None:
    """Return the exact command that raises macOS's wired limit until the next start, None where there is none."""
    if machine.working_set is None or machine.memory is None:
        return None
    megabytes = (machine.memory - max(WIRED_RESERVE, machine.memory // 8)) >> 20
    return f"sudo sysctl iogpu.wired_limit_mb={megabytes}"


def _models(folders: list[Path], unreadable: dict[str, str]) -> Iterator[Model]:
    """Yield the installed models, then the published ones that are not. Note those that cannot be read."""
    seen = set()
    for folder in folders:
        try:
            dense = read_manifest(folder)["quantization"]["dense"]
            config = ModelConfig.from_dict(json.loads((folder / layout.CONFIG).read_bytes()), str(folder))
        except GptOssError as error:
            unreadable[folder.name] = str(error)
        except (OSError, ValueError) as error:
            unreadable[folder.name] = str(ModelFolderError(f"{folder / layout.CONFIG}: cannot be read ({error})"))
        else:
            seen.add(folder.name)
            yield Model(folder.name, dense, config, installed=True)
    for name, config in PUBLISHED.items():
        if name not in seen:
            yield Model(name, "q8", config, installed=False)


def _fit(model: Model, context: int | None, memory: int | None, chip: str | None, disk: DiskSpeed | None) -> Fit:
    experts = model.config.num_local_experts
    try:
        plan = plan_here(model.config, model.dense, memory=memory, context=context)
    except MemoryBudgetError as error:
        return Fit(model.name, experts, model.installed, context, None, None, str(error))
    rate = None
    if chip is not None and plan.slots is None:
        rate = predict(model.config, model.dense, chip).rate
    elif chip is not None and plan.slots is not None and disk is not None:
        rate = predict_paged(model.config, model.dense, chip, plan.slots, disk.speed).rate
    return Fit(model.name, experts, model.installed, context, plan, rate)


def _existing(folder: Path) -> Path:
    """Return ``folder``, or the nearest folder above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.is_dir())
