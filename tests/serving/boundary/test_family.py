"""The processes of one mark, wherever they have gone."""

from __future__ import annotations

import os
import secrets
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest

from serving.boundary import family

WAIT_SECONDS = 20.0
SLEEPER = "import os, sys, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(600)"
LEAVER = """
import subprocess, sys
from serving.engines.host import end_group
worker = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
print(worker.stdout.readline().strip(), flush=True)
end_group()
"""


@pytest.fixture
def mark() -> Iterator[str]:
    """A mark of its own; nobody who carries it outlives the test."""
    made = secrets.token_hex(8)
    yield made
    family.end(made)


def start(mark: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts Python with a mark."""
    return subprocess.Popen(
        [sys.executable, "-c", *arguments],
        env={**os.environ, family.MARK: mark},
        stdout=subprocess.PIPE,
        text=True,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_those_with_the_mark_are_found_and_ended(mark: str) -> None:
    with start(mark, SLEEPER) as one, start(mark, SLEEPER) as other:
        found = {int(first_line(one)), int(first_line(other))}
        assert set(family.members(mark)) == found == {one.pid, other.pid}
        family.end(mark, spare=(one.pid,))
        assert other.wait(WAIT_SECONDS) < 0
        assert one.poll() is None
        family.end(mark)
        assert one.wait(WAIT_SECONDS) < 0
    assert not list(family.members(mark))


def test_a_part_of_a_mark_is_another_mark(mark: str) -> None:
    with start(mark, SLEEPER) as process:
        first_line(process)
        family.end(mark[:-1])
        family.end("")
        assert process.poll() is None
        family.end(mark)


def test_an_engine_process_whose_parent_has_gone_takes_all_along(mark: str) -> None:
    with start(mark, LEAVER, SLEEPER) as leaving:
        worker = os.pidfd_open(int(first_line(leaving)))
        try:
            leaving.wait(WAIT_SECONDS)
            assert select.select([worker], [], [], WAIT_SECONDS)[0]
        finally:
            os.close(worker)
