from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from serving.boundary.engine import Limits
from serving.boundary.messages import Generate, Output
from serving.boundary.sampling import Sampling
from serving.engines.replay import script as scripts
from serving.engines.replay.script import Scenario, Script
from tests.serving.boundary.bench import TEN, Bench, bench


def test_a_script_is_played_one_token_a_step_and_finishes(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.Tokens(ids=(5, 6)), scripts.Tokens(ids=(7,)))
    table.submit(1)
    assert table.step() == [Output(1, [5])]
    assert table.step() == [Output(1, [6])]
    assert table.step() == [Output(1, [7], "stop")]
    assert not table.runtime.busy


def test_max_tokens_ends_a_sequence(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.Repeat(ids=(5, 6)))
    table.submit(1, max_tokens=5)
    table.finish()
    assert table.tokens(1) == [5, 6, 5, 6, 5]
    assert table.end(1) == "length"


@pytest.mark.parametrize(
    ("sampling", "count", "end"),
    [
        ({"stop_token_ids": (13, 99)}, 4, "stop"),
        ({"stop_token_ids": (13,), "max_tokens": 4}, 4, "stop"),
        ({"stop_token_ids": (13,), "max_tokens": 3}, 3, "length"),
        ({"stop_token_ids": (13,), "ignore_eos": True}, 10, "stop"),
        ({"stop_token_ids": (13, 16), "min_tokens": 5}, 7, "stop"),
        ({"stop_token_ids": (10,)}, 1, "stop"),
        ({"stop_token_ids": (99,)}, 10, "stop"),
    ],
)
def test_stop_tokens_end_a_sequence_and_are_its_last_token(
    tmp_path: Path, sampling: dict[str, Any], count: int, end: str
) -> None:
    table = bench(tmp_path, TEN)
    table.submit(1, **sampling)
    table.finish()
    assert table.tokens(1) == list(range(10, 10 + count))
    assert table.end(1) == end


def test_a_stop_token_in_a_later_round_is_found(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.Repeat(ids=(1, 2, 3)))
    table.submit(1, stop_token_ids=(1,), min_tokens=2)
    table.finish()
    assert table.tokens(1) == [1, 2, 3, 1]


def test_several_tokens_a_step_as_with_speculation(tmp_path: Path) -> None:
    table = Bench(tmp_path, Script(scenarios=(Scenario(steps=(TEN,)),), tokens_per_step=4))
    table.submit(1, logprobs=0)
    table.finish()
    assert [len(output.tokens) for output in table.outputs[1]] == [4, 4, 2]
    assert [len(output.logprobs or ()) for output in table.outputs[1]] == [4, 4, 2]


def test_the_first_scenario_that_fits_is_played(tmp_path: Path) -> None:
    table = Bench(
        tmp_path,
        Script(
            scenarios=(
                Scenario(match=(1, 2, 3), steps=(scripts.Tokens(ids=(100,)),)),
                Scenario(match=(2,), steps=(scripts.Tokens(ids=(200,)),)),
                Scenario(steps=(scripts.Tokens(ids=(300,)),)),
            )
        ),
    )
    for sequence_id, prompt in enumerate([[9, 1, 2, 1, 2, 3], [1, 2, 2], [1, 3]]):
        table.submit(sequence_id, prompt)
    table.finish()
    assert [table.tokens(index) for index in range(3)] == [[100], [200], [300]]


def test_a_prompt_without_a_scenario_ends_at_once(tmp_path: Path) -> None:
    table = Bench(tmp_path, Script(scenarios=(Scenario(match=(5,), steps=(TEN,)),)))
    table.submit(1, [1])
    table.finish()
    assert table.outputs[1] == [Output(1, [], "stop")]


def test_echo_gives_back_the_part_between_the_marks(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.Echo(after=(1, 2), before=(3,)))
    table.submit(1, [1, 2, 50, 3, 1, 2, 60, 61, 3, 70])
    table.submit(2, [9, 9])
    table.finish()
    assert table.tokens(1) == [60, 61]
    assert table.tokens(2) == []


def test_echo_without_marks_gives_the_whole_prompt(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.Echo())
    table.submit(1, [7, 8, 9])
    table.finish()
    assert table.tokens(1) == [7, 8, 9]


def test_garbage_is_outside_the_vocabulary_or_never_changes(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.Garbage(times=2), scripts.Garbage(kind="repeated", times=3))
    table.submit(1)
    table.finish()
    assert table.tokens(1) == [201_088, 201_088, 0, 0, 0]


def test_the_sequence_length_limits_prompt_and_output_together(tmp_path: Path) -> None:
    limits = Limits(max_batch_size=4, max_num_tokens=64, max_seq_len=16)
    table = bench(tmp_path, scripts.Repeat(ids=(5,)), limits=limits)
    table.submit(1, [1] * 12)
    table.finish()
    assert len(table.tokens(1)) == 4
    assert table.end(1) == "length"


def test_the_batch_is_full_and_the_next_waits_by_priority(tmp_path: Path) -> None:
    limits = Limits(max_batch_size=2, max_num_tokens=64, max_seq_len=64)
    table = bench(tmp_path, scripts.Tokens(ids=(5, 6)), limits=limits)
    for sequence_id, priority in enumerate([0.5, 0.5, 0.1, 0.9]):
        table.runtime.submit(Generate(sequence_id, [1], Sampling(max_tokens=9), priority))
    assert {output.id for output in table.step()} == {3, 0}
    assert (table.runtime.stats().running, table.runtime.stats().waiting) == (2, 2)
    table.step()
    assert {output.id for output in table.step()} == {1, 2}


