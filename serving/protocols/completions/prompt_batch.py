"""Several jobs of one request, run side by side and answered as one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import aclosing

from serving.events import ChoiceEvent
from serving.generation.job import Job
from serving.generation.pipeline import Events, Pipeline


def run_batch(pipeline: Pipeline, jobs: Sequence[Job], at_once: int, accepted: float) -> Events:
    """Returns the events of `jobs`, the choices numbered on from each job to the next.

    At most `at_once` jobs run or wait for a ticket at a time. The first failure is raised and ends
    the others, and so does closing or cancelling the generator. Each job is recorded by itself.
    """
    if len(jobs) == 1:
        return pipeline.run(jobs[0], accepted=accepted)
    return _run_several(pipeline, jobs, at_once, accepted)


async def _run_several(
    pipeline: Pipeline, jobs: Sequence[Job], at_once: int, accepted: float
) -> Events:
    arrived: asyncio.Queue[list[ChoiceEvent] | asyncio.Task[None]] = asyncio.Queue()
    waiting = _numbered(jobs)

    async def work() -> None:
        # All workers take from the one iterator: each job has one of them.
        for first, job in waiting:
            async with aclosing(pipeline.run(job, accepted=accepted)) as events:
                async for batch in events:
                    arrived.put_nowait([(first + choice, event) for choice, event in batch])

    workers = [asyncio.create_task(work()) for _ in range(min(at_once, len(jobs)))]
    for worker in workers:
        worker.add_done_callback(arrived.put_nowait)
    running = len(workers)
    try:
        while running:
            item = await arrived.get()
            if isinstance(item, asyncio.Task):
                running -= 1
                item.result()
            else:
                yield item
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _numbered(jobs: Sequence[Job]) -> Iterator[tuple[int, Job]]:
    """Yields each job with the number of its first choice."""
    first = 0
    for job in jobs:
        yield first, job
        first += job.choices
