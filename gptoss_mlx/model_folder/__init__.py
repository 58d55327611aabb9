"""The on-disk format: written by ``convert``, read by the runtime, and the only thing the two share.

A model folder is ordinary safetensors and JSON, checked before it is trusted:

    manifest.json                   format version, source, quantization, and a sha256 of everything below
    config.json                     the model's shape, in Hugging Face's spelling
    generation_config.json          generation defaults, as the checkpoint had them
    tokenizer.bin                   harmony's compact tokenizer (absent when a checkpoint has none that fits)
    model.safetensors.index.json    tensor name -> shard
    model-embedding.safetensors     then model-layer-000..., and model-head: see ``layout``

``safetensors`` knows one file and nothing of models, ``layout`` what the shards hold, ``reader`` and ``writer`` the two
ends. Nothing here imports mlx.
"""

from gptoss_mlx.model_folder.layout import ALIGNMENT, FORMAT_VERSION
from gptoss_mlx.model_folder.reader import ModelFolder, Stretch

__all__ = ["ALIGNMENT", "FORMAT_VERSION", "ModelFolder", "Stretch"]
