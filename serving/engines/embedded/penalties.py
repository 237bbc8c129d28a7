"""What a sequence's own tokens and its request change in its logits before a token is chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.boundary.sampling import Sampling


class Penalties:
    """Repetition, frequency and presence penalties of one sequence.

    Repetition (over prompt and output) divides a positive logit and multiplies a negative one, as
    in CTRL (arXiv 1909.05858) and transformers. Frequency and presence (over output) are
    subtracted, the first once for each occurrence, as in OpenAI's API.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int], vocab_size: int) -> None:
        self._repetition = np.float32(sampling.repetition_penalty)
        self._frequency = np.float32(sampling.frequency_penalty)
        self._presence = np.float32(sampling.presence_penalty)
        self.active = (
            sampling.repetition_penalty != 1.0
            or sampling.frequency_penalty != 0.0
            or sampling.presence_penalty != 0.0
        )
        seen = np.unique(np.asarray(prompt if self._repetition != 1.0 else [], dtype=np.int64))
        seen = seen[(seen >= 0) & (seen < vocab_size)]
        self._size = seen.size
        self._ids = np.empty(max(64, 2 * seen.size), dtype=np.int64)
        self._ids[: seen.size] = seen
        self._counts = np.zeros(self._ids.size, dtype=np.float32)
        self._slots = {int(token): slot for slot, token in enumerate(seen)}

    def record(self, token: int) -> None:
        """Counts one generated token."""
        if not self.active:
            return
        slot = self._slots.setdefault(token, self._size)
        if slot == self._size:
            if self._size == self._ids.size:
                self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._ids[slot] = token
            self._size += 1
        self._counts[slot] += 1.0

    def apply(self, scores: NDArray[np.float32]) -> None:
        """Changes the logits of one row, (vocab,), in place."""
        if not self._size:
            return
        ids, counts = self._ids[: self._size], self._counts[: self._size]
        values = scores[ids]
        values = np.where(values > 0.0, values / self._repetition, values * self._repetition)
        values -= self._frequency * counts + self._presence * (counts > 0.0)
        scores[ids] = values


class Bias:
    """What is added to chosen logits: `logit_bias`, with ids outside the vocabulary left out."""

    def __init__(self, logit_bias: dict[int, float], vocab_size: int) -> None:
        kept = {token: bias for token, bias in logit_bias.items() if 0 <= token < vocab_size}
        self.active = bool(kept)
        self._ids = np.fromiter(kept.keys(), dtype=np.int64, count=len(kept))
        self._biases = np.fromiter(kept.values(), dtype=np.float32, count=len(kept))

    def apply(self, scores: NDArray[np.float32]) -> None:
        """Changes the logits of one row, (vocab,), in place."""
        scores[self._ids] += self._biases
