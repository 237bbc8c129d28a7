"""The contract of `Runtime`, over the double of TensorRT-LLM."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from serving.boundary.messages import Fault, Generate, Logprob, Output
from serving.engines.trtllm import TrtllmRuntime

STOP = 200_002
Load = Callable[..., TrtllmRuntime]
Make = Callable[..., Generate]
Drain = Callable[[TrtllmRuntime], dict[int, list[Output]]]


def tokens(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.tokens]


def expected(executor: ModuleType, request: Generate, count: int) -> list[int]:
    return [executor.token_at(request.prompt, index) for index in range(count)]


def test_a_sequence_ends_with_its_stop_token(
    runtime: TrtllmRuntime, generate: Make, drain: Drain, executor: ModuleType
) -> None:
    request = generate(7, stop_after=4)
    runtime.submit(request)
    outputs = drain(runtime)[7]
    assert tokens(outputs) == [*expected(executor, request, 4), STOP]
    assert [output.finish for output in outputs] == [""] * (len(outputs) - 1) + ["stop"]


def test_a_sequence_ends_at_its_limit(
    runtime: TrtllmRuntime, generate: Make, drain: Drain, executor: ModuleType
) -> None:
    request = generate(1, max_tokens=5)
    runtime.submit(request)
    outputs = drain(runtime)[1]
    assert tokens(outputs) == expected(executor, request, 5)
    assert outputs[-1].finish == "length"


def test_a_sequence_ends_where_the_engine_holds_no_more(
    runtime: TrtllmRuntime, generate: Make, drain: Drain
) -> None:
    runtime.submit(generate(1, max_tokens=1000, tail=(6,) * 244))
    outputs = drain(runtime)[1]
    assert len(tokens(outputs)) == 256 - 246
    assert outputs[-1].finish == "length"


def test_ignore_eos_runs_over_the_stop_token(
    runtime: TrtllmRuntime, generate: Make, drain: Drain
) -> None:
    runtime.submit(generate(1, stop_after=2, max_tokens=6, ignore_eos=True))
    outputs = drain(runtime)[1]
    assert len(tokens(outputs)) == 6
    assert outputs[-1].finish == "length"


def test_many_sequences_lose_and_repeat_no_token(
    runtime: TrtllmRuntime, generate: Make, drain: Drain, executor: ModuleType
) -> None:
    requests = [generate(i, tail=(i,), max_tokens=40 + i) for i in range(1, 33)]
    for request in requests:
        runtime.submit(request)
    found = drain(runtime)
    for request in requests:
        outputs = found[request.id]
        assert tokens(outputs) == expected(executor, request, 40 + request.id)
        assert [output.finish for output in outputs].count("length") == 1


def test_sequences_under_random_aborts_never_mix(
    runtime: TrtllmRuntime, generate: Make, executor: ModuleType
) -> None:
    chance = random.Random(7)
    requests = {i: generate(i, tail=(i,), max_tokens=chance.randint(1, 30)) for i in range(1, 121)}
    waiting, aborted = list(requests), set[int]()
    found: dict[int, list[int]] = {i: [] for i in requests}
    while waiting or runtime.busy:
        for sequence_id in waiting[:5]:
            runtime.submit(requests[sequence_id])
        del waiting[:5]
        step = runtime.step()
        for output in step.outputs if step else []:
            assert output.id not in aborted
            found[output.id] += output.tokens
        victim = chance.randint(1, 120)
        if victim not in waiting and chance.random() < 0.3:
            runtime.abort(victim)
            aborted.add(victim)
    for sequence_id, request in requests.items():
        whole = expected(executor, request, request.sampling.max_tokens)
        got = found[sequence_id]
        assert got == whole if sequence_id not in aborted else got == whole[: len(got)]


def test_the_results_of_one_engine_step_come_in_one_step(
    runtime: TrtllmRuntime, generate: Make
) -> None:
    for i in range(1, 9):
        runtime.submit(generate(i, tail=(i,), max_tokens=60))
    most = 0
    while runtime.busy:
        step = runtime.step()
        most = max(most, len(step.outputs) if step else 0)
    assert most >= 8


def test_a_step_without_results_returns_soon(runtime: TrtllmRuntime, generate: Make) -> None:
    runtime.submit(generate(1, max_tokens=200))
    while not runtime.step():
        pass
    runtime.abort(1)
    began = time.monotonic()
    assert runtime.step() is None
    assert time.monotonic() - began < 1.0
    assert not runtime.busy


def test_nothing_follows_an_abort(
    runtime: TrtllmRuntime, generate: Make, drain: Drain, executor: ModuleType
) -> None:
    runtime.submit(generate(1, max_tokens=200))
    other = generate(2, max_tokens=30)
    runtime.submit(other)
    while not runtime.step():
        pass
    runtime.abort(1)
    found = drain(runtime)
    assert 1 not in found
    assert found[2][-1].finish == "length"


def test_an_abort_frees_the_engine(runtime: TrtllmRuntime, generate: Make, drain: Drain) -> None:
    running: Any = runtime._llm
    for sequence_id in (1, 2, 3):
        runtime.submit(generate(sequence_id, max_tokens=250))
    while not runtime.step():
        pass
    for sequence_id in (1, 2, 3, 99):
        runtime.abort(sequence_id)
    assert not runtime.busy
    until = time.monotonic() + 10
    while running._executor.in_flight and time.monotonic() < until:
        runtime.step()
    assert running._executor.in_flight == 0


def test_an_abort_before_the_start_never_reaches_the_engine(
    runtime: TrtllmRuntime, generate: Make, drain: Drain
) -> None:
    runtime.submit(generate(1, max_tokens=250))
    runtime.abort(1)
    assert drain(runtime) == {}


def test_priority_and_salt_are_passed_on(
    runtime: TrtllmRuntime, generate: Make, drain: Drain
) -> None:
    runtime.submit(generate(1, priority=0.9, cache_salt="tenant-hash"))
    runtime.submit(generate(2))
    drain(runtime)
    running: Any = runtime._llm
    given = [(salt, priority) for _, _, salt, priority in running._executor.submitted]
    assert given == [("tenant-hash", 0.9), (None, 0.5)]


def test_cached_tokens_come_with_the_first_output(
    runtime: TrtllmRuntime, generate: Make, drain: Drain
) -> None:
    runtime.submit(generate(1, tail=(1,) * 62))
    cached = [output.cached_tokens for output in drain(runtime)[1]]
    assert cached[0] == 32
    assert not any(cached[1:])


def test_logprobs_give_the_sampled_token_and_the_likeliest(
    runtime: TrtllmRuntime, generate: Make, drain: Drain
) -> None:
    runtime.submit(generate(1, max_tokens=3, logprobs=2))
    for output in drain(runtime)[1]:
        assert output.logprobs == [
            Logprob(-1.5, [(token + 2, -0.5), (token + 1, -1.0)]) for token in output.tokens
        ]


def test_logprobs_of_none_are_those_of_the_sampled_token(
    runtime: TrtllmRuntime, generate: Make, drain: Drain
) -> None:
    runtime.submit(generate(1, max_tokens=1, logprobs=0))
    assert drain(runtime)[1][0].logprobs == [Logprob(-1.5, [])]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"tail": (1,) * 254}, "holds sequences of 256 tokens"),
        ({"tail": (201_088,)}, "outside the vocabulary"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"priority": 1.5}, "priority"),
        ({"top_p": 1.5}, "top_p"),
        ({"logprobs": 101}, "logprobs"),
        ({"min_tokens": 3}, "several stop tokens"),
        ({"logit_bias": {201_088: 1.0}}, "logit_bias"),
    ],
)
def test_what_cannot_run_is_refused_with_a_reason(
    runtime: TrtllmRuntime,
    generate: Make,
    drain: Drain,
    changes: dict[str, Any],
    part: str,
) -> None:
    runtime.submit(generate(1, **changes))
    (output,) = drain(runtime)[1]
    assert output.finish == "error"
    assert output.fault is not None
    assert output.fault.kind == "invalid"
    assert part in output.fault.message


def test_a_long_prompt_needs_chunked_prefill(load: Load, generate: Make, drain: Drain) -> None:
    runtime = load({"enable_chunked_prefill": False})
    runtime.submit(generate(1, tail=(1,) * 70))
    (output,) = drain(runtime)[1]
    assert output.fault is not None
    assert "chunked prefill" in output.fault.message


def test_a_refusal_of_the_engine_is_the_requests_fault(
    runtime: TrtllmRuntime, generate: Make, drain: Drain, executor: ModuleType
) -> None:
    runtime.submit(generate(1, fault=executor.FAULTS["refused"]))
    (output,) = drain(runtime)[1]
    assert output.fault == Fault(
        "invalid", "The engine does not take this request: the worker refuses this request"
    )


@pytest.mark.parametrize("name", ["guided", "guided_by_words"])
def test_an_answer_that_cannot_be_held_is_the_requests_fault(
    runtime: TrtllmRuntime, generate: Make, drain: Drain, executor: ModuleType, name: str
) -> None:
    """Whatever its error quotes of the client's: the engine is well, three times over, too."""
    for sequence_id in range(1, 5):
        runtime.submit(generate(sequence_id, fault=executor.FAULTS[name]))
    for outputs in drain(runtime).values():
        assert outputs[-1].fault == Fault(
            "invalid", "The engine cannot hold the answer to this request's schema or grammar."
        )
    runtime.submit(generate(9, max_tokens=3))
    assert drain(runtime)[9][-1].finish == "length"


