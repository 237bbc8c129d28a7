"""What a machine lacks for an engine on its CPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from engine_build import fetch, preflight
from engine_build.download import Download
from engine_build.failure import BuildError, ExitCode
from engine_build.fetch import PublishedCheckpoint
from engine_build.hub import HubError
from engine_build.place import State
from engine_build.resolve import resolve
from serving.hosting import machine

Check = Callable[[], None]


class Disk(NamedTuple):
    free: int


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Checks for gpt-oss-20b-cpu on a machine that has what is needed, to the last byte."""
    monkeypatch.setattr(machine, "memory_bytes", lambda: 16_000_000_000)
    monkeypatch.setattr(machine, "available_bytes", lambda: 15_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Disk(28_000_000_000))
    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/gcc")
    monkeypatch.setattr(Download, "reach", lambda _self: None)
    state = State(tmp_path)
    wanted = resolve("gpt-oss-20b-cpu", None)
    source = fetch.choose(wanted.profile, None, state)
    assert isinstance(source, PublishedCheckpoint)
    return lambda: preflight.check(wanted, source, state)


def refusal(check: Check) -> str:
    with pytest.raises(BuildError) as caught:
        check()
    assert caught.value.exit_code is ExitCode.UNAVAILABLE
    return str(caught.value)


def test_a_machine_of_16_gb_is_enough(check: Check) -> None:
    check()


def test_memory_is_counted_with_what_the_gate_runs(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine takes 13.1 GB, the reference with bfloat16 attention 14.3."""
    monkeypatch.setattr(machine, "available_bytes", lambda: 14_000_000_000)
    message = refusal(check)
    assert "memory: 14.28 GB are needed at most, 14.00 GB of 16.00 GB are free" in message


def test_the_disk_holds_what_is_fetched_and_what_is_converted(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Disk(20_000_000_000))
    assert "disk: 26.44 GB are needed" in refusal(check)


def test_a_server_that_cannot_be_reached_is_told(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_download: Download) -> None:
        raise HubError("cannot be fetched: no route", may_pass=True)

    monkeypatch.setattr(Download, "reach", refuse)
    assert "network: openai/gpt-oss-20b: cannot be fetched: no route" in refusal(check)


def test_a_server_that_asks_to_wait_is_waited_for_later(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_download: Download) -> None:
        raise HubError("cannot be fetched: 429", may_pass=True, wait_seconds=60.0)

    monkeypatch.setattr(Download, "reach", refuse)
    check()


def test_everything_that_is_missing_is_told_at_once(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_bytes", lambda: 4_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Disk(1_000_000_000))
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    message = refusal(check)
    assert all(word in message for word in ("memory: ", "disk: ", "there is no gcc"))
    assert "Nothing was fetched" in message
