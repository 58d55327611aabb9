"""GGUF, the format of llama.cpp, LM Studio and ollama: one file, or parts ``-00001-of-00003``.

The names of tensors are those that llama.cpp's and ollama's converters write. ollama's of August 2025 also stacked q, k
and v, and left gate and up rows in turns, as published. What the metadata means is not known here.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convert.pieces import FLOATS, REDOWNLOAD, Arrays, Piece, Reader, SourceTensor
from convert.sources import float_experts
from convert.sources.checkpoint import Checkpoint, SourceSpec, bit_for_bit, check_complete, stamps, target_specs
from convert.sources.float_experts import alternating
from convert.sources.ggml_types import DENSE, MXFP4, MXFP4_PUBLISHED, decode_dense, decode_mxfp4, row_nbytes
from convert.sources.gguf_header import MAGIC, GgufHeader, read_gguf_header
from convert.sources.gguf_metadata import INSTEAD, config_of, generation_of, of_architecture
from convert.sources.gguf_vocabulary import tokenizer_maker
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import CheckpointError, quoted

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_OLLAMAS = {"attn_out": "attn_output", "attn_sinks": "attn_sinks.weight", "ffn_norm": "post_attention_norm"}
_TOP = {"embedding.weight": "token_embd.weight", "norm.weight": "output_norm.weight", "head.weight": "output.weight"}
_LAYER = {
    "attn_norm": "attn_norm",
    "qkv": "attn_qkv",
    "sinks": "attn_sinks.weight",
    "o": "attn_output",
    "mlp_norm": "post_attention_norm",
    "router": "ffn_gate_inp",
    "experts.gate_up": "ffn_gate_up_exps",
    "experts.down": "ffn_down_exps",
}
_KINDS = {
    "attn_norm": "norms",
    "mlp_norm": "norms",
    "norm": "norms",
    "qkv": "attention",
    "o": "attention",
    "embedding": "embedding",
    "head": "head",
}
"""What a summary calls dense tensors; the others have names that say it."""


def parts_at(path: Path) -> list[Path]:
    """Return the files of the GGUF model at ``path``, in order, or an empty list if there is none.

    ``path`` is a file, whatever its name, any part of a model in parts, or a folder that holds one model and no other
    weights. Raises CheckpointError when a folder holds several models, OSError when a file cannot be read.
    """
    if path.is_dir():
        found = sorted(path.glob("*.gguf"))
        firsts = [file for file in found if is_first_part(file.name)] or found
        if len(firsts) > 1:
            names = ", ".join(file.name for file in firsts[:5])
            raise CheckpointError(f"{path}: holds {len(firsts)} GGUF models; name one of them ({names})")
        return parts_at(firsts[0]) if firsts else []
    if not path.is_file():
        return []
    if path.suffix != ".gguf":
        with path.open("rb") as file:
            return [path] if file.read(len(MAGIC)) == MAGIC else []
    if not (part := _PART.fullmatch(path.name)):
        return [path]
    return [path.with_name(f"{part[1]}-{number:05d}-of-{part[3]}.gguf") for number in range(1, int(part[3]) + 1)]


def is_first_part(name: str) -> bool:
    """Return whether a file's name is that of a whole GGUF model, or of its first part."""
    part = _PART.fullmatch(name)
    return name.endswith(".gguf") and (part is None or int(part[2]) == 1)


def open_gguf(path: Path, parts: list[Path]) -> Checkpoint:
    """Check the model in ``parts``, which was named as ``path``. Raises CheckpointError with one line."""
    before = stamps(parts)
    headers = _read_parts(parts)
    first = headers[0]
    found: dict[str, SourceTensor] = {}
    for header in headers:
        for name, tensor in header.tensors.items():
            if (known := _llama_name(name)) in found:
                raise CheckpointError(f"{header.path}: tensor {name!r:.100} is there twice; {REDOWNLOAD}")
            found[known] = SourceTensor(name, header.path, tensor)
    metadata = of_architecture(first)
    if "token_embd.weight" not in found:
        raise CheckpointError(f"{first.path}: tensor 'token_embd.weight' is missing; {REDOWNLOAD}")
    config, unknown = config_of(metadata, found["token_embd.weight"].tensor.shape[0], str(first.path))
    pieces, formats = _pieces(path, found, config)
    lost = _losses(formats)
    experts = [source for piece in pieces if len(piece.targets) == 2 for source in piece.sources]
    full = [source for source in experts if source.tensor.dtype in FLOATS]
    return Checkpoint(
        layout="GGUF",
        folder=path,
        config=config,
        unknown_fields=unknown,
        generation=generation_of(first.metadata),
        tokenizer_json=None,
        pieces=pieces,
        stamps=before,
        losses=lambda tally: lost,
        experts=float_experts.described(full) if full else bit_for_bit,
        tokenizer=tokenizer_maker(first, str(metadata["architecture"])),
    )


