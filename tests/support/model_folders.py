"""Model folders for tests of the format: write one of random bits, without a checkpoint, and read its tensors."""

import zlib
from pathlib import Path

import numpy as np

from convert.pieces import NUMPY_DTYPE
from convert.repack import blocks_from_words
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model_folder import ModelFolder, Stretch, layout
from gptoss_mlx.model_folder.safetensors import nbytes_of
from gptoss_mlx.model_folder.writer import ShardWriter, write_metadata


def random_bits(name: str, nbytes: int) -> bytes:
    """Return bytes that depend on the name. They are below 128, so scales are usable and bfloat16 values finite."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.integers(0, 127, nbytes, np.uint8).tobytes()


def dtype_of(model: ModelFolder, name: str) -> str:
    return _stretch(model, name).tensors[name][1]


def array_of(model: ModelFolder, name: str) -> np.ndarray:
    """Return a tensor as a view of the mapped file, BF16 as uint16."""
    stretch = _stretch(model, name)
    offset, dtype, shape = stretch.tensors[name]
    data = model.stretch_bytes(stretch)[offset : offset + nbytes_of(dtype, shape)]
    return data.view(NUMPY_DTYPE[dtype]).reshape(shape)


def experts_of(model: ModelFolder) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the MXFP4 blocks [E, R, G, 16] and scales [E, R, G] of each expert matrix, by the tensor's name."""
    names = [name for name in model.names() if layout.is_expert(name) and name.endswith(".weight")]
    scales = {name: array_of(model, name.removesuffix("weight") + "scales") for name in names}
    return {name: (blocks_from_words(array_of(model, name)), scales[name]) for name in names}


def _stretch(model: ModelFolder, name: str) -> Stretch:
    return next(stretch for stretch in model.stretches() if name in stretch.tensors)


def write_model_folder(folder: Path, config: ModelConfig, dense: str = "q8", norm_dtype: str = "BF16") -> Path:
    folder.mkdir(parents=True)
    digests: dict[str, str] = {}
    for shard in layout.shards(config, dense):
        dtypes = {name: norm_dtype for name, spec in shard.tensors.items() if "F32" in spec.dtypes}
        with ShardWriter(folder, shard, dtypes) as writer:
            for name, spec in shard.tensors.items():
                nbytes = nbytes_of(dtypes.get(name, spec.dtypes[0]), spec.shape)
                writer.streams[name].write(random_bits(name, nbytes))
        digests |= writer.digests
    write_metadata(folder, config, {"do_sample": True}, dense=dense, digests=digests, source={}, tool="tests")
    return folder
