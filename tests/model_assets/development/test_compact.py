"""The compact file: pinned, small, and the same after writing and reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors

from model_assets import manifest
from model_assets.development import compact
from model_assets.development.compact import Compact, CompactError
from model_assets.development.shape import Shape
from serving.boundary.engine import sha256

LIMIT_BYTES = 10_000_000


def test_the_file_is_the_one_that_the_manifest_names(compact_path: Path) -> None:
    described = manifest.read("development")
    (file,) = described.files
    assert described.stand_in
    assert compact_path.stat().st_size == file.size_bytes < LIMIT_BYTES
    assert sha256(compact_path) == file.sha256 == described.revision


def test_the_shape_is_in_file_and_manifest(checkpoint: Compact) -> None:
    assert checkpoint.shape == manifest.read("development").architecture
    assert checkpoint.shape.vocab_size == 201_088


def test_ids_are_ascending_and_part_of_the_vocabulary(checkpoint: Compact) -> None:
    ids = checkpoint.ids
    assert (np.diff(ids) > 0).all()
    assert ids[0] >= 0
    assert ids[-1] < checkpoint.shape.vocab_size


def test_writing_what_was_read_gives_the_same_bytes(
    compact_path: Path, checkpoint: Compact, tmp_path: Path
) -> None:
    compact.write(tmp_path / "again", checkpoint)
    assert (tmp_path / "again").read_bytes() == compact_path.read_bytes()


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    values = np.array([[1.0, -2.5], [3.25, 0.0]], dtype=np.float32)
    tensors = {"b": compact.bfloat16(values), "a": compact.Tensor("U8", np.arange(3, dtype="u1"))}
    compact.write_tensors(tmp_path / "file", tensors, {"k": "v"})
    with safetensors.safe_open(tmp_path / "file", framework="pt") as file:
        assert set(file.keys()) == {"a", "b"}
        assert file.metadata() == {"k": "v"}
        assert file.get_tensor("a").tolist() == [0, 1, 2]
        assert file.get_tensor("b").float().tolist() == values.tolist()


def test_bfloat16_rounds_to_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -1.5], dtype=np.float32)
    rounded = compact.float32(compact.bfloat16(values))
    assert rounded.tolist() == [1.0, 1.0, 1.015625, -1.5]


def test_sharpness_scales_the_head_alone() -> None:
    shape = Shape(hidden_size=2)
    weights = {
        "lm_head.weight": np.ones((3, 2), dtype=np.float32),
        "embed_tokens.weight": np.ones((3, 2), dtype=np.float32),
    }
    made = compact.assemble(shape, [4, 9], weights, 2.0)
    assert compact.float32(made.tensors["lm_head.weight"]).tolist() == [[2.0, 2.0]] * 3
    assert compact.float32(made.tensors["model.embed_tokens.weight"]).tolist() == [[1.0, 1.0]] * 3


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x02\0\0\0\0\0\0\0{}"])
def test_another_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(CompactError, match=r"other\.safetensors"):
        compact.read(path)