def _read_parts(parts: list[Path]) -> list[GgufHeader]:
    """Read the headers. The first part alone has the metadata, all have their number."""
    headers = []
    for number, part in enumerate(parts):
        header = read_gguf_header(part)
        count = header.metadata.get("split.count", 0)
        at = header.metadata.get("split.no", 0)
        if (count or 1) != len(parts) or at != number:
            raise CheckpointError(
                f"{part}: says that it is part {quoted(at)} of {quoted(count)}, counted from 0; "
                "put all parts into one folder under their published names"
            )
        headers.append(header)
    tensors = sum(len(header.tensors) for header in headers)
    if (said := headers[0].metadata.get("split.tensors.count", tensors)) != tensors:
        raise CheckpointError(f"{parts[0]}: its parts hold {tensors} tensors, not {quoted(said)}; {REDOWNLOAD}")
    return headers


def _llama_name(name: str) -> str:
    """Return llama.cpp's name of a tensor that may have ollama's."""
    start, _, rest = name.rpartition(".")
    if name.startswith("blk."):
        block, _, stem = start.rpartition(".")
        if rest == "attn_sinks":
            return f"{start}.{_OLLAMAS[rest]}"
        if stem in _OLLAMAS and stem != "attn_sinks":
            return f"{block}.{_OLLAMAS[stem]}.{rest}"
    return name


@dataclass(frozen=True)
class _Rows:
    """Source tensors of one target, and how they make it: stacked, or with their rows in turns."""

    tensors: list[SourceTensor]
    shapes: list[tuple[int, ...]]
    in_turns: bool


def _pieces(
    path: Path, found: Mapping[str, SourceTensor], config: ModelConfig
) -> tuple[tuple[Piece, ...], dict[str, set[str]]]:
    """Return the pieces in the order of the folder, and by kind of tensor the formats in which it was found.

    Raises CheckpointError when a tensor is missing, unknown, or of another type or shape.
    """
    specs = target_specs(config)
    wanted = {
        target: _sources_of(target, spec, found, config)
        for target, spec in specs.items()
        if not target.endswith(".scales")
    }
    check_complete(path, found, [name for names, _, _ in wanted.values() for name in names])
    pieces: list[Piece] = []
    formats: dict[str, set[str]] = {}
    for target, (names, shapes, in_turns) in wanted.items():
        rows = _Rows([found[name] for name in names], shapes, in_turns)
        if target.endswith(".weight") and ".experts." in target:
            full = all(source.tensor.dtype in FLOATS for source in rows.tensors)
            _check(rows, FLOATS if full else (MXFP4, MXFP4_PUBLISHED))
            pieces.append((_full_experts if full else _experts)(target.removesuffix(".weight"), rows))
            continue
        _check(rows, DENSE)
        pieces += _dense_pieces(target, rows)
        stem = target.rpartition(".")[0].rpartition(".")[2] or target
        kind = "biases" if target.endswith(".bias") else _KINDS.get(stem, stem)
        formats.setdefault(kind, set()).update(source.tensor.dtype for source in rows.tensors)
    return tuple(pieces), formats


