"""Reading tokens in any chunking, and how far two arrays lie apart."""

import mlx.core as mx
import numpy as np

from gptoss_mlx.runtime import Runtime


def relative_l2(got: np.ndarray, want: np.ndarray) -> float:
    """||got - want|| / ||want||; raises when anything is not finite, which a norm of nothing would hide."""
    assert got.shape == want.shape, (got.shape, want.shape)
    assert np.isfinite(got).all()
    assert np.isfinite(want).all()
    return float(np.linalg.norm((got - want).astype(np.float64)) / np.linalg.norm(want.astype(np.float64)))


def run_in_chunks(runtime: Runtime, tokens: list[int], chunk: int, rows: np.ndarray) -> np.ndarray:
    """Logits [len(rows), V] at positions ``rows``, when the tokens are read ``chunk`` at a time."""
    context, parts = runtime.context(), []
    for start in range(0, len(tokens), chunk):
        x = runtime.model(mx.array([tokens[start : start + chunk]]), context.cache)
        wanted = [int(row) - start for row in rows if start <= row < start + chunk]
        if wanted:
            parts.append(runtime.model.logits(x[:, mx.array(wanted)])[0])
        mx.eval(parts[-1:], context.cache.arrays())
    return np.array(mx.concatenate(parts))
