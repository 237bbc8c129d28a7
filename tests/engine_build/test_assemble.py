"""Files of an engine: hashed where they are, linked, placed and remembered."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine_build import assemble, durable, ledger
from engine_build.assemble import PlannedFile
from engine_build.failure import BuildError, ExitCode
from engine_build.ledger import Ledger


@pytest.fixture
def wanted(tmp_path: Path) -> list[PlannedFile]:
    """Two files of another directory; of one the contents are known."""
    origins = tmp_path / "origins"
    origins.mkdir()
    (origins / "one").write_bytes(b"first")
    (origins / "two").write_bytes(b"second!")
    return [
        PlannedFile("checkpoint/one", origins / "one", 5, durable.digest(b"first")),
        PlannedFile("two", origins / "two", 7),
    ]


def test_files_are_hashed_where_they_are_and_once(
    tmp_path: Path, wanted: list[PlannedFile]
) -> None:
    record = tmp_path / "links" / ledger.NAME
    read: list[int] = []
    first = assemble.hashed(wanted, Ledger(record.parent), read.append)
    assert [(file.path, file.sha256) for file in first] == [
        ("checkpoint/one", durable.digest(b"first")),
        ("two", durable.digest(b"second!")),
    ]
    assert sum(read) == 12
    before = record.stat().st_mtime_ns
    assert assemble.hashed(wanted, Ledger(record.parent), read.append) == first
    assert sum(read) == 24  # told of every byte again, for the bar
    assert record.stat().st_mtime_ns == before


def test_a_file_that_changed_is_hashed_again(tmp_path: Path, wanted: list[PlannedFile]) -> None:
    assemble.hashed(wanted, Ledger(tmp_path))
    wanted[1].origin.write_bytes(b"another")
    assert assemble.hashed(wanted, Ledger(tmp_path))[1].sha256 == durable.digest(b"another")


def test_other_contents_than_the_manifests_are_named_and_left_alone(
    tmp_path: Path, wanted: list[PlannedFile]
) -> None:
    wanted[0].origin.write_bytes(b"fi?st")
    with pytest.raises(BuildError, match=r"origins/one has 5 bytes and sha256") as caught:
        assemble.hashed(wanted, Ledger(tmp_path))
    assert caught.value.exit_code is ExitCode.DATA
    assert wanted[0].origin.exists()


def test_what_is_placed_wrong_is_not_left(tmp_path: Path, wanted: list[PlannedFile]) -> None:
    wanted[0].origin.write_bytes(b"fi?st")
    with pytest.raises(BuildError, match="has 5 bytes and sha256"):
        assemble.assemble(wanted, tmp_path / "work")
    assert not (tmp_path / "work" / "checkpoint" / "one").exists()


def test_a_linked_directory_holds_links_and_nothing_of_before(
    tmp_path: Path, wanted: list[PlannedFile]
) -> None:
    room = tmp_path / "room"
    room.mkdir()
    (room / "old").write_bytes(b"x")
    assemble.link(wanted, room)
    assert (room / "checkpoint" / "one").read_bytes() == b"first"
    assert (room / "two").is_symlink()
    assert not (room / "old").exists()
    durable.remove(room)
    assert wanted[1].origin.read_bytes() == b"second!"
