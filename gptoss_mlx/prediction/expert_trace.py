"""Which experts a run chose, in a file: written while it runs, and read again.

JSON lines. The first has the fields of ``About``, with "format" and "version". Each other line is a ``Look`` of
``model.experts``: what the host saw when it waited for a choice.

    {"way": "step", "prompt": false, "layer": 0, "missed": 2, "experts": [...], "weights": [...]}

``experts`` are ids [layers, rows, experts a token], of each layer from ``layer`` on, and ``weights`` what their outputs
are multiplied by. Where ``missed`` is a layer, what later layers chose was computed without an absent expert. They are
in the next line again.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from gptoss_mlx.errors import StorageError, UsageError
from gptoss_mlx.model.experts import Look, Way
from gptoss_mlx.model_folder import ModelFolder
from gptoss_mlx.model_folder.expert_slots import expert_nbytes, holds_experts

FORMAT = "expert trace"
VERSION = 1
DIGITS = 4
"""Digits of a weight that are kept."""


@dataclass(frozen=True)
class About:
    """What a trace is of: the model's name and sizes, how many experts a layer held at once, and an expert's bytes."""

    model: str
    layers: int
    experts: int
    per_token: int
    slots: int
    expert_nbytes: int

    @classmethod
    def of(cls, folder: ModelFolder, slots: int) -> "About":
        """Return what a trace of a model folder says of it."""
        config = folder.config
        return cls(
            model=folder.path.name,
            layers=config.num_hidden_layers,
            experts=config.num_local_experts,
            per_token=config.num_experts_per_tok,
            slots=slots,
            expert_nbytes=next(expert_nbytes(stretch) for stretch in folder.stretches() if holds_experts(stretch)),
        )


class TraceWriter:
    """A new file that takes one look after another. Each is in it when the call returns."""

    def __init__(self, path: Path, about: About) -> None:
        """Make the file. Only the user can read it. Raises StorageError, also if it exists."""
        self._path = path
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise StorageError(f"{path}: exists; remove it, or give another file") from error
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror})") from error
        self._file = os.fdopen(descriptor, "w", buffering=1, encoding="utf-8")
        self._write({"format": FORMAT, "version": VERSION, **asdict(about)})

    def __call__(self, look: Look) -> None:
        """Append a look. Raises StorageError."""
        places = {"way": look.way, "prompt": look.prompt, "layer": look.first, "missed": look.missed}
        weights = np.round(look.weights.astype(np.float64), DIGITS).tolist()
        self._write(places | {"experts": look.chosen.tolist(), "weights": weights})

    def _write(self, line: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be written ({error.strerror})") from error


def read_trace(path: Path) -> tuple[About, list[Look]]:
    """Return what a file holds. A last line without an end, as a killed run leaves it, is not read. Raises
    UsageError."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        found = _lines(lines)
        about = next(found)
        if about.pop("format") != FORMAT or about.pop("version") != VERSION:
            raise ValueError("another format")
        known = About(**about)
        return known, [_look(line, known) for line in found]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, StopIteration, RecursionError) as error:
        raise UsageError(f"{path}: is no whole trace of experts; make one with --trace-experts") from error


def _lines(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        found = json.loads(line)
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
        yield found


def _look(line: dict[str, Any], about: About) -> Look:
    """Return a line's look. Raises ValueError, TypeError or KeyError for one that cannot be of such a model."""
    way, first, missed = line["way"], int(line["layer"]), line["missed"]
    shape = (len(line["experts"]), -1, about.per_token)
    chosen = np.array(line["experts"], np.int64).reshape(shape if shape[0] else (0, 1, about.per_token))
    weights = np.array(line["weights"], np.float32).reshape(chosen.shape)
    end = first + len(chosen)
    if way not in get_args(Way) or not 0 <= first <= end <= about.layers:
        raise ValueError("no such layers")
    if missed is not None and not first <= int(missed) < end:
        raise ValueError("no such layer")
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < about.experts:
        raise ValueError("no such expert")
    return Look(way, bool(line["prompt"]), first, missed, chosen, weights)
