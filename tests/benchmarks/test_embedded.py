"""The comparison on made-up players, and both real ones on a tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import embedded, random_engine, report
from benchmarks.checkpoints import SMALL, TINY, ensure, int8
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.embedded import CACHED, CODED, COLD, MANY, OWN, PEER, PREFILL, SINGLE, TUNED
from benchmarks.limits import Limits
from benchmarks.timeline import Timeline
from benchmarks.worker import Worker, WorkerError
from serving.boundary import engine


class Steady:
    """Gives a token a `pace`, the first after `pace` for each prompt token."""

    def __init__(self, pace: float, wrong_after: int = 10**9) -> None:
        self.peak_bytes = 10**9
        self.pace = pace
        self.wrong_after = wrong_after
        self.seen: list[list[int]] = []

    def generate(self, prompts: list[list[int]], max_tokens: int) -> Timeline:
        cached = 0.01 if prompts[0] in self.seen else 1.0
        self.seen.extend(prompts)
        first = self.pace * len(prompts[0]) * cached
        times = [first + self.pace * at for at in range(max_tokens)]
        tokens = [at if at < self.wrong_after else -1 for at in range(max_tokens)]
        return Timeline([tokens for _ in prompts], [times for _ in prompts])


def test_figures_ratios_and_goals_follow_from_the_timelines() -> None:
    players = {
        OWN: Steady(0.001),
        CODED: Steady(0.0008),
        PEER: Steady(0.004, wrong_after=20),
        TUNED: Steady(0.002),
    }
    measured = embedded.compare(SMALL, 3, players)
    assert {figure: len(values) for figure, values in measured[OWN].items()} == dict.fromkeys(
        (SINGLE, MANY, PREFILL, COLD, CACHED), 3
    )
    assert measured[OWN][SINGLE] == pytest.approx([1000.0] * 3)
    assert measured[OWN][MANY] == pytest.approx([16_000.0] * 3)
    assert measured[PEER][PREFILL] == pytest.approx([250.0] * 3)
    assert measured[OWN][COLD] == pytest.approx([4096.0] * 3)
    assert measured[OWN][CACHED] == pytest.approx([40.96] * 3)
    agreed = embedded.agreement(SMALL, players[OWN], players[PEER])
    assert agreed.endswith("80 of 128 agree before a first difference")
    found = embedded.result(
        SMALL, measured, agreed, dict.fromkeys(players, 10**9), report.machine(), Limits(44e9, 8e11)
    )
    assert [round(goal.value, 3) for goal in found.goals] == [4.0, 4.0, 4.0, 1.25, 1.25, 100.0]
    assert [goal.met for goal in found.goals] == [True, True, False, False, True, True]
    rates = ("1000 (±0%)", "1250 (±0%)", "250 (±0%)", "500 (±0%)")
    assert found.rows[0] == (SINGLE, *rates, "4.00", "2.00", "1.25", "255%")
    assert found.rows[4][5:8] == ("4.00", "2.00", "1.25")
    assert found.rows[5][1:] == ("1000",) * 4 + ("1.00",) * 3 + ("",)
    assert agreed in found.notes


def test_a_rate_counts_from_when_every_stream_runs() -> None:
    timeline = Timeline([[1, 2, 3], [1, 2, 3]], [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]])
    assert timeline.first_token_seconds == 2.0
    assert timeline.decode_tokens_per_second == pytest.approx(3 / 2.0)


def test_both_engines_give_the_same_tokens_and_a_time_for_each(tmp_path: Path) -> None:
    prompts = [list(range(start, start + 40)) for start in (0, 100, 200)]
    tokens = []
    for name in (OWN, TUNED):
        contender: Contender = CONTENDERS[name]()
        contender.load(ensure(TINY, tmp_path), "float32")
        found = contender.generate(prompts, 6)
        contender.close()
        assert [len(row) for row in found.tokens] == [6, 6, 6]
        for times in found.seconds:
            assert len(times) == 6
            assert times == sorted(times)
        tokens.append(found.tokens)
    assert tokens[0] == tokens[1]


def test_the_engine_builds_int8_is_another_checkpoint_of_the_same_model(tmp_path: Path) -> None:
    checkpoint = ensure(TINY, tmp_path)
    coded = int8(checkpoint)
    before = {path: path.stat().st_mtime_ns for path in coded.glob("*.safetensors")}
    contender: Contender = CONTENDERS[CODED]()
    contender.load(coded, "bfloat16")
    assert len(contender.generate([[1, 2, 3]], 4).tokens[0]) == 4
    contender.close()
    assert int8(checkpoint) == coded
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_engine_gives_the_tokens_of_its_checkpoint(tmp_path: Path) -> None:
    checkpoint, directory = ensure(TINY, tmp_path), tmp_path / "engine"
    limits = engine.Limits(max_batch_size=2, max_num_tokens=64, max_seq_len=64)
    random_engine.write(directory, TINY, checkpoint, limits)
    tokens = []
    for name, path in (("engine", directory), (OWN, checkpoint)):
        contender: Contender = CONTENDERS[name]()
        contender.load(path, "float32")
        tokens.append(contender.generate([[1, 2, 3], [4, 5]], 4).tokens)
        contender.close()
    assert tokens[0] == tokens[1]


def test_a_worker_answers_from_a_process_of_its_own(tmp_path: Path) -> None:
    checkpoint = ensure(TINY, tmp_path)
    prompts = [[5, 6, 7], [8, 9]]
    with Worker("embedded", checkpoint, threads=1, logs=tmp_path) as worker:
        first = worker.generate(prompts, 4)
        assert worker.generate(prompts, 4).tokens == first.tokens
        assert worker.peak_bytes > 50e6
    here = CONTENDERS["embedded"]()
    here.load(checkpoint, "bfloat16")
    assert here.generate(prompts, 4).tokens == first.tokens
    here.close()


def test_a_worker_that_cannot_load_says_why(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"config\.json is missing"):
        Worker("embedded", tmp_path, threads=1, logs=tmp_path)