def _sources_of(
    target: str, spec: SourceSpec, found: Mapping[str, SourceTensor], config: ModelConfig
) -> tuple[list[str], list[tuple[int, ...]], bool]:
    """Return llama.cpp's names of a target's source tensors, their shapes, and whether their rows alternate."""
    shape = (*spec.shape[:-2], spec.shape[-2] * 32) if spec.dtypes == ("U8",) else spec.shape
    if target in _TOP:
        return [_TOP[target]], [shape], False
    _, n, rest = target.split(".", 2)
    stem, _, kind = rest.rpartition(".") if rest != "sinks" else (rest, "", "")
    name = f"blk.{n}.{_LAYER[stem]}" + (f".{kind}" if kind else "")
    if name in found or stem not in ("qkv", "experts.gate_up"):
        return [name], [shape], False
    if stem == "qkv":
        kv = config.num_key_value_heads * config.head_dim
        heights = (shape[0] - 2 * kv, kv, kv)
        return [name.replace("qkv", letter) for letter in "qkv"], [(rows, *shape[1:]) for rows in heights], False
    half = (shape[0], shape[1] // 2, *shape[2:])
    return [name.replace("gate_up", part) for part in ("gate", "up")], [half, half], True


def _check(rows: _Rows, formats: tuple[str, ...]) -> None:
    for source, shape in zip(rows.tensors, rows.shapes, strict=True):
        name, tensor = source.name, source.tensor
        if tensor.dtype not in formats:
            wanted = "MXFP4, as published" if MXFP4 in formats else " or ".join(formats)
            raise CheckpointError(
                f"{source.file}: tensor {name!r:.100} is in {tensor.dtype}, it can be converted only from {wanted}; "
                f"{INSTEAD}"
            )
        if tensor.shape != shape:
            raise CheckpointError(
                f"{source.file}: tensor {name!r:.100} has shape {list(tensor.shape)}, "
                f"the metadata needs {list(shape)}; {INSTEAD}"
            )


def _full_experts(stem: str, rows: _Rows) -> Piece:
    return float_experts.piece(tuple(rows.tensors), stem)


def _experts(stem: str, rows: _Rows) -> Piece:
    experts, columns = rows.shapes[0][0], rows.shapes[0][-1]

    def decoded(reader: Reader, source: SourceTensor) -> Iterator[Arrays]:
        kind = source.tensor.dtype
        for block in reader.blocks(source, row_nbytes(kind, columns)):
            yield decode_mxfp4(kind, block, columns)

    targets = (f"{stem}.weight", f"{stem}.scales")
    return Piece(targets, 0, experts, tuple(rows.tensors), "U8", _reading(rows, decoded))


def _dense_pieces(target: str, rows: _Rows) -> list[Piece]:
    def decoded(reader: Reader, source: SourceTensor) -> Iterator[Arrays]:
        kind, shape = source.tensor.dtype, source.tensor.shape[1:]
        columns = int(np.prod(shape))
        for block in reader.blocks(source, row_nbytes(kind, columns)):
            yield (decode_dense(kind, block).reshape(-1, *shape),)

    groups = [rows.tensors] if rows.in_turns else [[source] for source in rows.tensors]
    pieces = []
    start = 0
    for sources in groups:
        height, kind = sources[0].tensor.shape[0], sources[0].tensor.dtype
        dtype = "BF16" if kind == "BF16" else "F32"
        whole = len(rows.tensors) == 1 and (kind == "BF16" or (kind == "F32" and target.endswith("norm.weight")))
        read = _reading(_Rows(sources, rows.shapes, rows.in_turns), decoded)
        pieces.append(Piece((target,), start, height, tuple(sources), dtype, read, verbatim=whole))
        start += height
    return pieces


def _reading(
    rows: _Rows, decoded: Callable[[Reader, SourceTensor], Iterator[Arrays]]
) -> Callable[[Reader], Iterator[Arrays]]:
    """Return the ``read`` of a piece: one tensor's rows, or those of two in turns."""

    def read(reader: Reader) -> Iterator[Arrays]:
        if not rows.in_turns:
            yield from decoded(reader, rows.tensors[0])
            return
        for pair in zip(*(decoded(reader, source) for source in rows.tensors), strict=True):
            yield tuple(_in_turns(gate, up) for gate, up in zip(*pair, strict=True))

    return read


def _in_turns(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return the rows of both as published: gate, up, gate, up. Biases are [E, I], codes and scales [R, G, ...]."""
    if gate.dtype == np.uint8:
        return alternating([gate, up])
    return alternating([gate.reshape(-1), up.reshape(-1)]).reshape(len(gate), -1)


def _losses(formats: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Return what the formats cannot have kept of the published bfloat16 values, a line for each."""
    said = {
        "Q8_0": "8 bits, 32 to a scale; they are not the published values",
        "F16": "half precision; published values below 6e-5 have lost bits",
    }
    lines = []
    for kind, what in said.items():
        if names := [name for name, found in formats.items() if kind in found]:
            listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
            lines.append(f"{listed} came in {kind} ({what})")
    return tuple(lines)