def test_a_refusal_that_quotes_the_client_is_the_requests_fault(
    runtime: TrtllmRuntime, generate: Make, drain: Drain, executor: ModuleType
) -> None:
    runtime.submit(generate(1, fault=executor.FAULTS["refused_by_words"]))
    (output,) = drain(runtime)[1]
    assert output.fault is not None
    assert output.fault.kind == "invalid"
    runtime.submit(generate(2, max_tokens=3))
    assert drain(runtime)[2][-1].finish == "length"


@pytest.mark.parametrize("name", ["request", "no_finish", "logprobs_missing", "guided_internally"])
def test_a_failed_request_fails_alone(
    runtime: TrtllmRuntime, generate: Make, drain: Drain, executor: ModuleType, name: str
) -> None:
    runtime.submit(generate(1, fault=executor.FAULTS[name], logprobs=1))
    runtime.submit(generate(2, max_tokens=20))
    found = drain(runtime)
    last = found[1][-1]
    assert last.finish == "error"
    assert last.fault == Fault("internal", "The engine failed while it worked on this request.")
    assert len(tokens(found[2])) == 20


def test_one_request_out_of_memory_fails_alone(
    runtime: TrtllmRuntime, generate: Make, drain: Drain, executor: ModuleType
) -> None:
    runtime.submit(generate(1, fault=executor.FAULTS["exhausted"]))
    found = drain(runtime)
    assert found[1][-1].fault == Fault("out_of_memory", "The engine ran out of memory.")
    runtime.submit(generate(2, max_tokens=3))
    assert drain(runtime)[2][-1].finish == "length"


