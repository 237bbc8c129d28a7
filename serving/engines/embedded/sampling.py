"""From logits to tokens: one choice for each row, as its sequence asked.

The order is fixed: repetition, frequency and presence penalties, logit_bias, what is forbidden
(stop tokens before `min_tokens`, a grammar's mask), temperature, then top_k, top_p, min_p. top_p
counts within what top_k leaves, min_p relative to the likeliest token; tokens that equal the last
one let through are let through too. Log-probabilities are those of the model itself, before any
of it, as vLLM's `raw_logprobs`.

A row's token depends on its logits and on its own sequence only, never on the rest of the batch:
the random number is a function of (seed, position in the output), and no sum crosses rows.

Logits that are not numbers never raise. NaN counts as minus infinity and plus infinity as the
largest float; a row that leaves nothing to choose gives token 0 with `finite` False, and the
caller decides what becomes of the sequence.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from serving.boundary.messages import Logprob
from serving.boundary.sampling import Sampling
from serving.engines.embedded.candidates import Floats, candidates, leading, uniform
from serving.engines.embedded.logits import largest, repair, rows
from serving.engines.embedded.masks import MaskApplier
from serving.engines.embedded.penalties import Bias, Penalties

# Below this the division could overflow, and the choice is the greedy one anyway.
LEAST_TEMPERATURE = 1e-5
# What is reported for a probability of zero; minus infinity has no JSON.
LEAST_LOGPROB = -9999.0


class Sampled(NamedTuple):
    """One row's choice. `finite` is False when the logits left nothing to choose from."""

    token: int
    logprob: Logprob | None
    finite: bool = True


class Sampler:
    """Chooses tokens and keeps what that needs of each sequence.

    It counts what it sampled: a sequence that is preempted and computed again stays added, and no
    position is sampled twice. `entropy` gives the seed of a sequence that has none of its own.
    """

    def __init__(
        self, vocab_size: int, entropy: Callable[[], int] = lambda: secrets.randbits(64)
    ) -> None:
        self._vocab_size = vocab_size
        self._entropy = entropy
        self._sequences: dict[int, _Sequence] = {}
        # One row of logits and one of weights: rows are worked on one at a time, in the cache.
        self._scores: Floats = np.empty(vocab_size, dtype=np.float32)
        self._weights: Floats = np.empty(vocab_size, dtype=np.float32)
        self._masks = MaskApplier(vocab_size)

    def add(self, sequence_id: int, sampling: Sampling, prompt: Sequence[int]) -> None:
        """Starts a sequence; an id in use is started anew."""
        seed = self._entropy() if sampling.seed is None else sampling.seed
        self._sequences[sequence_id] = _Sequence(sampling, prompt, self._vocab_size, seed)

    def remove(self, sequence_id: int) -> None:
        """Forgets a sequence. Unknown ids are ignored."""
        self._sequences.pop(sequence_id, None)

    def constrain(self, sequence_id: int, mask: NDArray[np.int32] | None) -> None:
        """Lets the next tokens of a sequence be only those whose bit is set, until called again.

        Token t is bit t % 32 of word t // 32, as xgrammar lays its bit masks out; None lifts it.
        """
        self._sequences[sequence_id].grammar_mask = mask

    @torch.inference_mode()
    def sample(self, logits: torch.Tensor, sequence_ids: Sequence[int]) -> list[Sampled]:
        """Returns one choice for each row. Row i belongs to sequence_ids[i], which must be added.

        `logits` is (rows, vocab), float32 or bfloat16, on any device, and is not changed. The
        rows of plain greedy sequences are decided on the device, the others on the host.
        """
        reader = rows(logits)
        chosen = []
        with np.errstate(all="ignore"):  # what is not a number is dealt with, not warned of
            for row, sequence_id in enumerate(sequence_ids):
                sequence = self._sequences[sequence_id]
                if sequence.plain:
                    sampled = _sampled(reader.largest(row), None)
                else:
                    reader.copy(row, self._scores)
                    sampled = self._choose(sequence)
                sequence.record(sampled.token)
                chosen.append(sampled)
        return chosen

    @torch.inference_mode()
    def score(
        self, logits: torch.Tensor, tokens: Sequence[int], alternatives: Sequence[int]
    ) -> list[Logprob]:
        """Returns the log-probability of tokens[i] by row i, with so many alternatives[i]."""
        reader = rows(logits)
        found = []
        with np.errstate(all="ignore"):
            for row, (token, count) in enumerate(zip(tokens, alternatives, strict=True)):
                reader.copy(row, self._scores)
                report = _Report.of(self._scores, self._weights, count)
                found.append(Logprob(report.of_token(token), report.top))
        return found

    def _choose(self, sequence: _Sequence) -> Sampled:
        """Returns the choice from the logits in `_scores`, which it changes."""
        report = None
        if sequence.sampling.logprobs is not None:
            values = self._scores.copy() if sequence.adjusts else self._scores
            report = _Report.of(values, self._weights, sequence.sampling.logprobs)
        sequence.adjust(self._scores, self._masks)
        if sequence.greedy:
            return _sampled(largest(self._scores), report)
        return _sampled(self._draw(sequence), report)

    def _draw(self, sequence: _Sequence) -> int | None:
        """Returns a token drawn from the adjusted logits, None when there is none to draw."""
        scores = self._scores
        peak = scores.max()
        if not np.isfinite(peak):
            repair(scores)
            peak = scores.max()
            if peak == -np.inf:
                return None
        # A second row would not fit the cache beside the first; only a report needs the logits.
        scratch = scores if sequence.sampling.logprobs is None else self._weights
        left = candidates(scores, peak, sequence.sampling, scratch)
        return left.draw(uniform(sequence.seed, sequence.generated))


