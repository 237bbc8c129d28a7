from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.boundary.messages import Generate
from serving.boundary.sampling import Sampling
from serving.engines.embedded.cache import Cache
from serving.engines.embedded.scheduler import Scheduler, Work
from serving.engines.embedded.sequence import Sequence

BLOCK = 4


class Engine:
    """A scheduler whose model answers with a counter, and the checks that hold at every step."""

    def __init__(
        self, blocks: int = 64, batch: int = 8, budget: int = 16, window: int = 8, multiple: int = 1
    ) -> None:
        self.cache = Cache(blocks, blocks, BLOCK, window)
        self.scheduler = Scheduler(self.cache, batch, budget, multiple)
        self.batch, self.budget = batch, budget
        self.finished: list[int] = []
        self.arrivals = 0

    def add(self, prompt: list[int], new: int = 4, priority: float = 0.5) -> Sequence:
        request = Generate(self.arrivals, prompt, Sampling(max_tokens=new), priority=priority)
        sequence = Sequence(request, self.arrivals, 1000, BLOCK)
        self.arrivals += 1
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> list[Work]:
        work = self.scheduler.schedule()
        self.check(work)
        for item in work:
            samples = item.samples
            item.sequence.computed += item.count
            finish = item.sequence.append(item.sequence.length % 7) if samples else ""
            self.cache.commit(item.sequence)
            if finish:
                self.finished.append(item.sequence.id)
                self.scheduler.remove(item.sequence)
        return work

    def check(self, work: list[Work]) -> None:
        running = self.scheduler.running
        assert len(running) <= self.batch
        assert sum(item.count for item in work) <= self.budget
        assert len({item.sequence.id for item in work}) == len(work)
        assert all(item.sequence in running for item in work)
        for item in work:
            assert 1 <= item.count <= item.sequence.remaining
            assert item.sequence.held_blocks * BLOCK >= item.sequence.computed + item.count
        held = [b for s in running for b in s.full_table.tolist() if b]
        sliding = [b for s in running for b in s.sliding_table.tolist() if b]
        assert len(set(held)) == self.cache.full.used
        assert len(set(sliding)) == self.cache.sliding.used
        written = [
            block
            for item in work
            for block in item.sequence.full_table[
                max(item.sequence.computed, item.sequence.kept_tokens)
                // BLOCK : item.sequence.held_blocks
            ].tolist()
        ]
        # A block that is written has one owner.
        assert len(written) == len(set(written))
        assert all(held.count(block) == 1 for block in written)

    def drain(self, most_steps: int = 10_000) -> None:
        for _ in range(most_steps):
            if not (self.scheduler.running or self.scheduler.waiting):
                return
            assert self.step(), "nothing was scheduled while sequences wait"
        raise AssertionError("the engine does not come to an end")


def test_decodes_come_first_and_a_prompt_gets_what_is_left() -> None:
    engine = Engine(budget=16)
    short = engine.add([1, 2, 3], new=20)
    engine.step()
    long = engine.add(list(range(100)))
    for _ in range(4):
        work = engine.step()
        assert [(item.sequence, item.count) for item in work] == [(short, 1), (long, 15)]


def test_chunks_end_at_tiles_where_they_can() -> None:
    engine = Engine(budget=13, multiple=8)
    engine.add(list(range(50)))
    assert [engine.step()[0].count for _ in range(7)] == [8, 8, 8, 8, 8, 10, 1]


def test_higher_priority_is_admitted_first_and_equals_in_order() -> None:
    engine = Engine(batch=1)
    engine.add([1], new=1, priority=0.2)
    engine.add([2], new=1, priority=0.9)
    engine.add([3], new=1, priority=0.2)
    engine.drain()
    assert engine.finished == [1, 0, 2]


def test_batch_size_is_a_limit() -> None:
    engine = Engine(batch=2)
    for _ in range(5):
        engine.add([1, 2], new=3)
    engine.step()
    assert len(engine.scheduler.running) == 2
    assert len(engine.scheduler.waiting) == 3


def test_the_last_of_the_line_is_preempted_and_finishes_later() -> None:
    engine = Engine(blocks=6)
    first = engine.add([1] * 8, new=12)
    second = engine.add([2] * 8, new=12)
    assert not list(engine.scheduler.preempted)
    while not engine.scheduler.preemptions:
        engine.step()
    assert list(engine.scheduler.preempted) == [second.id]
    engine.drain()
    assert not list(engine.scheduler.preempted)
    assert engine.finished == [first.id, second.id]
    assert second.generated == 12


def test_a_prompt_waits_while_it_would_not_fit() -> None:
    engine = Engine(blocks=6)
    engine.add([1] * 8, new=6)
    engine.step()
    waiting = engine.add([2] * 16, new=2)
    engine.step()
    assert waiting in engine.scheduler.waiting
    assert waiting.held_blocks == 0
    engine.drain()
    assert engine.scheduler.preemptions == 0


def test_removing_frees_everything_at_once() -> None:
    engine = Engine(budget=8)
    running = engine.add(list(range(30)))
    waiting = engine.add(list(range(30)))
    engine.step()
    engine.scheduler.remove(running)
    engine.scheduler.remove(waiting)
    assert engine.cache.used == 0
    assert engine.scheduler.schedule() == []


def test_a_sequence_that_is_not_there_cannot_be_removed() -> None:
    engine = Engine()
    sequence = engine.add([1])
    engine.scheduler.remove(sequence)
    with pytest.raises(ValueError, match="not in list"):
        engine.scheduler.remove(sequence)


requests = st.tuples(
    st.integers(1, 30), st.integers(1, 12), st.sampled_from([0.1, 0.5, 0.9]), st.integers(0, 2)
)
actions = st.lists(
    st.one_of(requests, st.just("step"), st.integers(0, 20)), min_size=1, max_size=40
)


@settings(max_examples=150, deadline=None)
@given(
    actions=actions,
    blocks=st.integers(11, 24),
    batch=st.integers(1, 5),
    budget=st.integers(5, 40),
    window=st.integers(1, 20),
    multiple=st.sampled_from([1, 4, 8]),
)
def test_any_history_ends_with_every_sequence_served_and_every_block_free(
    actions: list[object], blocks: int, batch: int, budget: int, window: int, multiple: int
) -> None:
    """Prompts of few different tokens, so that prefixes meet; aborts at any time."""
    engine = Engine(blocks, batch, budget, window, multiple)
    alive: dict[int, Sequence] = {}
    for action in actions:
        if isinstance(action, tuple):
            length, new, priority, start = action
            prompt = [(start + index) % 3 for index in range(length)]
            sequence = engine.add(prompt, new, priority)
            alive[sequence.id] = sequence
        elif isinstance(action, int):
            if action in alive and action not in engine.finished:
                engine.scheduler.remove(alive.pop(action))
        else:
            engine.step()
    engine.drain()
    assert sorted(engine.finished) == sorted(alive)
    assert all(s.generated == s.sampling.max_tokens for s in alive.values())
    assert engine.cache.used == 0
