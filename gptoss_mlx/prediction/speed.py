"""How fast a model decodes on an Apple chip: a prediction from published speeds. Nothing here was measured on a Mac.

A token takes its bytes over the bandwidth that is reached, and its dispatches times what one costs on that class of
chip. Five numbers are fitted to ``published_speeds``: the share of the bandwidth, a dispatch's cost on base and Pro, on
Max and on Ultra chips, and M5's factor to it. Reading experts from disk and waiting for the router come on top. Heat
and power modes are not in it: they moved published speeds by up to 3.8 times.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gptoss_mlx.config import FULL, PUBLISHED, ModelConfig
from gptoss_mlx.model_folder.layout import shards
from gptoss_mlx.model_folder.safetensors import nbytes_of
from gptoss_mlx.prediction.published_speeds import BANDWIDTH, FIT_ROWS, GB, OMLX_HITS, Published

CLASSES = ("base", "Max", "Ultra")
"""Classes of chips with a dispatch cost of their own; Pro chips are of the first."""

PEER_DISPATCHES = 39
"""Dispatches a layer in mlx-lm's decode step, counted from its source. The published engines are taken to have as
many."""

OWN_DISPATCHES = 6
"""Dispatches a layer in this runtime's, recorded without a GPU."""

READBACK = (0.2e-3, 0.35e-3)
"""Seconds that a readback of the router took others, at the least and at the most, on an M4 (mlx-lm issue 1438)."""

KEPT = 0.9
"""How much of what layers behind a missed one choose they choose again when its experts are there. In the bundled
model, which has four layers, it is 0.87 to 0.97 (``python -m gptoss_mlx.bench.replay`` on its traces). Nobody has
published it for 20b or 120b."""

WORST_ERROR = 1.62
"""The factor of the largest error in ``left_out``: so far off was a prediction for a chip that is not in the rows."""

NO_ERROR = 1e-4
"""An error, of a logarithm, below which rows agree. It keeps the absolute value's corner out of the search, and is
small, so that nothing else changes."""

Q4_SHARE = 4.5 / 8.5
"""What a dense matrix in 4 bits takes of one in 8, groups' scales and offsets included."""


@dataclass(frozen=True)
class Parameters:
    """The fitted numbers: ``share`` of the bandwidth, seconds a dispatch by class, and M5's factor to that."""

    share: float
    base: float
    max: float
    ultra: float
    m5: float

    def dispatch(self, chip: str) -> float:
        """Return the seconds that a dispatch costs on a chip such as "M4 Pro"."""
        cost = {"base": self.base, "Max": self.max, "Ultra": self.ultra}[class_of(chip)]
        return cost * (self.m5 if chip.startswith("M5") else 1.0)


@dataclass(frozen=True)
class Paging:
    """Experts in slots. ``hit`` is the share of chosen experts that are in memory, ``disk`` bytes a second,
    ``readback`` the seconds that one readback takes, ``readbacks`` how many a token needs, and ``repeated`` how many
    whole steps it computes again. ``vain`` experts a token are read and not needed. Of what is read a share ``cached``
    comes from the page cache, at ``warm`` bytes a second."""

    hit: float
    disk: float
    readback: float
    readbacks: float
    repeated: float = 0.0
    vain: float = 0.0
    cached: float = 0.0
    warm: float = 10.6 * GB  # pread of what is in the page cache, by mlx-lm issue 1438


@dataclass(frozen=True)
class Prediction:
    """Seconds a token takes, term by term. A prediction, from published speeds of other programs."""

    terms: dict[str, float]

    @property
    def seconds(self) -> float:
        return sum(self.terms.values())

    @property
    def rate(self) -> float:
        """Return tokens a second."""
        return 1 / self.seconds


def class_of(chip: str) -> str:
    """Return the class of a chip such as "M2 Ultra"."""
    return chip.split()[-1] if chip.endswith((" Max", " Ultra")) else "base"


def known_chip(name: str | None) -> str | None:
    """Return "M4 Pro" for macOS's "Apple M4 Pro", or None for a chip whose bandwidth is not known here."""
    short = (name or "").removeprefix("Apple ")
    return short if short in BANDWIDTH else None


def known_bandwidth(name: str | None) -> float | None:
    """Return the bytes a second of the memory of what macOS calls the chip, or None if that is not known here."""
    chip = known_chip(name)
    return None if chip is None else BANDWIDTH[chip] * GB


