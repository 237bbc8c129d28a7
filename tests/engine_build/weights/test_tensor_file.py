"""One safetensors file: the reference library is the oracle, and damage is named."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine_build import durable
from engine_build.failure import BuildError, ExitCode
from engine_build.weights import tensor_file
from engine_build.weights.tensor_file import Bytes, Spec, open_file, pieces, read_header, write

TENSORS = {
    "b.weight": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
    "a.scales": torch.arange(5, dtype=torch.uint8),
    "c": torch.tensor([1.5, -2.0]),
    "a.codes": torch.tensor([[1.0, -448.0]]).to(torch.float8_e4m3fn),
    "empty": torch.empty((0, 4), dtype=torch.int8),
}
SPECS = {
    "b.weight": Spec("BF16", (2, 3)),
    "a.scales": Spec("U8", (5,)),
    "c": Spec("F32", (2,)),
    "a.codes": Spec("F8_E4M3", (1, 2)),
    "empty": Spec("I8", (0, 4)),
}


def contents(name: str) -> Iterator[Bytes]:
    yield TENSORS[name].contiguous().view(torch.uint8).numpy()


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.safetensors"
    write(path, SPECS, contents)
    return path


def test_the_bytes_are_those_of_the_reference_library(good: Path, tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "reference")
    assert good.read_bytes() == (tmp_path / "reference").read_bytes()


def test_what_is_written_can_be_read(good: Path) -> None:
    for name, tensor in load_file(good).items():
        assert torch.equal(tensor.view(torch.uint8), TENSORS[name].view(torch.uint8))
    with open_file(good) as file:
        assert {name: entry.spec for name, entry in file.entries.items()} == SPECS
        assert file.raw("b.weight").shape == (2, 3, 2)
        assert file.raw("b.weight").tobytes() == next(contents("b.weight")).tobytes()
        file.release("b.weight")
        assert file.raw("b.weight").tobytes() == next(contents("b.weight")).tobytes()


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    told: list[int] = []
    written = write(tmp_path / "x", SPECS, contents, advance=told.append)
    assert written.sha256 == hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest()
    assert written.size_bytes == (tmp_path / "x").stat().st_size == sum(told)


def test_a_file_that_is_not_finished_has_no_name(tmp_path: Path) -> None:
    def fails(name: str) -> Iterator[Bytes]:
        yield from contents(name)
        raise RuntimeError("the source went away")

    with pytest.raises(RuntimeError):
        write(tmp_path / "x", SPECS, fails)
    assert not (tmp_path / "x").exists()


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[bool] = []
    flush = os.fsync

    def watched(descriptor: int) -> None:
        named.append((tmp_path / "x").exists())
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write(tmp_path / "x", SPECS, contents)
    # The file's bytes, then the directory that holds its name.
    assert named == [False, True]


def test_a_long_file_is_on_its_way_to_the_disk_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[int, int]] = []
    monkeypatch.setattr(tensor_file, "FLUSH_BYTES", 1000)
    monkeypatch.setattr(
        durable, "begin_writing", lambda _file, start, size: begun.append((start, size))
    )
    values = np.arange(2500, dtype=np.uint32).view(np.uint8)
    written = write(
        tmp_path / "x", {"long": Spec("U8", (10_000,))}, lambda _name: pieces(values, 700)
    )
    # Each part begins where the one before ended, and none is longer than it has to be.
    assert [start for start, _ in begun] == [
        sum(size for _, size in begun[:i]) for i in range(len(begun))
    ]
    assert all(1000 <= size < 1700 for _, size in begun)
    assert sum(size for _, size in begun) <= written.size_bytes
    with open_file(tmp_path / "x") as opened:
        assert np.array_equal(opened.raw("long")[:, 0], values)


def test_what_is_released_can_be_read_again_at_any_place(tmp_path: Path) -> None:
    values = np.arange(20_000, dtype=np.uint8)
    write(tmp_path / "x", {"long": Spec("U8", (20_000,))}, lambda _name: [values])
    with open_file(tmp_path / "x") as opened:
        for start in range(0, 20_000, 5000):
            opened.release("long", start, start + 5000)
        opened.release("long")
        assert np.array_equal(opened.raw("long")[:, 0], values)


def test_too_few_bytes_for_a_tensor_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"c: 0 bytes for F32 \[2\]"):
        write(tmp_path / "x", {"c": SPECS["c"]}, lambda name: iter(()))
    assert not (tmp_path / "x").exists()


def test_a_full_disk_is_told_with_the_file() -> None:
    with pytest.raises(BuildError, match=r"(Permission|Not a directory|No such|Read-only)") as info:
        write(Path("/proc/nowhere/x"), SPECS, contents)
    assert info.value.exit_code is ExitCode.STORAGE


def test_pieces_are_the_array_in_order() -> None:
    array = np.arange(4 * 6 * 10, dtype=np.uint8).reshape(4, 6, 10)
    for part in (array, array[:, 2:4], array[:, :, 3:5], array[1:, ::1, :2], array[2]):
        found = b"".join(piece.tobytes() for piece in pieces(part, piece_bytes=7))
        assert found == part.tobytes()


Damage = Callable[[bytes], bytes]


def _with_header(change: Callable[[dict[str, dict[str, object]]], object]) -> Damage:
    def damage(raw: bytes) -> bytes:
        length = int.from_bytes(raw[:8], "little")
        content = json.loads(raw[8 : 8 + length])
        change(content)
        header = json.dumps(content).encode()
        return len(header).to_bytes(8, "little") + header + raw[8 + length :]

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: raw[:-1], r"cut short within a\.scales"),
        (lambda raw: raw[:40], "cut short: it has 40 bytes"),
        (lambda raw: raw[:3], "cut short: it has 3 bytes"),
        (lambda raw: b"", "cut short: it has 0 bytes"),
        (lambda raw: raw + b"x", "1 bytes after its last tensor"),
        (lambda raw: raw[:8] + b"?" + raw[9:], "header is not JSON"),
        (lambda raw: b"\xff" * 4 + b"\0" * 4 + raw[8:], "cut short"),
        (
            _with_header(lambda h: h["c"].update(data_offsets=[4, 12])),
            r"b\.weight: its data overlaps|c: its data leaves a gap",
        ),
        (_with_header(lambda h: h["c"].update(shape=[3])), r"c: F32 \[3\] is 12 bytes"),
        (_with_header(lambda h: h["c"].update(shape=[-2])), r"c: shape \[-2\]"),
        (_with_header(lambda h: h["c"].update(dtype="F99")), "c: dtype 'F99' is none of"),
        (_with_header(lambda h: h["c"].pop("shape")), "c: its entry in the header"),
        (
            _with_header(lambda h: h["b.weight"].update(data_offsets=[0, 12])),
            "overlaps the tensor before it",
        ),
    ],
)
def test_damage_is_named_with_file_and_tensor(good: Path, damage: Damage, words: str) -> None:
    good.write_bytes(damage(good.read_bytes()))
    with pytest.raises(BuildError, match=words) as info:
        read_header(good)
    assert info.value.exit_code is ExitCode.DATA
    assert str(good) in str(info.value)
    assert "Fetch this file again" in str(info.value)


def test_a_header_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.write((200_000_000).to_bytes(8, "little"))
        file.truncate(300_000_000)
    with pytest.raises(BuildError, match="a header of 200000000 bytes"):
        read_header(path)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="is missing") as info:
        read_header(tmp_path / "none")
    assert info.value.exit_code is ExitCode.MISSING


def test_tensors_are_in_the_order_of_dtypes() -> None:
    assert tensor_file.order(SPECS) == ["c", "b.weight", "a.codes", "empty", "a.scales"]
