from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from serving.boundary.contract import Runtime
from serving.boundary.messages import Generate, Output
from serving.boundary.sampling import Sampling
from serving.engines.embedded.forward_pass import TorchPass
from serving.engines.embedded.model import Model
from serving.engines.embedded.runtime import EmbeddedRuntime

Make = Callable[..., EmbeddedRuntime]
FinishAll = Callable[[EmbeddedRuntime], dict[int, Any]]


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 300, length).tolist()  # type: ignore[no-any-return]


def greedy(number: int, tokens: list[int], new: int = 8, **more: Any) -> Generate:
    return Generate(number, tokens, Sampling(max_tokens=new, temperature=0.0, **more))


def only(runtime: EmbeddedRuntime) -> Output:
    step = runtime.step()
    assert step is not None
    (output,) = step.outputs
    return output


def test_it_is_a_runtime(make_runtime: Make, device: torch.device) -> None:
    runtime: Runtime = make_runtime()
    ready = runtime.ready()
    assert (ready.runtime, ready.device, ready.blocks) == ("embedded", device.type, 512)
    assert (ready.max_seq_len, ready.block_tokens) == (1024, 16)
    assert ready.load_seconds > 0
    assert runtime.step() is None
    assert not runtime.busy


def test_greedy_tokens_are_those_of_transformers(
    make_runtime: Make,
    finish_all: FinishAll,
    oracle: Callable[..., Any],
    write_checkpoint: Callable[..., Path],
    shape: Any,
) -> None:
    chosen = shape()
    reference = oracle(write_checkpoint(chosen), chosen)
    runtime = make_runtime(chosen, budget=48)
    prompts = [prompt(length, seed=length) for length in (1, 5, 37, 150)]
    for number, tokens in enumerate(prompts):
        runtime.submit(greedy(number, tokens, 12))
    results = finish_all(runtime)
    for number, tokens in enumerate(prompts):
        ids = torch.tensor([tokens])
        with torch.inference_mode():
            for _ in range(12):
                following = reference(ids).logits[0, -1].argmax().view(1, 1)
                ids = torch.cat((ids, following), dim=1)
        assert results[number].tokens == ids[0, len(tokens) :].tolist()
        assert results[number].finish == "length"


def test_a_stop_token_ends_the_sequence_and_is_returned(
    make_runtime: Make, finish_all: FinishAll
) -> None:
    runtime = make_runtime()
    runtime.submit(greedy(0, prompt(20), 10))
    tokens = finish_all(runtime)[0].tokens
    stop = tokens[4]
    expected = tokens[: tokens.index(stop) + 1]
    runtime.submit(greedy(1, prompt(20), 10, stop_token_ids=(stop,)))
    runtime.submit(greedy(2, prompt(20), 10, stop_token_ids=(stop,), ignore_eos=True))
    runtime.submit(greedy(3, prompt(20), 10, stop_token_ids=(stop,), min_tokens=8))
    results = finish_all(runtime)
    assert (results[1].tokens, results[1].finish) == (expected, "stop")
    assert (results[2].tokens, results[2].finish) == (tokens, "length")
    assert stop not in results[3].tokens[:8]


def test_a_sequence_ends_at_the_greatest_length(make_runtime: Make, finish_all: FinishAll) -> None:
    runtime = make_runtime(longest=32)
    runtime.submit(greedy(0, prompt(31), 10))
    runtime.submit(greedy(1, prompt(20), 1000))
    results = finish_all(runtime)
    assert [(len(r.tokens), r.finish) for r in (results[0], results[1])] == [
        (1, "length"),
        (12, "length"),
    ]


