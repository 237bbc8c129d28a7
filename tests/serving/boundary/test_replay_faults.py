from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from serving.boundary import engine
from serving.boundary.contract import FatalError
from serving.boundary.engine import EngineError, Limits
from serving.engines.replay import directory as writer
from serving.engines.replay import script as scripts
from serving.engines.replay.runtime import ReplayRuntime
from serving.engines.replay.script import Scenario, Script
from tests.serving.boundary.bench import RANKS, TEN, Bench, bench


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


def test_a_slow_abort_takes_its_time(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.SlowAbort(seconds=2.0), scripts.Repeat(ids=(5,)))
    table.submit(1)
    table.step()
    before = table.time.now
    table.runtime.abort(1)
    assert table.time.now - before == 2.0


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


def test_a_suspended_sequence_is_named_and_goes_on(tmp_path: Path) -> None:
    table = bench(tmp_path, scripts.Tokens(ids=(5,)), scripts.Suspend(seconds=0.02), TEN)
    table.submit(1)
    assert table.runtime.stats().suspended == ()
    table.step(2)
    assert table.runtime.stats().suspended == (1,)
    table.finish()
    assert table.tokens(1) == [5, *TEN.ids]
    assert table.runtime.stats().suspended == ()


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
