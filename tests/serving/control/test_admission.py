"""Tickets: bounded, in order, released exactly once."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.control.admission import Admission, Ticket
from serving.control.lanes import Lane
from serving.errors import ErrorKind, ServingError

LONG_SECONDS = 60.0


async def settle() -> None:
    """Lets every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def wait(admission: Admission, lane: Lane = Lane.P1, sequences: int = 1) -> asyncio.Task[Ticket]:
    return asyncio.create_task(admission.acquire(lane, sequences, LONG_SECONDS))


async def test_a_ticket_is_granted_at_once_while_there_is_room() -> None:
    admission = Admission(2, 10)
    await admission.acquire(Lane.P1, 1, LONG_SECONDS)
    await admission.acquire(Lane.P1, 1, LONG_SECONDS)
    assert (admission.running, admission.waiting) == (2, 0)


async def test_a_released_ticket_lets_the_next_in_line_run() -> None:
    admission = Admission(1, 10)
    first = await admission.acquire(Lane.P1, 1, LONG_SECONDS)
    second = wait(admission)
    await settle()
    assert not second.done()
    first.release()
    assert (await second).sequences == 1
    assert (admission.running, admission.waiting) == (1, 0)


async def test_releasing_twice_gives_back_once() -> None:
    admission = Admission(2, 10)
    ticket = await admission.acquire(Lane.P1, 1, LONG_SECONDS)
    await admission.acquire(Lane.P1, 1, LONG_SECONDS)
    ticket.release()
    ticket.release()
    assert admission.running == 1


async def test_a_full_line_refuses_at_once_and_says_when_to_come_back() -> None:
    admission = Admission(1, 1)
    await admission.acquire(Lane.P1, 1, LONG_SECONDS)
    waiting = wait(admission)
    await settle()
    with pytest.raises(ServingError) as refused:
        await admission.acquire(Lane.P0, 1, LONG_SECONDS)
    assert refused.value.kind is ErrorKind.OVERLOADED
    assert refused.value.retry_after_seconds is not None
    waiting.cancel()


async def test_room_is_required_of_the_line_or_of_the_engine() -> None:
    admission = Admission(1, 0)
    admission.require_room()
    ticket = await admission.acquire(Lane.P1, 1, LONG_SECONDS)
    with pytest.raises(ServingError):
        admission.require_room()
    ticket.release()
    admission.require_room()


async def test_who_waits_too_long_is_told_so_and_leaves_the_line() -> None:
    admission = Admission(1, 10)
    await admission.acquire(Lane.P1, 1, LONG_SECONDS)
    with pytest.raises(ServingError) as late:
        await admission.acquire(Lane.P1, 1, 0.01)
    assert late.value.kind is ErrorKind.QUEUE_TIMEOUT
    assert admission.waiting == 0


async def test_a_higher_lane_goes_first_and_a_lane_is_first_come_first_served() -> None:
    admission = Admission(1, 10)
    running = await admission.acquire(Lane.P1, 1, LONG_SECONDS)
    order: list[str] = []

    async def enter(name: str, lane: Lane) -> None:
        ticket = await admission.acquire(lane, 1, LONG_SECONDS)
        order.append(name)
        ticket.release()

    tasks = []
    for name, lane in [("c", Lane.P2), ("a", Lane.P1), ("b", Lane.P1), ("first", Lane.P0)]:
        tasks.append(asyncio.create_task(enter(name, lane)))
        await settle()
    running.release()
    await asyncio.gather(*tasks)
    assert order == ["first", "a", "b", "c"]


async def test_a_wide_job_at_the_head_is_not_overtaken() -> None:
    admission = Admission(4, 10)
    tickets = [await admission.acquire(Lane.P1, 1, LONG_SECONDS) for _ in range(4)]
    wide = wait(admission, sequences=3)
    narrow = wait(admission)
    await settle()
    tickets[0].release()
    await settle()
    assert not wide.done()
    assert not narrow.done()
    tickets[1].release()
    tickets[2].release()
    await settle()
    assert wide.done()
    assert not narrow.done()
    narrow.cancel()


async def test_a_job_wider_than_the_capacity_runs_alone() -> None:
    admission = Admission(2, 10)
    wide = await admission.acquire(Lane.P1, 4, LONG_SECONDS)
    waiting = wait(admission)
    await settle()
    assert not waiting.done()
    wide.release()
    await waiting


async def test_more_capacity_lets_in_who_waits() -> None:
    admission = Admission(1, 10)
    await admission.acquire(Lane.P1, 1, LONG_SECONDS)
    waiting = wait(admission)
    await settle()
    admission.resize(2)
    await waiting
    assert admission.running == 2


async def test_a_job_cancelled_at_the_moment_of_its_ticket_gives_it_back() -> None:
    admission = Admission(1, 10)
    first = await admission.acquire(Lane.P1, 1, LONG_SECONDS)
    waiting = wait(admission)
    await settle()
    first.release()
    waiting.cancel()
    await settle()
    assert waiting.cancelled()
    assert admission.running == 0


Action = tuple[str, int]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["enter", "cancel", "release", "release_twice", "resize", "turn"]),
            st.integers(0, 7),
        ),
        max_size=40,
    )
)
def test_under_any_interleaving_every_ticket_comes_back_once(actions: list[Action]) -> None:
    asyncio.run(run_interleaving(actions))


async def run_interleaving(actions: list[Action]) -> None:
    admission = Admission(3, 5)
    tasks: list[asyncio.Task[Ticket]] = []
    live: list[Ticket] = []
    for action, number in actions:
        if action == "enter":
            lane, sequences = Lane(number % 3), 1 + number % 4
            tasks.append(asyncio.create_task(admission.acquire(lane, sequences, LONG_SECONDS)))
        elif action == "cancel" and tasks:
            tasks[number % len(tasks)].cancel()
        elif action.startswith("release") and live:
            ticket = live.pop(number % len(live))
            ticket.release()
            if action == "release_twice":
                ticket.release()
        elif action == "resize":
            admission.resize(1 + number % 4)
        else:
            await asyncio.sleep(0)
        await collect(tasks, live)
        assert admission.running >= 0
        assert 0 <= admission.waiting <= 5
    await settle()
    for task in tasks:
        task.cancel()
    await settle()
    await collect(tasks, live)
    assert admission.waiting == 0
    assert admission.running == sum(ticket.sequences for ticket in live)
    for ticket in live:
        ticket.release()
    assert admission.running == 0


async def collect(tasks: list[asyncio.Task[Ticket]], live: list[Ticket]) -> None:
    """Moves the tickets of the tasks that have one to `live`."""
    for task in [task for task in tasks if task.done()]:
        tasks.remove(task)
        if not task.cancelled() and task.exception() is None:
            live.append(task.result())
