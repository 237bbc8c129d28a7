from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

import model_assets
from serving import engine
from serving.engine import EngineError, Limits
from serving.job import Sampling
from serving.runtime import replay_engine as writer
from serving.runtime import script as scripts
from serving.runtime.contract import FatalError
from serving.runtime.messages import Generate, Output
from serving.runtime.replay import ReplayRuntime
from serving.runtime.script import Scenario, Script, ScriptStep

RANKS = Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"
TEN = scripts.Tokens(ids=tuple(range(10, 20)))


class Time:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sleeps: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.sleeps.append(seconds)
        self.now += seconds


class Bench:
    """A replay runtime on a table: no process, no real time."""

    def __init__(self, directory: Path, script: Script, limits: Limits = writer.LIMITS) -> None:
        writer.write(directory, script, ranks=RANKS, limits=limits)
        self.time = Time()
        self.runtime = ReplayRuntime.load(directory, clock=self.time.clock, sleep=self.time.sleep)
        self.outputs: dict[int, list[Output]] = {}

    def submit(self, sequence_id: int, prompt: list[int] | None = None, **sampling: Any) -> None:
        fields = {"max_tokens": 1000} | sampling
        self.runtime.submit(Generate(sequence_id, prompt or [1], Sampling(**fields)))

    def step(self, times: int = 1) -> list[Output]:
        """Runs steps and returns the outputs of the last one."""
        outputs: list[Output] = []
        for _ in range(times):
            step = self.runtime.step()
            outputs = [] if step is None else step.outputs
            for output in outputs:
                self.outputs.setdefault(output.id, []).append(output)
        return outputs

    def finish(self, limit: int = 10_000) -> None:
        """Runs until nothing is left to do."""
        for _ in range(limit):
            if not self.runtime.busy:
                return
            self.step()
        raise AssertionError("it never ends")

    def tokens(self, sequence_id: int) -> list[int]:
        return [token for output in self.outputs[sequence_id] for token in output.tokens]

    def end(self, sequence_id: int) -> str:
        return self.outputs[sequence_id][-1].finish


def bench(path: Path, *steps: ScriptStep, limits: Limits = writer.LIMITS, pace: float = 0) -> Bench:
    return Bench(path, Script(scenarios=(Scenario(steps=steps),), pace_seconds=pace), limits=limits)


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


@pytest.mark.parametrize("kind", ["invalid", "out_of_memory", "internal"])
def test_a_fault_ends_one_sequence_and_no_other(tmp_path: Path, kind: str) -> None:
    table = Bench(
        tmp_path,
        Script(
            scenarios=(
                Scenario(match=(5,), steps=(scripts.Raise(kind=kind),)),  # type: ignore[arg-type]
                Scenario(steps=(TEN,)),
            )
        ),
    )
    table.submit(1, [5])
    table.submit(2, [6])
    table.finish()
    fault = table.outputs[1][-1].fault
    assert table.end(1) == "error"
    assert fault is not None
    assert fault.kind == kind
    assert table.tokens(2) == list(TEN.ids)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([1] * 16, "16 tokens"),
        ([201_088], "vocabulary"),
        ([-1], "vocabulary"),
    ],
)
def test_a_prompt_that_cannot_run_is_a_fault(tmp_path: Path, prompt: list[int], said: str) -> None:
    limits = Limits(max_batch_size=4, max_num_tokens=64, max_seq_len=16)
    table = bench(tmp_path, TEN, limits=limits)
    table.submit(1, prompt)
    assert table.runtime.busy
    table.finish()
    fault = table.outputs[1][0].fault
    assert fault is not None
    assert fault.kind == "invalid"
    assert said in fault.message


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


def test_a_slow_abort_takes_its_time(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.SlowAbort(seconds=2.0), scripts.Repeat(ids=(5,)))
    table.submit(1)
    table.step()
    before = table.time.now
    table.runtime.abort(1)
    assert table.time.now - before == 2.0


