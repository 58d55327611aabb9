"""OpenAI's harmony format, straight to and from token ids. Knows no model."""