def test_the_cache_bounds_the_greatest_length(make_runtime: Make, finish_all: FinishAll) -> None:
    runtime = make_runtime(longest=1024, cache_tokens=64)
    assert runtime.ready().max_seq_len == 64
    runtime.submit(greedy(0, prompt(30), 1000))
    assert len(finish_all(runtime)[0].tokens) == 34


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (greedy(7, []), "empty"),
        (greedy(7, [0, 300]), "outside 0 to 299"),
        (greedy(7, [-1]), "outside 0 to 299"),
        (greedy(7, prompt(1024)), "1024 tokens"),
        (greedy(7, [1], new=0), "max_tokens"),
        (greedy(7, [1], grammar="{}"), "grammar"),
    ],
    ids=["empty", "too large", "negative", "too long", "nothing wanted", "grammar"],
)
def test_a_bad_request_is_answered_and_hurts_nobody(
    make_runtime: Make, finish_all: FinishAll, request_: Generate, message: str
) -> None:
    runtime = make_runtime()
    runtime.submit(greedy(0, prompt(10)))
    runtime.submit(request_)
    results = finish_all(runtime)
    assert results[7].finish == "error"
    assert results[7].fault.kind == "invalid"
    assert message in results[7].fault.message
    assert len(results[0].tokens) == 8


def test_abort_frees_the_blocks_before_the_next_step(make_runtime: Make) -> None:
    runtime = make_runtime(budget=64)
    for number in range(4):
        runtime.submit(greedy(number, prompt(100, seed=number), 50))
    for _ in range(3):
        runtime.step()
    assert runtime.stats().blocks_used > 0
    for number in range(4):
        runtime.abort(number)
    runtime.abort(99)
    stats = runtime.stats()
    assert (stats.blocks_used, stats.running, stats.waiting) == (0, 0, 0)
    assert not runtime.busy
    assert runtime.step() is None


def test_nothing_follows_an_abort(make_runtime: Make, finish_all: FinishAll) -> None:
    runtime = make_runtime()
    runtime.submit(greedy(0, []))
    runtime.submit(greedy(1, prompt(10)))
    runtime.submit(greedy(2, prompt(12)))
    runtime.step()
    runtime.abort(1)
    runtime.submit(greedy(3, []))
    runtime.abort(3)
    assert set(finish_all(runtime)) == {2}


def test_a_repeated_prompt_comes_from_the_cache(make_runtime: Make, finish_all: FinishAll) -> None:
    runtime = make_runtime()
    runtime.submit(greedy(0, prompt(200)))
    cold = finish_all(runtime)[0]
    runtime.submit(greedy(1, prompt(200)))
    warm = finish_all(runtime)[1]
    assert (cold.cached_tokens, warm.cached_tokens) == (0, 192)
    assert warm.tokens == cold.tokens
    stats = runtime.stats()
    assert (stats.prompt_tokens_total, stats.cached_tokens_total) == (400, 192)
    assert stats.generated_tokens_total == 16


def test_a_prompt_of_whole_blocks_computes_one_token_and_writes_to_no_shared_block(
    make_runtime: Make, finish_all: FinishAll
) -> None:
    runtime = make_runtime()
    runtime.submit(greedy(0, prompt(192), 30))
    first = only(runtime)
    forward = runtime._executor._pass
    assert isinstance(forward, TorchPass)
    layers = [layer.clone() for layer in forward._store._layers]
    runtime.submit(greedy(1, prompt(192), 30))
    step = runtime.step()
    assert step is not None
    second = {output.id: output for output in step.outputs}
    assert (second[0].cached_tokens, second[1].cached_tokens) == (0, 191)
    for before, after in zip(layers, forward._store._layers, strict=True):
        heads = [side.view(4, -1, before.shape[-1])[:, 2:] for side in (before, after)]
        changed = (heads[0] != heads[1]).any(dim=-1).any(dim=0)
        # The block in which the first sequence goes on, and no other.
        assert int(changed.sum()) == 1
    rest = finish_all(runtime)
    assert second[1].tokens + rest[1].tokens == (first.tokens + second[0].tokens + rest[0].tokens)


def test_a_conversation_continues_from_its_own_answer(
    make_runtime: Make, finish_all: FinishAll
) -> None:
    runtime = make_runtime()
    runtime.submit(greedy(0, prompt(100), 60))
    answer = finish_all(runtime)[0].tokens
    follow_up = prompt(100) + answer + prompt(10, seed=5)
    runtime.submit(greedy(1, follow_up))
    assert finish_all(runtime)[1].cached_tokens == 144


