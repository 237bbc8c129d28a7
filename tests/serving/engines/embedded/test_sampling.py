"""The sampler as the engine uses it: batches, seeds, limits, log-probabilities, damage."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from serving.boundary.sampling import Sampling
from serving.engines.embedded.sampling import LEAST_LOGPROB, Sampled, Sampler

VOCAB = 1000
NAN, INFINITY = float("nan"), float("inf")

KINDS = {
    "greedy": Sampling(max_tokens=9, temperature=0.0),
    "plain": Sampling(max_tokens=9, seed=1),
    "filtered": Sampling(max_tokens=9, seed=2, temperature=0.7, top_k=40, top_p=0.9, min_p=0.01),
    "nucleus": Sampling(max_tokens=9, seed=3, top_p=0.8),
    "penalised": Sampling(
        max_tokens=9, seed=4, frequency_penalty=0.5, presence_penalty=0.5, repetition_penalty=1.2
    ),
    "biased": Sampling(max_tokens=9, seed=5, logit_bias={3: 4.0, 9: -100.0}, logprobs=2),
}


def noise(rows: int, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * scale


def one(sampling: Sampling, logits: torch.Tensor, steps: int = 1) -> list[Sampled]:
    """Returns what one sequence samples when it sees the same logits, (vocab,), at every step."""
    sampler = Sampler(VOCAB, entropy=lambda: 0)
    sampler.add(7, sampling, [1, 2, 3])
    return [sampler.sample(logits[None], [7])[0] for _ in range(steps)]


def frequencies(
    sampling: Sampling, logits: torch.Tensor, steps: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.bincount([s.token for s in one(sampling, logits, steps)], minlength=VOCAB)


def chi_square(found: np.ndarray[tuple[int], np.dtype[np.int64]], shares: torch.Tensor) -> float:
    """Returns how many standard deviations the statistic is from its mean.

    Its cells are the tokens that should come 5 times or more, and all others together.
    """
    wanted = shares.double().numpy() * found.sum()
    common = wanted >= 5.0
    cells = np.append(found[common], found[~common].sum())
    means = np.append(wanted[common], max(wanted[~common].sum(), 1e-9))
    freedom = len(cells) - 1
    return float((((cells - means) ** 2 / means).sum() - freedom) / (2 * freedom) ** 0.5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.6])
def test_tokens_come_as_often_as_their_probability_says(temperature: float) -> None:
    logits = noise(1)[0]
    found = frequencies(Sampling(max_tokens=9, seed=11, temperature=temperature), logits, 8_000)
    assert abs(chi_square(found, torch.softmax(logits / temperature, dim=-1))) < 3.5


def test_filtered_tokens_come_as_often_as_their_renormalised_probability() -> None:
    logits = noise(1)[0]
    found = frequencies(Sampling(max_tokens=9, seed=12, top_k=20), logits, 8_000)
    kept = torch.where(logits >= logits.topk(20).values[-1], logits, -INFINITY)
    assert np.count_nonzero(found) == 20
    assert abs(chi_square(found, torch.softmax(kept, dim=-1))) < 3.5


def test_the_test_of_frequencies_can_fail() -> None:
    logits = noise(1)[0]
    found = frequencies(Sampling(max_tokens=9, seed=11, temperature=1.1), logits, 8_000)
    assert chi_square(found, torch.softmax(logits, dim=-1)) > 7.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sequence_samples_the_same_alone_and_in_a_batch(dtype: torch.dtype) -> None:
    steps = [noise(len(KINDS), seed=step).to(dtype) for step in range(8)]
    together = Sampler(VOCAB)
    for row, sampling in enumerate(KINDS.values()):
        together.add(row, sampling, [row])
    batch = [together.sample(logits, range(len(KINDS))) for logits in steps]
    for row, sampling in enumerate(KINDS.values()):
        alone = Sampler(VOCAB)
        alone.add(99, sampling, [row])
        for step, logits in enumerate(steps):
            assert alone.sample(logits[row : row + 1], [99])[0] == batch[step][row]


def test_seeds_decide_and_a_missing_seed_is_drawn() -> None:
    logits = noise(1)[0]
    first = one(Sampling(max_tokens=9, seed=1), logits, 20)
    assert first == one(Sampling(max_tokens=9, seed=1), logits, 20)
    assert first != one(Sampling(max_tokens=9, seed=2), logits, 20)
    seeds = iter([5, 6])
    sampler = Sampler(VOCAB, entropy=lambda: next(seeds))
    sampler.add(0, Sampling(max_tokens=9), [])
    sampler.add(1, Sampling(max_tokens=9), [])
    drawn = [sampler.sample(logits.expand(2, -1), [0, 1]) for _ in range(20)]
    assert [step[0] for step in drawn] == one(Sampling(max_tokens=9, seed=5), logits, 20)
    assert [step[1] for step in drawn] == one(Sampling(max_tokens=9, seed=6), logits, 20)


@pytest.mark.parametrize("seed", [-1, 0, 2**63 - 1, -(2**63), 2**64])
def test_every_seed_is_taken(seed: int) -> None:
    assert one(Sampling(max_tokens=9, seed=seed), noise(1)[0])[0].finite


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=9, temperature=0.0, top_p=0.1, seed=3),
        Sampling(max_tokens=9, temperature=1e-30, seed=3),
        Sampling(max_tokens=9, top_k=1, seed=3),
        Sampling(max_tokens=9, top_p=0.0, seed=3),
        Sampling(max_tokens=9, min_p=1.0, seed=3),
        Sampling(max_tokens=9, temperature=0.0, logprobs=0),
    ],
)
def test_every_way_to_ask_for_the_likeliest_token_gives_it(sampling: Sampling) -> None:
    for step in range(5):
        logits = noise(1, seed=step)[0]
        assert one(sampling, logits)[0].token == int(logits.argmax())


def test_stop_tokens_wait_for_min_tokens() -> None:
    logits = torch.zeros(VOCAB)
    logits[[5, 6]] = torch.tensor([9.0, 8.0])
    logits[7] = 1.0
    asked = Sampling(max_tokens=9, temperature=0.0, stop_token_ids=(5, 6, VOCAB + 4), min_tokens=3)
    assert [s.token for s in one(asked, logits, 5)] == [7, 7, 7, 5, 5]
    ignoring = Sampling(
        max_tokens=9, temperature=0.0, stop_token_ids=(5,), min_tokens=3, ignore_eos=True
    )
    assert one(ignoring, logits)[0].token == 5


def test_penalties_see_what_was_sampled() -> None:
    logits = torch.zeros(VOCAB)
    logits[[1, 2, 3]] = torch.tensor([3.0, 2.9, 2.8])
    asked = Sampling(max_tokens=9, temperature=0.0, presence_penalty=1.0)
    assert [s.token for s in one(asked, logits, 4)] == [1, 2, 3, 1]


def test_a_grammar_mask_rules_tokens_out_until_it_is_lifted() -> None:
    logits = noise(1)
    likeliest = int(logits[0].argmax())
    words = -(-VOCAB // 32)
    mask = np.zeros(words, dtype=np.int32)
    for token in (4, 31, 32, 999):
        mask[token // 32] |= np.int32(np.uint32(1 << (token % 32)).astype(np.int32))
    sampler = Sampler(VOCAB)
    sampler.add(0, Sampling(max_tokens=9, seed=1), [])
    sampler.add(1, Sampling(max_tokens=9, temperature=0.0), [])
    sampler.constrain(0, mask)
    sampler.constrain(1, mask)
    found = [sampler.sample(logits.expand(2, -1), [0, 1]) for _ in range(200)]
    assert {step[0].token for step in found} == {4, 31, 32, 999}
    assert {step[1].token for step in found} == {max((4, 31, 32, 999), key=logits[0].__getitem__)}
    sampler.constrain(1, None)
    assert sampler.sample(logits, [1])[0].token == likeliest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logprobs_are_the_models_own_whatever_is_asked_of_the_choice(dtype: torch.dtype) -> None:
    logits = noise(1)[0].to(dtype)
    wanted = torch.log_softmax(logits.double(), dim=-1)
    plain = Sampling(max_tokens=9, temperature=0.3, top_k=3, seed=1, logprobs=4)
    bent = Sampling(max_tokens=9, seed=1, logprobs=4, logit_bias={17: 90.0}, min_tokens=1)
    for asked in (plain, bent):
        token, logprob, finite = one(asked, logits)[0]
        assert finite
        assert logprob is not None
        assert logprob.logprob == pytest.approx(float(wanted[token]), abs=1e-5)
        top = sorted(range(VOCAB), key=lambda t: (-float(logits[t]), t))[:4]
        assert [t for t, _ in logprob.top] == top
        assert [v for _, v in logprob.top] == pytest.approx(wanted[top].tolist(), abs=1e-5)
    assert one(bent, logits)[0].token == 17


def test_logprobs_come_only_when_asked_for() -> None:
    logits = noise(1)[0]
    assert one(Sampling(max_tokens=9), logits)[0].logprob is None
    bare = one(Sampling(max_tokens=9, logprobs=0), logits)[0].logprob
    assert bare is not None
    assert bare.top == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sampling", KINDS.values(), ids=KINDS)
def test_a_row_without_numbers_is_told_and_harms_no_other(
    sampling: Sampling, dtype: torch.dtype
) -> None:
    logits = noise(4).to(dtype)
    logits[0], logits[1] = NAN, -INFINITY
    logits[2, ::2], logits[2, 1] = NAN, INFINITY
    sampler = Sampler(VOCAB)
    for row in range(4):
        sampler.add(row, sampling, [])
    found = sampler.sample(logits, range(4))
    assert [(s.token, s.finite) for s in found[:2]] == [(0, False), (0, False)]
    assert (found[2].token, found[2].finite) == (1, True)
    assert found[3].finite
    if sampling.logprobs is not None:
        assert found[0].logprob is not None
        assert found[0].logprob.logprob == LEAST_LOGPROB


def test_a_removed_sequence_is_forgotten_and_an_id_can_be_used_again() -> None:
    logits = noise(1)
    sampler = Sampler(VOCAB)
    sampler.add(0, Sampling(max_tokens=9, seed=1), [])
    first = [sampler.sample(logits, [0])[0] for _ in range(5)]
    sampler.remove(0)
    sampler.remove(0)
    with pytest.raises(KeyError):
        sampler.sample(logits, [0])
    sampler.add(0, Sampling(max_tokens=9, seed=1), [])
    assert [sampler.sample(logits, [0])[0] for _ in range(5)] == first


def test_logits_are_left_as_they_are_and_may_come_from_inference_mode() -> None:
    with torch.inference_mode():
        logits = noise(len(KINDS))
    before = logits.clone()
    sampler = Sampler(VOCAB)
    for row, sampling in enumerate(KINDS.values()):
        sampler.add(row, sampling, [1])
    sampler.sample(logits, range(len(KINDS)))
    assert torch.equal(logits, before)