def test_the_pace_is_kept_without_drift(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.Repeat(ids=(5,)), pace=0.002)
    table.submit(1)
    table.step()
    began = table.time.now
    for _ in range(999):
        table.time.now += 0.0015  # What a busy machine takes away from each step.
        table.step()
    assert len(table.tokens(1)) == 1000
    assert table.time.now - began == pytest.approx(999 * 0.002, abs=0.002)


def test_a_pace_that_was_missed_by_far_starts_anew(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.Repeat(ids=(5,)), pace=0.002)
    table.submit(1)
    table.step()
    table.time.now += 60.0
    began = table.time.now
    table.step(101)
    assert table.time.now - began == pytest.approx(0.2, abs=0.003)


def test_a_slow_pace_never_blocks_the_loop_for_long(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.Tokens(ids=(5, 6)), pace=0.1)
    table.submit(1)
    table.finish()
    assert max(table.time.sleeps) <= 0.005 + 1e-9
    assert table.time.now == pytest.approx(100.1, abs=0.001)


def test_a_delay_holds_back_one_sequence_only(tmp_path: Path) -> None:
    table = Bench(
        tmp_path,
        Script(
            scenarios=(
                Scenario(match=(5,), steps=(scripts.Delay(seconds=0.05), TEN)),
                Scenario(steps=(TEN,)),
            )
        ),
    )
    table.submit(1, [5])
    table.submit(2, [6])
    table.step(10)
    assert 1 not in table.outputs
    assert table.end(2) == "stop"
    table.finish()
    assert table.time.now >= 100.05
    assert table.tokens(1) == list(TEN.ids)


def test_a_stalled_sequence_stays_until_it_is_aborted(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.Tokens(ids=(5,)), scripts.Stall())
    table.submit(1)
    table.step(50)
    assert table.tokens(1) == [5]
    assert table.runtime.busy
    assert table.runtime.stats().steps_total == 50
    table.runtime.abort(1)
    assert not table.runtime.busy


def test_a_frozen_engine_answers_and_makes_no_steps(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.Freeze(seconds=0.05), TEN)
    table.submit(1)
    table.step(2)
    steps = table.runtime.stats().steps_total
    assert steps == 1
    table.finish()
    assert table.tokens(1) == list(TEN.ids)


def test_an_exhausted_step_changes_nothing(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.Exhaust(times=2), TEN)
    table.submit(1)
    table.step()
    for _ in range(2):
        with pytest.raises(MemoryError):
            table.step()
    table.finish()
    assert table.tokens(1) == list(TEN.ids)


def test_a_fatal_step_says_how_the_process_ends(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.Fail(message="no more", exit_code=71))
    table.submit(1)
    with pytest.raises(FatalError, match="no more") as raised:
        table.step()
    assert raised.value.exit_code == 71


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


def test_load_refuses_another_version(tmp_path: Path) -> None:
    writer.write(tmp_path, Script(scenarios=(Scenario(steps=()),)), ranks=RANKS)
    manifest = tmp_path / engine.MANIFEST_NAME
    changed = msgspec.structs.replace(engine.read(tmp_path), runtime_version="0")
    manifest.write_bytes(engine.encode(changed))
    with pytest.raises(EngineError, match="runtime_version is 0"):
        ReplayRuntime.load(tmp_path)


def test_load_plays_what_the_script_asks_for(tmp_path: Path) -> None:
    script = Script(scenarios=(Scenario(steps=()),), load=(scripts.Delay(seconds=3.0),))
    assert Bench(tmp_path, script).runtime.ready().load_seconds == 3.0


def test_load_refuses_when_the_script_says_so(tmp_path: Path) -> None:
    script = Script(scenarios=(Scenario(steps=()),), load=(scripts.Refuse(message="not here"),))
    with pytest.raises(EngineError, match="not here"):
        Bench(tmp_path, script)