def test_salts_keep_prefixes_apart(make_runtime: Make, finish_all: FinishAll) -> None:
    runtime = make_runtime()
    for number, salt in enumerate(("a", "b", "a")):
        runtime.submit(Generate(number, prompt(100), Sampling(max_tokens=1), cache_salt=salt))
        assert finish_all(runtime)[number].cached_tokens == (96 if number == 2 else 0)


def test_a_long_prompt_stalls_a_stream_for_one_chunk_at_most(make_runtime: Make) -> None:
    runtime = make_runtime(budget=64)
    runtime.submit(greedy(0, prompt(5), 200))
    only(runtime)
    runtime.submit(greedy(1, prompt(900), 1))
    before = runtime.stats().steps_total
    seen: set[int] = set()
    while 1 not in seen:
        step = runtime.step()
        assert step is not None
        ids = {output.id for output in step.outputs}
        assert 0 in ids
        seen |= ids
    assert runtime.stats().steps_total - before >= 900 // 64


def test_logprobs_come_with_every_token(make_runtime: Make, finish_all: FinishAll) -> None:
    runtime = make_runtime()
    runtime.submit(greedy(0, prompt(10), 5, logprobs=2))
    output = only(runtime)
    assert output.logprobs is not None
    (entry,) = output.logprobs
    assert entry.logprob <= 0
    token, logprob = entry.top[0]
    assert token == output.tokens[0]
    assert logprob == pytest.approx(entry.logprob)
    assert len(finish_all(runtime)[0].logprobs) == 4


def poison(monkeypatch: pytest.MonkeyPatch, token: int, spoil: Callable[..., Any]) -> None:
    """Makes the model break on every pass that contains `token`."""
    whole = Model.forward

    def forward(self: Model, plan: Any, store: Any) -> torch.Tensor:
        if (plan.tokens == token).any():
            return spoil(whole, self, plan, store)  # type: ignore[no-any-return]
        return whole(self, plan, store)

    monkeypatch.setattr(Model, "forward", forward)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("shape mismatch"), "internal"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
    ],
    ids=["internal", "memory", "allocator"],
)
def test_a_step_that_fails_loses_only_what_cannot_be_computed(
    make_runtime: Make,
    finish_all: FinishAll,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: str,
) -> None:
    alone = make_runtime()
    alone.submit(greedy(0, [1, 2, 3]))
    expected = finish_all(alone)[0].tokens

    def fail(*_: Any) -> torch.Tensor:
        raise error

    poison(monkeypatch, 299, fail)
    runtime = make_runtime()
    runtime.submit(greedy(0, [1, 2, 3]))
    runtime.submit(greedy(1, [4, 299]))
    results = finish_all(runtime)
    assert results[1].fault.kind == kind
    assert str(error) not in results[1].fault.message or not str(error)
    assert results[0].tokens == expected
    assert runtime.stats().blocks_used == 0


def test_numbers_that_are_none_end_the_sequence_and_leave_no_trace(
    make_runtime: Make, finish_all: FinishAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = make_runtime(cache_tokens=64)
    alone.submit(greedy(0, prompt(30)))
    expected = finish_all(alone)[0].tokens

    def spoil(whole: Any, model: Model, plan: Any, store: Any) -> torch.Tensor:
        logits: torch.Tensor = whole(model, plan, store)
        for layer in store._layers:
            layer[layer != 0] = float("nan")
        return logits.fill_(float("nan"))

    poison(monkeypatch, 299, spoil)
    runtime = make_runtime(cache_tokens=64)
    runtime.submit(greedy(1, [299] * 60))
    broken = finish_all(runtime)[1]
    assert (broken.finish, broken.fault.kind) == ("error", "internal")
    # Every block of the pool was in the broken sequence.
    runtime.submit(greedy(2, prompt(30)))
    assert finish_all(runtime)[2].tokens == expected


def test_close_drops_everything(make_runtime: Make) -> None:
    runtime = make_runtime()
    runtime.submit(greedy(0, prompt(10)))
    runtime.submit(greedy(1, []))
    runtime.step()
    runtime.close()
    assert not runtime.busy
    assert runtime.stats().blocks_used == 0
