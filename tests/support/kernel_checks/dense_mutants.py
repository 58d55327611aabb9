"""Mutants of the dense shaders and of what they include that compute the same, by file and description: why."""

EQUIVALENT: dict[str, str] = {}
