"""The on-disk format of a model: ``convert`` writes it, the runtime reads it, and the two share nothing else.

A model folder consists of ordinary safetensors and JSON files. All are checked before use:

    manifest.json                   format version, source, quantization, and a sha256 of everything below
    config.json                     the model's shape, in Hugging Face's spelling
    generation_config.json          generation defaults, as the checkpoint had them
    tokenizer.bin                   harmony's compact tokenizer (absent if the checkpoint has none that fits)
    model.safetensors.index.json    tensor name -> shard
    model-embedding.safetensors     and model-layer-000..., model-head: see ``layout``

``safetensors`` knows one file and no models. ``layout`` knows what each shard holds. ``writer`` writes a folder, and
``reader`` opens one. Nothing here imports mlx.
"""

from gptoss_mlx.model_folder.layout import ALIGNMENT, FORMAT_VERSION
from gptoss_mlx.model_folder.reader import ModelFolder, Stretch, read_manifest

__all__ = ["ALIGNMENT", "FORMAT_VERSION", "ModelFolder", "Stretch", "read_manifest"]
