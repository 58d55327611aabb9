"""A context on disk: the ids it has read and its cache, in one safetensors file followed by a digest.

A file that is stale, torn or damaged is refused. Knows no text and no session names; ``sessions`` does.
"""

import hashlib
import json
import os
from pathlib import Path

import mlx.core as mx
import numpy as np

from gptoss_mlx.engine.context import Context
from gptoss_mlx.files import replaced_whole
from gptoss_mlx.model.cache import KVCache
from gptoss_mlx.model.decoder import Decoder

VERSION = "2"
_DIGEST_BYTES = 32


class Unusable(Exception):
    """The snapshot is of another model or version, or damaged. ``str()`` says which. Read the prompt again instead."""


def write_snapshot(path: Path, context: Context, model_hash: str) -> None:
    """Write ``context`` to ``path``, synced, and followed by a SHA-256 digest of all bytes before it. The file is
    replaced whole or left as it was. Raises OSError."""
    ids = mx.array(np.array(context.ids, np.uint32))
    metadata = {"version": VERSION, "model": model_hash}
    with replaced_whole(path) as partial:
        named = partial.with_name(f"{partial.name}.safetensors")  # MLX insists on the suffix
        mx.save_safetensors(str(named), {"ids": ids, **context.cache.held()}, metadata)
        os.replace(named, partial)
        with partial.open("r+b") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            file.write(digest)


def read_snapshot(path: Path, model: Decoder, model_hash: str) -> Context:
    """Return the context that ``write_snapshot`` wrote, with a mark at its end. Raises Unusable."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size - _DIGEST_BYTES
            if size <= 0:
                raise Unusable("it is torn")
            body = file.read(size)
            if hashlib.sha256(body).digest() != file.read():
                raise Unusable("it is damaged")
    except OSError as error:
        raise Unusable(f"it cannot be read ({error.strerror})") from error
    header_size = int.from_bytes(body[:8], "little")
    try:
        header = json.loads(body[8 : 8 + header_size])
        metadata = header.pop("__metadata__")
        if metadata["version"] != VERSION:
            raise Unusable("it was written by another version")
        if metadata["model"] != model_hash:
            raise Unusable("it belongs to another model")
        arrays = {name: _array(body, 8 + header_size, entry) for name, entry in header.items()}
        ids = arrays.pop("ids").tolist()
        assert isinstance(ids, list)
        cache = KVCache.restored(model.config, len(ids), arrays, model.weights.dtype)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unusable(f"it is damaged ({error})") from error
    context = Context(model, cache, [int(id) for id in ids])  # type: ignore[arg-type]
    context.mark()
    return context


def _array(body: bytes, start: int, entry: dict) -> mx.array:
    first, last = entry["data_offsets"]
    numpy_dtype = {"F32": np.float32, "BF16": np.uint16, "U32": np.uint32}[entry["dtype"]]
    flat = np.frombuffer(body, numpy_dtype, (last - first) // np.dtype(numpy_dtype).itemsize, start + first)
    array = mx.array(flat.reshape(entry["shape"]))
    return array.view(mx.bfloat16) if entry["dtype"] == "BF16" else array