class _Sequence:
    """What the sampler remembers of one sequence."""

    def __init__(
        self, sampling: Sampling, prompt: Sequence[int], vocab_size: int, seed: int
    ) -> None:
        self.sampling = sampling
        self.seed = seed
        self.generated = 0
        self.greedy = sampling.temperature < LEAST_TEMPERATURE or sampling.top_k == 1
        self.penalties = Penalties(sampling, prompt, vocab_size)
        self.bias = Bias(sampling.logit_bias, vocab_size)
        stops = [] if sampling.ignore_eos else sampling.stop_token_ids
        self.stops = np.array([t for t in stops if 0 <= t < vocab_size], dtype=np.int64)
        self.grammar_mask: NDArray[np.int32] | None = None

    @property
    def plain(self) -> bool:
        """True when the token is the largest logit and nothing else is asked for."""
        return self.greedy and self.sampling.logprobs is None and not self.adjusts

    @property
    def adjusts(self) -> bool:
        """True when `adjust` may change a row."""
        return (
            self.penalties.active
            or self.bias.active
            or self.generated < self.sampling.min_tokens
            or self.grammar_mask is not None
        )

    def adjust(self, scores: Floats, masks: MaskApplier) -> None:
        """Changes the logits of this sequence's row, (vocab,), in place."""
        if self.penalties.active:
            self.penalties.apply(scores)
        if self.bias.active:
            self.bias.apply(scores)
        if self.generated < self.sampling.min_tokens:
            scores[self.stops] = -np.inf
        if self.grammar_mask is not None:
            masks.apply(self.grammar_mask, scores)

    def record(self, token: int) -> None:
        """Counts one generated token."""
        self.generated += 1
        self.penalties.record(token)


class _Report(NamedTuple):
    """The model's own distribution over one row, before anything was changed."""

    values: Floats
    normaliser: float
    top: list[tuple[int, float]]

    @staticmethod
    def of(values: Floats, scratch: Floats, alternatives: int) -> _Report:
        """Returns the distribution of a row with its likeliest tokens, likeliest first.

        Entries of `values` that are not numbers are repaired; `scratch` is as long and is lost.
        """
        peak = values.max()
        if not np.isfinite(peak):
            repair(values)
            peak = values.max()
        normaliser = 0.0
        if peak > -np.inf:
            np.exp(np.subtract(values, peak, out=scratch), out=scratch)
            normaliser = float(peak) + float(np.log(scratch.sum(dtype=np.float64)))
        report = _Report(values, normaliser, [])
        if alternatives > 0:
            ids = leading(values, alternatives).tolist()
            report.top.extend((token, report.of_token(token)) for token in ids)
        return report

    def of_token(self, token: int) -> float:
        """Returns the natural logarithm of one token's probability, at least LEAST_LOGPROB."""
        return max(float(self.values[token]) - self.normaliser, LEAST_LOGPROB)


def _sampled(token: int | None, report: _Report | None) -> Sampled:
    finite, token = token is not None, token or 0
    logprob = None if report is None else Logprob(report.of_token(token), report.top)
    return Sampled(token, logprob, finite)