def token_bytes(config: ModelConfig, dense: str, context: int = 0, width: int = 2) -> float:
    """Return the bytes that a decoded token reads: its experts, all dense tensors but the embedding, and the keys and
    values, of ``width`` bytes a number, that it sees. ``dense`` is "q8", "bf16" or "q4"."""
    _, *layers, head = shards(config, "q8" if dense == "q4" else dense)
    matrices = [spec for shard in (*layers, head) for spec in shard.dense_tensors.values()]
    weights = sum(nbytes_of(spec.dtypes[0], spec.shape) for spec in matrices) * (Q4_SHARE if dense == "q4" else 1.0)
    experts = expert_bytes(config) * config.num_experts_per_tok * config.num_hidden_layers
    full = config.layer_types.count(FULL)
    seen = full * context + (config.num_hidden_layers - full) * min(context, config.sliding_window)
    return weights + experts + seen * 2 * config.num_key_value_heads * config.head_dim * width


def expert_bytes(config: ModelConfig) -> float:
    """Return the bytes of one expert of one layer."""
    tensors = shards(config, "q8")[1].expert_tensors.values()
    return sum(nbytes_of(spec.dtypes[0], spec.shape) for spec in tensors) / config.num_local_experts


def predict(
    config: ModelConfig,
    dense: str,
    chip: str,
    *,
    context: int = 0,
    dispatches: int = OWN_DISPATCHES,
    paging: Paging | None = None,
    parameters: "Parameters | None" = None,
) -> Prediction:
    """Return the prediction for one sequence on a chip of BANDWIDTH. ``dispatches`` are those of a layer."""
    fitted = parameters or FITTED
    reading = token_bytes(config, dense, context) / (fitted.share * BANDWIDTH[chip] * GB)
    launching = dispatches * config.num_hidden_layers * fitted.dispatch(chip)
    terms = {"memory": reading, "dispatches": launching}
    if paging is not None:
        missed = (1 - paging.hit) * config.num_experts_per_tok * config.num_hidden_layers + paging.vain
        missed *= expert_bytes(config)
        terms |= {
            "repeats": paging.repeated * (reading + launching),
            "readbacks": paging.readbacks * paging.readback,
            "disk": missed * (1 - paging.cached) / paging.disk,
            "page cache": missed * paging.cached / paging.warm,
        }
    return Prediction(terms)


def hit_rate(resident: float, curve: Sequence[tuple[float, float]] = OMLX_HITS) -> float:
    """Return the hit rate where a share of the experts is in memory, between the points of a curve."""
    shares, hits = zip(*curve, strict=True)
    return float(np.interp(resident, shares, hits))


@dataclass(frozen=True)
class Repeats:
    """What a token costs that runs ahead: how often it is repeated, the layers that it computes again, and the experts
    that it reads in vain."""

    count: float = 0.0
    layers: float = 0.0
    vain: float = 0.0


def repeats(config: ModelConfig, hit: float, kept: float = KEPT) -> Repeats:
    """Return what running ahead costs where hits are independent. A repeat begins at the first layer that missed. The
    layers behind it chose by wrong numbers: of what they read ahead, a share of 1 - ``kept`` was in vain, and as much
    of what they choose now may be absent again."""
    k = config.num_experts_per_tok
    again = 1 - (1 - kept) * (1 - hit)  # the hit rate of layers that have chosen before

    def through(left: int, hit: float, behind: list[Repeats]) -> Repeats:
        whole = hit**k  # all experts of a layer
        count = layers = vain = 0.0
        for n in range(left):
            first = whole**n * (1 - whole)
            rest = left - n - 1
            count += first * (1 + behind[rest].count)
            layers += first * (rest + 1 + behind[rest].layers)
            vain += first * (rest * k * (1 - hit) * (1 - kept) + behind[rest].vain)
        return Repeats(count, layers, vain)

    behind = [Repeats()]
    for left in range(1, config.num_hidden_layers):
        behind.append(through(left, again, behind))
    return through(config.num_hidden_layers, hit, behind)


def own_paging(config: ModelConfig, slots: int, disk: float, readback: float) -> dict[str, Paging]:
    """Return the two ways in which this runtime pages experts with ``slots`` in each layer: a step runs "ahead", and
    is repeated where it missed, or is "waiting" for the choice in every layer. Hits are taken from oMLX's curve."""
    hit = hit_rate(slots / config.num_local_experts)
    cost = repeats(config, hit)
    layers = config.num_hidden_layers
    return {
        "ahead": Paging(hit, disk, readback, 1 + cost.count, cost.layers / layers, cost.vain),
        "waiting": Paging(hit, disk, readback, layers),
    }


def predict_paged(config: ModelConfig, dense: str, chip: str, slots: int, disk: float) -> Prediction:
    """Return the prediction for this runtime with ``slots`` in each layer, in the faster of its two ways, which is the
    one that it uses. The readback is the slowest published."""
    ways = own_paging(config, slots, disk, READBACK[1]).values()
    return min((predict(config, dense, chip, paging=way) for way in ways), key=lambda found: found.seconds)


