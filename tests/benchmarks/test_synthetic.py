"""The synthetic checkpoint is one, in the files of the published one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from benchmarks import synthetic
from engine_build import durable
from engine_build.weights import inventory, tensors
from engine_build.weights.tensor_file import header
from model_assets import manifest
from serving.engines.embedded.loading import load_model
from tests import parameters
from tests.engine_build.checkpoints import SMALL

SHAPE = msgspec.structs.replace(SMALL, vocab_size=640)


@pytest.mark.parametrize("name", ["gpt-oss-120b", "gpt-oss-20b"])
def test_the_files_are_the_published_ones_in_name_size_and_index(name: str) -> None:
    """The index's sha256 says that every tensor is in its published file."""
    published = manifest.read(name)
    specs = inventory.checkpoint(published.architecture)
    files = synthetic.arrange(specs)
    sizes = {
        file: len(header({name: specs[name] for name in names}))
        + sum(specs[name].size_bytes for name in names)
        for file, names in files.items()
    }
    assert sizes == {
        file.path: file.size_bytes for file in published.files if file.path.endswith(".safetensors")
    }
    weight_map = {tensor: file for file, names in files.items() for tensor in names}
    index = tensors.index(weight_map, sum(spec.size_bytes for spec in specs.values()))
    (expected,) = (file.sha256 for file in published.files if file.path == tensors.INDEX_NAME)
    assert durable.digest(index) == expected


def test_it_is_a_checkpoint_that_loads(tmp_path: Path) -> None:
    made = synthetic.generate(SHAPE, tmp_path / "c", limit_bytes=200_000)
    assert len(made.files) > 2
    assert made.tensor_bytes == parameters.tensor_bytes(SHAPE)
    with tensors.open_checkpoint(tmp_path / "c") as opened:
        tensors.check(tmp_path / "c", opened, SHAPE)
        tables = [opened.raw(name).tobytes() for name in (inventory.EMBEDDING, inventory.HEAD)]
        assert tables[0] != tables[1]
    model = load_model(
        tmp_path / "c", block_tokens=16, dtype=torch.float32, device=torch.device("cpu")
    )
    assert torch.isfinite(model.embedding).all()


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        synthetic.generate(SHAPE, tmp_path / name)
    first, second = (
        [durable.sha256(path) for path in sorted((tmp_path / name).iterdir())] for name in "ab"
    )
    assert first == second


def test_a_tensor_larger_than_the_table_does_not_repeat_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(synthetic, "TABLE_BYTES", 1 << 16)
    monkeypatch.setattr(synthetic, "PIECE_BYTES", 1 << 15)
    specs = inventory.checkpoint(msgspec.structs.replace(SMALL, vocab_size=4000))
    content = b"".join(map(bytes, synthetic._Source(specs)("lm_head.weight")))
    assert len(content) == specs["lm_head.weight"].size_bytes > 1 << 18
    parts = {content[start : start + 4096] for start in range(0, len(content) - 4096, 4096)}
    assert len(parts) == len(content) // 4096 - (len(content) % 4096 == 0)
