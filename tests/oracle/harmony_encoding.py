"""Load openai-harmony's encoding from the bundled vocabulary, without a download. Needs openai-harmony."""

import lzma
import os
import tempfile
from pathlib import Path

RANKS = Path(__file__).parent.parent.parent / "gptoss_mlx/harmony/o200k_base.tiktoken.xz"


def load_encoding():
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "o200k_base.tiktoken").write_bytes(lzma.decompress(RANKS.read_bytes()))
        os.environ["TIKTOKEN_ENCODINGS_BASE"] = folder
        from openai_harmony import HarmonyEncodingName, load_harmony_encoding

        return load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