def test_nothing_follows_an_abort_and_its_place_is_free(tmp_path: Path) -> None:
    limits = Limits(max_batch_size=1, max_num_tokens=64, max_seq_len=64)
    table = bench(tmp_path, scripts.Repeat(ids=(5,)), limits=limits)
    for sequence_id in (1, 2, 3):
        table.submit(sequence_id)
    table.step()
    table.runtime.abort(2)
    table.runtime.abort(1)
    table.runtime.abort(77)
    assert [output.id for output in table.step(3)] == [3]
    table.runtime.abort(3)
    assert not table.runtime.busy
    assert table.runtime.stats().blocks_used == 0
    assert set(table.outputs) == {1, 3}


def test_the_pace_is_kept_without_drift(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.Repeat(ids=(5,)), pace=0.002)
    table.time.late_seconds = 0.0001
    table.submit(1)
    table.tick()
    began = table.time.now
    for _ in range(999):
        table.time.now += 0.0015  # What a busy machine takes away from each step.
        table.tick()
    assert len(table.tokens(1)) == 1000
    assert table.time.now - began == pytest.approx(999 * 0.002, abs=0.002)


def test_a_pace_that_was_missed_by_far_starts_anew(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.Repeat(ids=(5,)), pace=0.002)
    table.submit(1)
    table.tick()
    table.time.now += 60.0
    began = table.time.now
    table.tick(101)
    assert table.time.now - began == pytest.approx(0.2, abs=0.003)


def test_what_arrives_while_a_step_is_waited_for_is_in_that_step(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.Repeat(ids=(5,)), pace=0.002)
    table.submit(1)
    table.tick()
    assert table.step() == []
    table.submit(2)
    assert [output.id for output in table.step()] == [1, 2]


def test_a_slow_pace_never_blocks_the_loop_for_long(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.Tokens(ids=(5, 6)), pace=0.1)
    table.submit(1)
    table.finish()
    assert max(table.time.sleeps) <= 0.005 + 1e-9
    assert table.time.now == pytest.approx(100.1, abs=0.001)


def test_prompts_are_read_one_after_the_other_at_the_given_rate(tmp_path: Path) -> None:
    table = Bench(
        tmp_path,
        Script(scenarios=(Scenario(steps=(TEN,)),), prefill_tokens_per_second=1000.0),
    )
    table.submit(1, [1] * 100)
    table.submit(2, [2] * 100)
    first: dict[int, float] = {}
    while table.runtime.busy:
        for output in table.step():
            first.setdefault(output.id, table.time.now)
    assert first[1] == pytest.approx(100.1, abs=0.006)
    assert first[2] == pytest.approx(100.2, abs=0.006)


def test_whole_blocks_of_a_known_prompt_come_from_the_cache(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.Tokens(ids=(5, 6)))
    prompts = [list(range(100)), list(range(100)), [*range(40), *range(60)], list(range(96))]
    cached = []
    for sequence_id, prompt in enumerate(prompts):
        table.submit(sequence_id, prompt)
        table.finish()
        cached.append([output.cached_tokens for output in table.outputs[sequence_id]])
    assert cached == [[0, 0], [96, 0], [32, 0], [64, 0]]
    table.runtime.submit(
        Generate(9, prompts[0], Sampling(max_tokens=1), cache_salt="another tenant")
    )
    assert table.step()[0].cached_tokens == 0
    assert table.runtime.stats().cached_tokens_total == 96 + 32 + 64


def test_log_probabilities_are_well_formed(tmp_path: Path) -> None:
    table = bench(tmp_path, TEN)
    table.submit(1, logprobs=3)
    table.finish()
    for output in table.outputs[1]:
        assert output.logprobs is not None
        [entry] = output.logprobs
        assert entry.top[0] == (output.tokens[0], entry.logprob)
        assert [value for _, value in entry.top] == sorted(
            (value for _, value in entry.top), reverse=True
        )
        assert len({token for token, _ in entry.top}) == 3
        assert sum(math.exp(value) for _, value in entry.top) <= 1


def test_counters_add_up(tmp_path: Path) -> None:
    table = bench(tmp_path, TEN)
    table.submit(1, [1] * 40)
    table.submit(2, [1] * 40)
    table.step(2)
    stats = table.runtime.stats()
    assert stats.blocks_used == 4
    assert (stats.prompt_tokens_total, stats.generated_tokens_total) == (80, 4)
    table.finish()
    stats = table.runtime.stats()
    assert (stats.blocks_used, stats.generated_tokens_total, stats.steps_total) == (0, 20, 10)


def test_ready_tells_the_limits_of_the_manifest(tmp_path: Path) -> None:
    ready = bench(tmp_path, TEN).runtime.ready()
    assert (ready.runtime, ready.max_batch_size, ready.max_seq_len) == ("replay", 64, 131_072)


@pytest.mark.parametrize("keeps", [False, True])
def test_a_script_may_promise_to_keep_to_grammars(tmp_path: Path, keeps: bool) -> None:
    script = Script(scenarios=(Scenario(steps=(TEN,)),), keeps_to_grammars=keeps)
    assert ("grammar" in Bench(tmp_path, script).runtime.ready().capabilities) is keeps
