"""Checkpoint manifests: readable, complete, and consistent with the architecture they state."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from model_assets import manifest
from model_assets.manifest import CheckpointManifest, ManifestError
from tests import parameters

PUBLISHED = ("gpt-oss-120b", "gpt-oss-20b")


def weight_bytes(checkpoint: CheckpointManifest) -> int:
    return sum(f.size_bytes for f in checkpoint.files if f.path.endswith(".safetensors"))


def test_every_manifest_can_be_read_and_has_its_own_name() -> None:
    assert manifest.names() == ("development", *PUBLISHED)
    for name in manifest.names():
        assert manifest.read(name).name == name


@pytest.mark.parametrize(
    ("name", "billions", "active_billions"),
    [("gpt-oss-120b", 116.83, 5.13), ("gpt-oss-20b", 20.91, 3.61)],
)
def test_parameter_counts_are_those_of_the_model_card(
    name: str, billions: float, active_billions: float
) -> None:
    shape = manifest.read(name).architecture
    assert parameters.parameters(shape) / 1e9 == pytest.approx(billions, abs=0.005)
    assert parameters.active_parameters(shape) / 1e9 == pytest.approx(active_billions, abs=0.005)


@pytest.mark.parametrize("name", PUBLISHED)
def test_file_sizes_fit_the_architecture(name: str) -> None:
    """What the files hold besides the tensors is the safetensors headers: some kilobytes each."""
    checkpoint = manifest.read(name)
    shards = sum(f.path.endswith(".safetensors") for f in checkpoint.files)
    headers = weight_bytes(checkpoint) - parameters.tensor_bytes(checkpoint.architecture)
    assert 1_000 * shards < headers < 20_000 * shards


@pytest.mark.parametrize("name", PUBLISHED)
def test_files_are_pinned_and_stay_in_the_directory(name: str) -> None:
    checkpoint = manifest.read(name)
    assert checkpoint.repository == f"openai/{name}"
    assert re.fullmatch(r"[0-9a-f]{40}", checkpoint.revision)
    assert not checkpoint.stand_in
    paths = [file.path for file in checkpoint.files]
    assert len(set(paths)) == len(paths)
    assert {"config.json", "model.safetensors.index.json", "tokenizer.json"} <= set(paths)
    for file in checkpoint.files:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", file.path)
        assert file.size_bytes > 0
        assert file.sha256 is not None
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
    assert checkpoint.leave == ("original/*", "metal/*")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_shards_are_numbered_without_a_gap(name: str) -> None:
    shards = [f.path for f in manifest.read(name).files if f.path.endswith(".safetensors")]
    last = len(shards) - 1
    assert shards == [f"model-{i:05}-of-{last:05}.safetensors" for i in range(last + 1)]


def test_a_missing_manifest_names_those_that_exist() -> None:
    with pytest.raises(ManifestError, match=r"known checkpoints: development, gpt-oss-120b"):
        manifest.read("gpt-oss-7b")


def test_an_unknown_field_is_named(tmp_path: Path) -> None:
    text = (manifest.CHECKPOINTS / "gpt-oss-20b.json").read_text()
    (tmp_path / "gpt-oss-20b.json").write_text(text.replace('"revision"', '"revison"'))
    with pytest.raises(ManifestError, match="revison"):
        manifest.read("gpt-oss-20b", tmp_path)


def test_a_manifest_under_another_name_is_refused(tmp_path: Path) -> None:
    text = (manifest.CHECKPOINTS / "gpt-oss-20b.json").read_text()
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(ManifestError, match="name is gpt-oss-20b"):
        manifest.read("mine", tmp_path)
