"""The bundled small model: a gpt-oss in all but size that adds and subtracts, and the code that made it.

Only ``train`` and ``network`` need torch; nothing on the way to a prompt imports either.
"""
