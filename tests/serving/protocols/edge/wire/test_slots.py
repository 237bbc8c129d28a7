"""The bound on connections: how it is found, and what is said when it is met."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from typing import Any

import pytest

from serving.protocols.edge.wire.slots import LOG_SECONDS, RESERVE, Slots, connections_within


class Connection:
    """A connection that waits."""

    def __init__(self) -> None:
        self.gone = False

    def give_way(self) -> None:
        self.gone = True


class Told:
    """Slots, and what they told; the clock is the test's."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.short: list[str] = []
        self.seconds = 0.0
        self.slots = Slots(self.closed.append, self.short.append, lambda: self.seconds)


def test_a_line_at_most_once_a_minute() -> None:
    told = Told()
    told.slots.most = 4
    for _ in range(100):
        assert told.slots.above(5) == 1
    assert told.short == ["4 connections are open, which is the most"]
    told.seconds = LOG_SECONDS
    told.slots.above(5)
    assert len(told.short) == 2


def test_one_that_has_left_is_not_asked_to_give_way() -> None:
    told = Told()
    told.slots.most = 1
    gone, waiting = Connection(), Connection()
    told.slots.wait(gone, silent=True)
    told.slots.wait(waiting, silent=False)
    told.slots.leave(gone)
    assert told.slots.above(2) == 0
    assert (gone.gone, waiting.gone, told.closed) == (False, True, ["idle"])


def test_without_files_those_that_wait_give_way_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = Told()
    waiting = [Connection() for _ in range(RESERVE + 1)]
    for connection in waiting:
        told.slots.wait(connection, silent=True)
    told.slots.look_for_files()
    assert not told.short

    def none_left(*_: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", none_left)
    told.slots.look_for_files()
    assert [connection.gone for connection in waiting] == [True] * RESERVE + [False]
    assert "no more files" in told.short[0]


def test_the_bound_leaves_files_for_everything_else() -> None:
    now = len(os.listdir("/dev/fd"))
    assert connections_within(1024, None) <= 1024 - now - 128
    assert connections_within(1024, 100) == 100
    assert connections_within(1024, 10**6) == connections_within(1024, None)
    assert connections_within(64, None) == RESERVE


def test_the_soft_limit_is_raised_as_far_as_the_hard_one_allows() -> None:
    code = (
        "from serving.protocols.edge.wire.slots import raise_file_limit; print(raise_file_limit())"
    )

    def limited(soft: int, hard: int) -> str:
        wrapped = (
            f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); {code}"
        )
        ran = subprocess.run([sys.executable, "-c", wrapped], capture_output=True, check=True)
        return ran.stdout.decode().strip()

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert limited(128, 512) == "512"
    assert limited(512, 512) == "512"
    if hard == resource.RLIM_INFINITY or hard > 20_000:
        assert limited(1024, 20_000) == "16384"
        assert limited(20_000, 20_000) == "20000"
