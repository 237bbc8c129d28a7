"""Tuning: which shapes run, what is measured, what is kept and where."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine_build import publish, tune
from engine_build.failure import BuildError
from engine_build.fetch import RANKS
from engine_build.proof.probe import Batch
from serving.boundary import engine
from serving.boundary.engine import CudaGraphs, Engine, Limits
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Raise, Repeat, Scenario, Script, ScriptStep
from tests.engine_build.scene import Scene

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

LIMITS = Limits(max_batch_size=6, max_num_tokens=64, max_seq_len=256)


def play(directory: Path, *steps: ScriptStep) -> Engine:
    script = Script(scenarios=(Scenario(steps=steps),))
    replay_engine.write(directory, script, ranks=RANKS, limits=LIMITS)
    return engine.read(directory)


def silent(_line: str) -> None:
    """A note that nobody reads."""


def test_batches_are_the_graphs_or_powers_of_two_and_prompts_fill_a_step(tmp_path: Path) -> None:
    built = play(tmp_path, Repeat(ids=(5,)))
    prompts = [Batch(1, 32), Batch(1, 64), Batch(1, 80)]
    assert tune.shapes(built) == [Batch(n, 16) for n in (1, 2, 4, 6)] + prompts
    graphs = msgspec.structs.replace(built, cuda_graphs=CudaGraphs(batch_sizes=(1, 6)))
    assert tune.shapes(graphs) == [Batch(1, 16), Batch(6, 16), *prompts]


def test_no_shape_is_longer_than_a_sequence_may_be(tmp_path: Path) -> None:
    built = play(tmp_path, Repeat(ids=(5,)))
    short = Limits(max_batch_size=1, max_num_tokens=64, max_seq_len=40)
    found = tune.shapes(msgspec.structs.replace(built, limits=short))
    assert found == [Batch(1, 16), Batch(1, 32)]


def test_every_shape_runs_twice_in_each_of_two_starts(tmp_path: Path) -> None:
    play(tmp_path, Repeat(ids=(5,)))
    seconds = iter(range(1000))
    report = tune.tune(tmp_path, compare=True, note=silent, clock=lambda: float(next(seconds)))
    assert report.second
    for run in (report.first, report.second):
        assert run.start_seconds == 1.0
        assert [one.shape for one in run.timings] == tune.shapes(engine.read(tmp_path))
        assert {(one.first_seconds, one.again_seconds) for one in run.timings} == {(1.0, 1.0)}
    assert (report.cache_files, report.cache_bytes) == (0, 0)
    assert not (tmp_path / "cache").exists()


def test_an_engine_that_fails_a_shape_is_named_with_it(tmp_path: Path) -> None:
    play(tmp_path, Raise(kind="out_of_memory", message="no room"))
    with pytest.raises(BuildError, match="failed 1 prompts of 16 tokens: no room"):
        tune.tune(tmp_path, compare=False, note=silent)


@pytest.fixture
def tuned(scene: Scene) -> Path:
    """A built and published engine, and what a runtime has left in its cache."""
    kernel = scene.engine / "cache" / "autotuner" / "cache.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text("{}")
    return scene.engine


def test_a_cache_changes_nothing_of_the_engine(scene: Scene, tuned: Path) -> None:
    before = engine.verify(tuned).digest
    (tuned / "cache" / "autotuner" / "cache.json").write_text('{"later": 1}')
    assert engine.verify(tuned).digest == before
    assert not scene.build().worked


def test_the_published_engine_gets_a_copy_of_its_own(scene: Scene, tuned: Path) -> None:
    built = engine.read(tuned)
    entry = scene.store / built.name / publish.version(built)
    assert not (entry / "cache").exists()
    for _ in range(2):
        publish.carry_cache(tuned, scene.store)
    carried = entry / "cache" / "autotuner" / "cache.json"
    assert carried.read_text() == "{}"
    assert not carried.samefile(tuned / "cache" / "autotuner" / "cache.json")
    assert engine.verify(entry) == built
    publish.publish(tuned, scene.store, replace=True)
    assert carried.read_text() == "{}"
    publish.carry_cache(entry, scene.store)
    assert carried.read_text() == "{}"
