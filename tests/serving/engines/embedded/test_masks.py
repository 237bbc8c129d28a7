from __future__ import annotations

import numpy as np
import pytest

from serving.engines.embedded.masks import MaskApplier


@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 1000])
def test_what_has_no_bit_is_forbidden_and_the_rest_is_as_it_was(vocab: int) -> None:
    random = np.random.default_rng(vocab)
    allowed = random.integers(0, 2, vocab).astype(bool)
    bits = np.zeros(-(-vocab // 32) * 32, dtype=np.uint8)
    bits[:vocab] = allowed
    mask = np.packbits(bits, bitorder="little").view(np.int32)
    scores = random.standard_normal(vocab).astype(np.float32)
    applier = MaskApplier(vocab)
    for _ in range(2):
        found = scores.copy()
        applier.apply(mask, found)
        assert np.array_equal(found, np.where(allowed, scores, -np.inf))
