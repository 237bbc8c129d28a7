"""Penalties against transformers' own and against OpenAI's formula."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from serving.boundary.sampling import Sampling
from serving.engines.embedded.penalties import Bias, Penalties

VOCAB = 300


def logits() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return (np.random.default_rng(1).standard_normal(VOCAB) * 4).astype(np.float32)


@pytest.mark.parametrize("penalty", [0.8, 1.0, 1.3])
def test_repetition_is_that_of_transformers_over_prompt_and_output(penalty: float) -> None:
    prompt, output = [3, 5, 5, 200], [7, 3, 7, 299]
    penalties = Penalties(Sampling(max_tokens=9, repetition_penalty=penalty), prompt, VOCAB)
    for token in output:
        penalties.record(token)
    scores = logits()
    penalties.apply(scores)
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    wanted = processor(torch.tensor([prompt + output]), torch.from_numpy(logits())[None])[0]
    np.testing.assert_allclose(scores, wanted.numpy(), rtol=1e-6)


def test_frequency_counts_and_presence_does_not_and_neither_sees_the_prompt() -> None:
    output = [int(token) for token in np.random.default_rng(2).integers(0, VOCAB, 400)]
    sampling = Sampling(
        max_tokens=9, frequency_penalty=0.25, presence_penalty=-1.5, repetition_penalty=1.1
    )
    penalties = Penalties(sampling, [], VOCAB)
    for token in output:
        penalties.record(token)
    scores = logits()
    penalties.apply(scores)
    wanted = logits().astype(np.float64)
    for token, count in Counter(output).items():
        wanted[token] = wanted[token] / 1.1 if wanted[token] > 0 else wanted[token] * 1.1
        wanted[token] -= 0.25 * count - 1.5
    np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-5)

    only_prompt = Penalties(Sampling(max_tokens=9, presence_penalty=1.0), [1, 2, 3], VOCAB)
    scores = logits()
    only_prompt.apply(scores)
    assert np.array_equal(scores, logits())


def test_what_asks_for_nothing_is_not_active() -> None:
    assert not Penalties(Sampling(max_tokens=9), [1, 2], VOCAB).active
    assert not Bias({}, VOCAB).active
    assert Penalties(Sampling(max_tokens=9, presence_penalty=0.1), [], VOCAB).active


def test_bias_is_added_and_ids_outside_the_vocabulary_are_left_out() -> None:
    bias = Bias({0: 2.5, VOCAB - 1: -100.0, VOCAB: 1.0, -1: 1.0}, VOCAB)
    scores = np.zeros(VOCAB, dtype=np.float32)
    bias.apply(scores)
    assert scores[0] == 2.5
    assert scores[-1] == -100.0
    assert np.count_nonzero(scores) == 2


def test_prompt_ids_outside_the_vocabulary_are_left_out() -> None:
    penalties = Penalties(Sampling(max_tokens=9, repetition_penalty=2.0), [-1, VOCAB, 4], VOCAB)
    scores = np.ones(VOCAB, dtype=np.float32)
    penalties.apply(scores)
    assert np.flatnonzero(scores != 1.0).tolist() == [4]