def test_statistics_count_what_happened(
    runtime: TrtllmRuntime, generate: Make, drain: Drain
) -> None:
    runtime.submit(generate(1, max_tokens=12, tail=(1, 2)))
    drain(runtime)
    stats = runtime.stats()
    assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)
    assert stats.prompt_tokens_total == 4
    assert stats.cached_tokens_total == 2
    assert stats.generated_tokens_total == 12
    assert stats.blocks_total == 4096
    # Outputs that were taken together count as one step until TensorRT-LLM's reports arrive.
    until = time.monotonic() + 10
    while runtime.stats().steps_total < 12:
        assert time.monotonic() < until
        runtime.step()


def test_ready_tells_the_limits_and_what_is_possible(runtime: TrtllmRuntime) -> None:
    ready = runtime.ready()
    assert (ready.runtime, ready.runtime_version) == ("trtllm", "1.4.0rc4")
    assert (ready.max_batch_size, ready.max_num_tokens, ready.max_seq_len) == (8, 64, 256)
    assert (ready.block_tokens, ready.blocks) == (32, 4096)
    assert ready.device == "2 x NVIDIA H100 80GB HBM3"
    assert set(ready.capabilities) == {"logprobs", "logit_bias", "penalties", "min_p", "grammar"}


def test_without_a_tokenizer_there_is_no_grammar(load: Load) -> None:
    assert "grammar" not in load(tokenizer=False).ready().capabilities


def test_speculation_refuses_what_its_sampler_has_not(
    load: Load, generate: Make, drain: Drain
) -> None:
    runtime = load({"speculative_config": {"decoding_type": "Eagle3", "max_draft_len": 3}})
    assert runtime.ready().capabilities == ("grammar",)
    runtime.submit(generate(1, min_p=0.1, presence_penalty=0.5))
    (output,) = drain(runtime)[1]
    assert output.fault == Fault(
        "invalid",
        "min_p and a penalty cannot be combined with speculative decoding, which this engine uses.",
    )


def test_speculation_with_penalties_takes_them(load: Load, generate: Make, drain: Drain) -> None:
    runtime = load(
        {
            "speculative_config": {
                "decoding_type": "Eagle3",
                "max_draft_len": 3,
                "enable_penalty": True,
            }
        }
    )
    runtime.submit(generate(1, presence_penalty=0.5, max_tokens=2))
    assert drain(runtime)[1][-1].finish == "length"
