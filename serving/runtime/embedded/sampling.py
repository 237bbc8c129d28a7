"""From logits to tokens: one choice for each row, as its sequence asked.

The order is fixed: repetition, frequency and presence penalties, logit_bias, what is forbidden
(stop tokens before `min_tokens`, a grammar's mask), temperature, then top_k, top_p, min_p. Log-
probabilities are those of the model itself, before any of it, as vLLM's `raw_logprobs`.

A row's token depends on its logits and its own sequence only, never on the rest of the batch: the
random number is a function of (seed, position in the output), and no sum crosses rows.

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

from serving.job import Sampling
from serving.runtime.embedded.candidates import Floats, draw, leading, threshold, uniform
from serving.runtime.embedded.penalties import Bias, Penalties
from serving.runtime.messages import Logprob

# Below this temperature the division would overflow and the choice is the greedy one anyway.
LEAST_TEMPERATURE = 1e-5
# Rows that are worked on at once: bounds the memory of a step, (rows, vocab) float32 twice.
GROUP_ROWS = 8
# What is reported for a probability of zero; minus infinity has no JSON.
LEAST_LOGPROB = -9999.0


class Sampled(NamedTuple):
    """One row's choice. `finite` is False when the logits left nothing to choose from."""

    token: int
    logprob: Logprob | None
    finite: bool = True


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
        return (
            self.greedy
            and self.sampling.logprobs is None
            and not (self.penalties.active or self.bias.active)
            and self.generated >= self.sampling.min_tokens
            and self.grammar_mask is None
        )

    def adjust(self, scores: Floats) -> None:
        """Changes the logits of this sequence's row, (vocab,), in place."""
        if self.penalties.active:
            self.penalties.apply(scores)
        if self.bias.active:
            self.bias.apply(scores)
        if self.generated < self.sampling.min_tokens:
            scores[self.stops] = -np.inf
        if self.grammar_mask is not None:
            bits = np.unpackbits(self.grammar_mask.view(np.uint8), bitorder="little")
            scores[bits[: scores.size] == 0] = -np.inf

    def record(self, token: int) -> None:
        """Counts one generated token."""
        self.generated += 1
        self.penalties.record(token)


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
        self._scores = torch.empty(0, vocab_size)
        self._probabilities = torch.empty(0, vocab_size)

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

        `logits` is (rows, vocab), float32 or bfloat16, on any device. It is not changed. Rows of
        greedy sequences are decided where they are; the others are copied to the host.
        """
        states = [self._sequences[sequence_id] for sequence_id in sequence_ids]
        chosen: list[Sampled] = [Sampled(0, None, finite=False)] * len(states)
        plain = [row for row, state in enumerate(states) if state.plain]
        for row, token in zip(plain, largest(logits, plain), strict=True):
            chosen[row] = token
        rest = [row for row, state in enumerate(states) if not state.plain]
        for start in range(0, len(rest), GROUP_ROWS):
            rows = rest[start : start + GROUP_ROWS]
            results = self._sample_group(logits, rows, [states[row] for row in rows])
            for row, sampled in zip(rows, results, strict=True):
                chosen[row] = sampled
        for state, sampled in zip(states, chosen, strict=True):
            state.record(sampled.token)
        return chosen

    def _sample_group(
        self, logits: torch.Tensor, rows: list[int], states: list[_Sequence]
    ) -> list[Sampled]:
        scores, probabilities = self._buffers(len(rows))
        for index, row in enumerate(rows):
            scores[index].copy_(logits[row])
        grid: Floats = scores.numpy()
        with np.errstate(all="ignore"):  # what is not a number is dealt with, not warned of
            reports = [_Report.of(grid[i], state.sampling) for i, state in enumerate(states)]
            for index, state in enumerate(states):
                state.adjust(grid[index])
                if not state.greedy and state.sampling.temperature != 1.0:
                    grid[index] *= np.float32(1.0 / state.sampling.temperature)
            if not all(state.greedy for state in states):
                torch.softmax(scores, dim=-1, out=probabilities)
            shares: Floats = probabilities.numpy()
            return [
                _sampled(_choose(grid[index], shares[index], state), reports[index])
                for index, state in enumerate(states)
            ]

    def _buffers(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns two (rows, vocab) float32 tensors on the host that are used again each time."""
        if self._scores.shape[0] < rows:
            self._scores = torch.empty(rows, self._vocab_size)
            self._probabilities = torch.empty(rows, self._vocab_size)
        return self._scores[:rows], self._probabilities[:rows]


