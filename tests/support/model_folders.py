"""Write a model folder of random bits, without a checkpoint, for tests of the format."""

import zlib
from pathlib import Path

import numpy as np

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model_folder import layout
from gptoss_mlx.model_folder.safetensors import nbytes_of
from gptoss_mlx.model_folder.writer import ShardWriter, write_metadata


def random_bits(name: str, nbytes: int) -> bytes:
    """Return bytes that depend on the name. They are below 128, so scales are usable and bfloat16 values finite."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.integers(0, 127, nbytes, np.uint8).tobytes()


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
