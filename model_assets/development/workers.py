"""Processes that train one network together, one thread each.

The matrices are small: a second core is worth more as a second process with batches of its own,
about half as fast again, than as a second thread. Gradients are summed over the processes in a
fixed order, so the result depends on how many there are and on nothing else.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist


@contextmanager
def joined(count: int, assist: Callable[[int, int], object]) -> Iterator[None]:
    """Makes this process worker 0 of `count` within the block.

    Each other one is a new process that calls `assist` with its number and `count`. A process that
    fails ends the others, which lose its connection: the block then raises RuntimeError.
    """
    if count == 1:
        yield
        return
    with tempfile.TemporaryDirectory() as directory:
        place = (Path(directory) / "workers").as_uri()
        context = multiprocessing.get_context("spawn")
        others = [
            context.Process(target=_work, args=(worker, count, place, assist), daemon=True)
            for worker in range(1, count)
        ]
        for other in others:
            other.start()
        try:
            with _member(0, count, place):
                yield
        except BaseException:
            for other in others:
                other.terminate()
            raise
        finally:
            for other in others:
                other.join()


def _work(worker: int, count: int, place: str, assist: Callable[[int, int], object]) -> None:
    with _member(worker, count, place):
        assist(worker, count)


@contextmanager
def _member(worker: int, count: int, place: str) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=place, rank=worker, world_size=count)
    try:
        yield
    finally:
        dist.destroy_process_group()
