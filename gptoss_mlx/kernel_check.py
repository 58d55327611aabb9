"""The first load on a machine: compares every shader a model will use with plain MLX, and replaces those that are
wrong.

A verdict is kept under GPTOSS_MAC_HOME for this chip, system and MLX, and these shaders and shapes. If any of them
changes, the next load compares again. Knows when to compare and what follows; ``comparison`` knows how.
"""

import hashlib
import json
import platform
import warnings
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx

from gptoss_mlx.files import replaced_whole
from gptoss_mlx.home import verdicts_dir
from gptoss_mlx.model.decoder import Decoder
from gptoss_mlx.model.rope import attention_scale
from metal_kernels import comparison, launch
from metal_kernels.comparison import Shapes
from metal_kernels.dispatches import Dispatch

Verdict = dict[str, str]
"""What is wrong with each shader that is wrong, by its name."""


def replace_wrong_shaders(decoder: Decoder) -> None:
    """Let plain MLX do the work of each shader that is wrong here, and name them in one warning. Does nothing where no
    shaders run."""
    place = launch.where()
    if place not in launch.PLACES:
        return
    shapes = shapes_of(decoder)
    named = "\0".join((*_machine(), place, _shaders(), repr(shapes)))
    file = verdicts_dir() / f"{hashlib.sha256(named.encode()).hexdigest()[:24]}.json"
    verdict = _read(file)
    if verdict is None:
        verdict = judged(place, shapes)
        _keep(file, verdict)
    if verdict:
        launch.give_to_plain_mlx(verdict, place)
        warnings.warn(
            f"plain MLX does the work of shaders that are wrong on this machine ({', '.join(_machine())}): "
            + ", ".join(f"{shader} ({reason})" for shader, reason in sorted(verdict.items())),
            RuntimeWarning,
            stacklevel=3,
        )


def shapes_of(decoder: Decoder) -> Shapes:
    """Return what decides which shaders a model launches."""
    config = decoder.config
    layer = decoder.weights.layers[0]
    return Shapes(
        hidden=config.hidden_size,
        inter=config.intermediate_size,
        experts=config.num_local_experts,
        choices=config.num_experts_per_tok,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        window=config.sliding_window,
        vocabulary=config.vocab_size,
        eps=config.rms_norm_eps,
        limit=config.swiglu_limit,
        scale=attention_scale(config),
        dtype=decoder.weights.dtype,
        norms=layer.attn_norm.dtype,
        q8=layer.qkv.scales is not None,
    )


def judged(place: str, shapes: Shapes) -> Verdict:
    """Compare all shaders at one of ``launch.PLACES``. Return those that disagree with plain MLX or do not compile."""
    verdict: Verdict = {}

    def run(made: Dispatch) -> list[mx.array]:
        try:
            return launch.run(made, place)
        except launch.CompileError as error:
            verdict[made.shader] = f"does not compile: {str(error).partition(chr(10))[0]}"
            outputs = zip(made.output_shapes, made.output_dtypes, strict=True)
            return [mx.full(shape, 0 if dtype == mx.uint32 else mx.nan, dtype) for shape, dtype in outputs]

    for compared in comparison.compare(run, shapes):
        for shader in () if compared.agrees else compared.shaders:
            verdict.setdefault(shader, f"off by {compared.error:.0e} of {compared.allowed:.0e}: {compared.what}")
    mx.clear_cache()  # some 200 MB of inputs
    return verdict


def _machine() -> tuple[str, str, str]:
    """Return chip, system and MLX."""
    chip = str(mx.device_info().get("device_name", platform.machine()))
    release = platform.mac_ver()[0]
    return chip, f"macOS {release}" if release else platform.platform(), f"mlx {version('mlx')}"


def _shaders() -> str:
    """Return a hash of the shaders and of how they are launched."""
    whole = hashlib.sha256()
    own = Path(comparison.__file__)
    files = [*launch.FOLDER.glob("*.metal"), *launch.FOLDER.glob("*.h"), *own.parent.glob("dispatches/*.py"), own]
    for path in sorted(files):
        whole.update(path.name.encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


def _read(file: Path) -> Verdict | None:
    """Return a kept verdict. One that is damaged or cannot be read counts as absent."""
    with suppress(OSError, ValueError):
        kept = json.loads(file.read_bytes())
        if isinstance(kept, dict) and all(isinstance(reason, str) for reason in kept.values()):
            return kept
    return None


def _keep(file: Path, verdict: Verdict) -> None:
    """Keep a verdict. Where it cannot be written, as on a read-only disk, the next load compares again."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replaced_whole(file) as partial:
            partial.write_text(json.dumps(verdict, indent=1))
