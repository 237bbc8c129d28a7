"""The ledger of finished files: made once, and again when anything about them has changed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine_build import durable, ledger
from engine_build.ledger import FinishedFile, Ledger


class Maker:
    """Writes a file and counts how often."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls = 0

    def __call__(self) -> tuple[str, msgspec.Raw]:
        self.calls += 1
        self.path.write_bytes(b"x" * self.calls)
        return durable.digest(b"x" * self.calls), msgspec.Raw(str(self.calls).encode())

    def once(self, source: str) -> FinishedFile:
        """Asks for the file as a run of its own would."""
        return Ledger(self.path.parent).once("file", self.path, source, self)


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "file")


def findings(file: FinishedFile) -> int:
    return msgspec.json.decode(file.findings, type=int)


def test_a_finished_file_is_not_made_again(make: Maker) -> None:
    first = make.once("a")
    assert make.once("a") == first
    assert make.calls == 1
    assert (findings(first), first.size_bytes) == (1, 1)


def test_another_source_makes_another_file(make: Maker) -> None:
    make.once("a")
    assert findings(make.once("b")) == 2


def test_a_file_that_somebody_touched_is_made_again(make: Maker) -> None:
    make.once("a")
    make.path.write_bytes(b"longer")
    assert findings(make.once("a")) == 2
    make.path.unlink()
    assert findings(make.once("a")) == 3


def test_a_file_without_an_entry_is_not_trusted(make: Maker) -> None:
    make.once("a")
    (make.path.parent / ledger.NAME).unlink()
    assert list(make.path.parent.iterdir()) == [make.path]
    assert findings(make.once("a")) == 2


def test_a_ledger_that_cannot_be_read_counts_for_nothing(make: Maker) -> None:
    make.once("a")
    (make.path.parent / ledger.NAME).write_bytes(b"{")
    assert findings(make.once("a")) == 2


def test_a_finished_file_counts_as_progress(make: Maker) -> None:
    make.once("a")
    told: list[int] = []
    Ledger(make.path.parent).once("file", make.path, "a", make, told.append)
    assert told == [1]
