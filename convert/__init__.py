"""A checkpoint in, a model folder out. Knows files, never inference."""
