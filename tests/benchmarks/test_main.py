"""The command that runs them all."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from benchmarks import __main__ as command


class Recorder:
    """Stands for running a benchmark."""

    def __init__(self, failing: str) -> None:
        self.names: list[str] = []
        self.failing = failing

    def __call__(self, name: str) -> int:
        self.names.append(name)
        return int(name == self.failing)


def test_the_named_ones_run_in_order() -> None:
    ran = Recorder(failing="")
    assert command.main(["stall", "gpu"], ran) == 0
    assert ran.names == ["stall", "gpu"]


def test_without_names_all_run_and_a_failure_stops_none(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Recorder(failing="embedded")
    assert command.main([], ran) == 1
    assert ran.names == list(command.NAMES)
    assert "missed a goal: embedded" in capsys.readouterr().out


def test_every_known_name_is_a_module() -> None:
    for name in command.KNOWN:
        assert find_spec(f"benchmarks.{name}") is not None


def test_an_unknown_name_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["embeded"], lambda name: 0) == 2
    assert "no benchmark 'embeded'" in capsys.readouterr().out