class _Report(NamedTuple):
    """The model's own distribution over one row, before anything was changed."""

    values: Floats
    normaliser: float
    top: list[tuple[int, float]]

    @staticmethod
    def of(values: Floats, sampling: Sampling) -> _Report | None:
        """Returns what `logprobs` needs of a row, or None when the sequence asks for none."""
        if sampling.logprobs is None:
            return None
        values = _finite(values)
        peak = float(values.max())
        normaliser = 0.0
        if peak > -np.inf:
            total = float(np.exp(values - np.float32(peak)).sum(dtype=np.float64))
            normaliser = peak + float(np.log(total))
        report = _Report(values, normaliser, [])
        if sampling.logprobs > 0:
            ids = leading(values, sampling.logprobs).ids[: sampling.logprobs]
            report.top.extend((int(token), report.of_token(int(token))) for token in ids)
        return report

    def of_token(self, token: int) -> float:
        """Returns the natural logarithm of one token's probability, at least LEAST_LOGPROB."""
        return max(float(self.values[token]) - self.normaliser, LEAST_LOGPROB)

    def logprob(self, token: int) -> Logprob:
        """Returns the entry for the token that was chosen."""
        return Logprob(self.of_token(token), self.top)


def _sampled(token: int | None, report: _Report | None) -> Sampled:
    logprob = None if report is None else report.logprob(token or 0)
    return Sampled(token or 0, logprob, finite=token is not None)


def largest(logits: torch.Tensor, rows: list[int]) -> list[Sampled]:
    """Returns the largest logit of each of `rows`; among equal ones the lowest token id."""
    if not rows:
        return []
    if logits.device.type != "cpu":
        return _largest_on_device(logits[rows].float())
    if logits.dtype == torch.bfloat16:
        bits: NDArray[np.int16] = logits.view(torch.int16).numpy()
        return [_largest_bfloat16(bits[row]) for row in rows]
    values: Floats = logits.float().numpy()
    return [_largest_float32(values[row]) for row in rows]


def _largest_on_device(logits: torch.Tensor) -> list[Sampled]:
    """Brings two numbers a row to the host, and a whole row only where it is not finite."""
    peaks, tokens = logits.max(dim=-1)
    return [
        Sampled(token, None) if np.isfinite(peak) else _careful_largest(logits[row].cpu().numpy())
        for row, (peak, token) in enumerate(zip(peaks.tolist(), tokens.tolist(), strict=True))
    ]


def _largest_float32(values: Floats) -> Sampled:
    token = int(values.argmax())
    if np.isfinite(values[token]):
        return Sampled(token, None)
    return _careful_largest(values)


def _largest_bfloat16(bits: NDArray[np.int16]) -> Sampled:
    """Compares the numbers by their bits, which numpy vectorises and for bfloat16 it cannot.

    As 16-bit integers, numbers without a sign bit keep their order and lie above all those with
    one, which are in reverse order.
    """
    token = int(bits.argmax())
    if bits[token] < 0:
        token = int(bits.argmin())
    # 0x7F80 is infinity; NaN lies beyond it, with either sign.
    if int(bits[token]) & 0x7F80 != 0x7F80:
        return Sampled(token, None)
    widened = np.left_shift(bits.astype(np.int32), 16).view(np.float32)
    return _careful_largest(widened)


def _careful_largest(values: Floats) -> Sampled:
    values = _finite(values)
    token = int(values.argmax())
    return Sampled(token if values[token] > -np.inf else 0, None, bool(values[token] > -np.inf))


def _choose(scores: Floats, probabilities: Floats, state: _Sequence) -> int | None:
    """Returns the token of one adjusted row, or None when the row leaves nothing to choose."""
    if state.greedy:
        sampled = _largest_float32(scores)
        return sampled.token if sampled.finite else None
    if np.isnan(probabilities[0]):  # one number that is not finite makes all of them NaN
        scores = _finite(scores)
        if scores.max() == -np.inf:
            return None
        probabilities = torch.softmax(torch.from_numpy(scores), dim=-1).numpy()
    number = uniform(state.seed, state.generated)
    return draw(probabilities, number, threshold(probabilities, state.sampling))


def _finite(values: Floats) -> Floats:
    """Returns a copy where NaN is minus infinity and plus infinity the largest float."""
    greatest = float(np.finfo(np.float32).max)
    copy: Floats = np.nan_to_num(values, nan=-np.inf, posinf=greatest, neginf=-np.inf)
    return copy
