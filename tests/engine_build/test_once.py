from __future__ import annotations

from pathlib import Path

import pytest

from engine_build import durable, once
from engine_build.once import Made
from engine_build.weights.tensor_file import Written


class Maker:
    """Writes a file and counts how often."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls = 0

    def __call__(self) -> tuple[Written, int]:
        self.calls += 1
        self.path.write_bytes(b"x" * self.calls)
        return Written(self.path, self.calls, durable.digest(b"x" * self.calls)), self.calls


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "file")


def test_a_finished_file_is_not_made_again(make: Maker) -> None:
    first = once.once(make.path, "a", make, Made[int])
    assert once.once(make.path, "a", make, Made[int]) == first
    assert make.calls == 1
    assert (first.findings, first.size_bytes) == (1, 1)


def test_another_source_makes_another_file(make: Maker) -> None:
    once.once(make.path, "a", make, Made[int])
    assert once.once(make.path, "b", make, Made[int]).findings == 2


def test_a_file_that_somebody_touched_is_made_again(make: Maker) -> None:
    once.once(make.path, "a", make, Made[int])
    make.path.write_bytes(b"longer")
    assert once.once(make.path, "a", make, Made[int]).findings == 2
    make.path.unlink()
    assert once.once(make.path, "a", make, Made[int]).findings == 3


def test_a_file_without_its_record_is_not_trusted(make: Maker) -> None:
    once.once(make.path, "a", make, Made[int])
    make.path.with_name(".file.made").unlink()
    assert list(make.path.parent.iterdir()) == [make.path]
    assert once.once(make.path, "a", make, Made[int]).findings == 2


def test_a_record_that_cannot_be_read_counts_for_nothing(make: Maker) -> None:
    once.once(make.path, "a", make, Made[int])
    make.path.with_name(".file.made").write_bytes(b"{")
    assert once.once(make.path, "a", make, Made[int]).findings == 2