def spread(at: Callable[..., float], **unknowns: tuple[float | str, float | str]) -> tuple[float, float]:
    """Return the range of a prediction over independent unknowns, each given by two values. Their effects on its
    logarithm add up as squares, because all of them are not at their worst together."""
    corners = [dict(zip(unknowns, values, strict=True)) for values in itertools.product(*unknowns.values())]
    logarithms = [math.log(at(**corner)) for corner in corners]
    middle = sum(logarithms) / len(corners)
    squares = 0.0
    for name, (low, _) in unknowns.items():
        lows = [value for corner, value in zip(corners, logarithms, strict=True) if corner[name] == low]
        squares += (sum(lows) / len(lows) - middle) ** 2
    return math.exp(middle - math.sqrt(squares)), math.exp(middle + math.sqrt(squares))


def fit(rows: Sequence[Published] = FIT_ROWS) -> Parameters:
    """Return the parameters with the least sum of absolute errors, of the logarithms of rates. Deterministic.

    Programs differ by up to 1.5 times on one chip. Squares would follow the few that are far from the others.
    """
    known = [_Row.of(row) for row in rows]
    point = np.array([1.0, *np.log([5e-6] * 3), np.log(0.5)])
    damping = 1e-2
    errors = _errors(known, point)
    for _ in range(2_000):
        slopes = np.array([(_errors(known, point + step) - errors) / 1e-6 for step in 1e-6 * np.eye(len(point))]).T
        weighted = slopes.T / np.hypot(errors, NO_ERROR)
        square = weighted @ slopes
        # The weak pull to where the search stands keeps a class without rows where it was.
        change = np.linalg.solve(square + damping * np.diag(np.diag(square) + 1e-3), -weighted @ errors)
        moved = _errors(known, point + np.clip(change, -1, 1))
        if np.hypot(moved, NO_ERROR).sum() < np.hypot(errors, NO_ERROR).sum():
            point, errors, damping = point + np.clip(change, -1, 1), moved, max(damping / 3, 1e-9)
        elif damping > 1e9:
            break
        else:
            damping *= 4
    return _parameters(point)


def left_out(rows: Sequence[Published] = FIT_ROWS) -> list[tuple[Published, float]]:
    """Return rows with the rate that a fit to the other chips' rows predicts for them. A class or M5 that is left
    without rows is not predicted."""
    found = []
    for chip in dict.fromkeys(row.chip for row in rows):
        others = [row for row in rows if row.chip != chip]
        if class_of(chip) not in {class_of(row.chip) for row in others}:
            continue
        if chip.startswith("M5") and not any(row.chip.startswith("M5") for row in others):
            continue
        own = [row for row in rows if row.chip == chip]
        errors = _errors([_Row.of(row) for row in own], fit(others))
        found += [(row, row.rate / math.exp(error)) for row, error in zip(own, errors, strict=True)]
    return found


def roofline(config: ModelConfig, dense: str, chip: str, context: int = 0) -> float:
    """Return the tokens a second that no program can exceed which decodes one sequence: the whole bandwidth over the
    bytes that a token reads."""
    return BANDWIDTH[chip] * GB / token_bytes(config, dense, context)


@dataclass(frozen=True)
class _Row:
    """A published rate and what its prediction needs: seconds to read its bytes at the whole bandwidth, and
    dispatches."""

    rate: float
    reading: float
    dispatches: int
    chip: str

    @classmethod
    def of(cls, row: Published) -> "_Row":
        config = PUBLISHED[row.model]
        reading = token_bytes(config, row.dense, row.context) / (BANDWIDTH[row.chip] * GB)
        return cls(row.rate, reading, PEER_DISPATCHES * config.num_hidden_layers, row.chip)


def _errors(rows: Sequence[_Row], parameters: "np.ndarray | Parameters") -> np.ndarray:
    """Return by how much the logarithm of each predicted time exceeds that of the published one."""
    at = parameters if isinstance(parameters, Parameters) else _parameters(parameters)
    seconds = [row.reading / at.share + row.dispatches * at.dispatch(row.chip) for row in rows]
    return np.log(np.array(seconds) * [row.rate for row in rows])


def _parameters(point: np.ndarray) -> Parameters:
    """Return the parameters at a point of the search, where any number is allowed: a share lies between 0 and 1, and
    times are positive."""
    share, *logarithms = point.tolist()
    return Parameters(1 / (1 + math.exp(-share)), *map(math.exp, logarithms))


FITTED = Parameters(share=0.7125, base=6.846e-6, max=4.173e-6, ultra=8.266e-6, m5=0.416)
"""What ``fit()`` returned, rounded. A test compares the two."""
