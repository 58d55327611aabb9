"""Scores of a sequence are what its logits say, however it is cut into chunks."""

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.scorer import Scorer


@pytest.mark.parametrize("chunk", [7, 512])
def test_scores_are_the_log_softmax_of_the_logits(runtime, chunk):
    ids = [(7 * i + 3) % runtime.config.vocab_size for i in range(150)]
    logits = runtime.logits([ids])[0]
    wanted = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    scorer = Scorer(runtime.context(), ids, 3, chunk)
    scores = []
    while not scorer.done:
        scores += scorer.read()
    assert len(scores) == len(ids) - 1
    for at, score in enumerate(scores):
        assert score.logprob == pytest.approx(wanted[at, ids[at + 1]], abs=2e-4)
        best = np.sort(wanted[at])[::-1][:3]
        assert [logprob for _, logprob in score.likeliest] == pytest.approx(list(best), abs=2e-4)
        for id, logprob in score.likeliest:
            assert logprob == pytest.approx(wanted[at, id], abs=2e-4)


def test_none_of_the_likeliest_need_be_wanted(runtime):
    scorer = Scorer(runtime.context(), [1, 2, 3], 0)
    assert [score.likeliest for score in scorer.read()] == [(), ()]
    assert scorer.done
