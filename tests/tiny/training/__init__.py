"""The code that made the bundled model: its conversations, its network in PyTorch, its training and evaluation.

Only ``network``, ``train`` and ``export`` need torch, so they run in the oracle's environment.
"""
