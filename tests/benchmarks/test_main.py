"""The command that runs them all."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from benchmarks import __main__ as command


def test_the_named_ones_run_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    for name in command.KNOWN:
        module = ModuleType(f"benchmarks.{name}")
        module.main = lambda name=name: ran.append(name)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"benchmarks.{name}", module)
    assert command.main(["stall", "embedded"]) == 0
    assert ran == ["stall", "embedded"]
    assert command.main([]) == 0
    assert ran[2:] == list(command.NAMES)


def test_an_unknown_name_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["embeded"]) == 2
    assert "no benchmark 'embeded'" in capsys.readouterr().out
