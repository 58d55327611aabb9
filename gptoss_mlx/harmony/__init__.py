"""OpenAI's harmony format, straight to and from token ids. Knows no model."""

from gptoss_mlx.harmony.tokenizer import TextDecoder, Tokenizer

__all__ = ["TextDecoder", "Tokenizer"]
