"""Log-probabilities of a prompt's tokens: transformers' own, whatever the schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from serving.boundary.messages import Generate, Logprob
from serving.boundary.sampling import Sampling
from serving.engines.embedded.runtime import EmbeddedRuntime

Make = Callable[..., EmbeddedRuntime]
LENGTHS = (200, 1, 2, 65, 64, 130, 33)


def prompts() -> list[list[int]]:
    random = np.random.default_rng(1)
    return [random.integers(0, 300, length).tolist() for length in LENGTHS]


def run(runtime: EmbeddedRuntime, scored: int | None = 3) -> tuple[dict[int, Any], dict[int, Any]]:
    """Returns the scores and the tokens of the prompts, run together."""
    scores: dict[int, list[Logprob]] = {}
    tokens: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts()):
        sampling = Sampling(max_tokens=40, temperature=0.0, prompt_logprobs=scored)
        runtime.submit(Generate(number, prompt, sampling))
    while runtime.busy:
        step = runtime.step()
        for output in step.outputs if step else ():
            assert output.fault is None
            if output.prompt_logprobs:
                assert output.id not in tokens, "scores come before tokens"
                scores.setdefault(output.id, []).extend(output.prompt_logprobs)
            if output.tokens:
                tokens.setdefault(output.id, []).extend(output.tokens)
    return scores, tokens


@torch.inference_mode()
def test_scores_are_those_of_transformers(
    make_runtime: Make, write_checkpoint: Any, oracle: Any, shape: Any
) -> None:
    chosen = shape()
    reference = oracle(write_checkpoint(chosen), chosen)
    scores, _ = run(make_runtime(chosen))
    assert {n: len(found) for n, found in scores.items()} == {
        n: length - 1 for n, length in enumerate(LENGTHS) if length > 1
    }
    for number, found in scores.items():
        prompt = prompts()[number]
        expected = reference(torch.tensor([prompt])).logits[0].log_softmax(dim=-1)
        for row, following, logprob in zip(expected, prompt[1:], found, strict=False):
            assert logprob.logprob == pytest.approx(float(row[following]), abs=2e-3)
            values = [value for _, value in logprob.top]
            assert values == pytest.approx(row.topk(3).values.tolist(), abs=2e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["C", "torch"])
def test_an_answer_scored_as_a_prompt_has_the_log_probabilities_that_it_came_with(
    make_runtime: Make, finish_all: Callable[[EmbeddedRuntime], dict[int, Any]], dtype: torch.dtype
) -> None:
    runtime = make_runtime(dtype=dtype)
    prompt = prompts()[0]
    runtime.submit(Generate(1, prompt, Sampling(max_tokens=100, seed=3, logprobs=0)))
    answer = finish_all(runtime)[1]
    sampling = Sampling(max_tokens=1, prompt_logprobs=0)
    runtime.submit(Generate(2, prompt + answer.tokens, sampling))
    scores: list[float] = []
    while runtime.busy:
        step = runtime.step()
        for output in step.outputs if step else ():
            scores += [logprob.logprob for logprob in output.prompt_logprobs or ()]
    assert scores[len(prompt) - 1 :] == pytest.approx(answer.logprobs, abs=1e-5)


WAYS: dict[str, dict[str, Any]] = {
    "small steps": {"budget": 40},
    "few blocks": {"cache_tokens": 352, "budget": 100},
    "padded sizes": {"graphs": (1, 2, 4, 8, 16, 64)},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_scores_do_not_depend_on_the_schedule_and_change_no_token(
    make_runtime: Make, way: dict[str, Any]
) -> None:
    scores, tokens = run(make_runtime())
    runtime = make_runtime(**way)
    others, same = run(runtime)
    assert same == tokens == run(make_runtime(), scored=None)[1]
    assert others.keys() == scores.keys()
    for number, found in scores.items():
        values = [logprob.logprob for logprob in others[number]]
        assert values == pytest.approx([logprob.logprob for logprob in found], abs=1e-4)
    assert (runtime.stats().preemptions_total > 0) == ("cache_tokens" in way)


def test_a_cached_prompt_is_scored_too_and_unscored_ones_still_use_the_cache(
    make_runtime: Make,
) -> None:
    runtime = make_runtime()
    first, _ = run(runtime)
    again, _ = run(runtime)
    assert {n: len(found) for n, found in again.items()} == {n: len(f) for n, f in first.items()}
    assert runtime.stats().cached_tokens_total == 0
    run(runtime, scored=None)
    assert runtime.stats().cached_tokens_total > 100


def test_no_prompt_is_scored_unasked(make_runtime: Make) -> None:
    assert run(make_runtime(), scored=None)[0] == {}
    assert "prompt_logprobs" in make_runtime().ready().capabilities
