"""Checkpoints: what is missing or cut short is named, and what a machine lacks is told at once."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from engine_build import durable, fetch, profile
from engine_build.failure import BuildError, ExitCode
from engine_build.fetch import Compact, Given, Published
from engine_build.place import State
from engine_build.progress import Steps
from model_assets import manifest
from model_assets.manifest import Checkpoint, CheckpointFile
from serving.engine import RANKS_PATH

STEPS = Steps(Console(file=io.StringIO()))
CONTENT = {"config.json": b"{}", "model.safetensors": b"weights"}


@pytest.fixture
def given(tmp_path: Path) -> Given:
    """A directory with the files of a tiny manifest."""
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
    described = Checkpoint(
        name="tiny",
        repository="somewhere/tiny",
        revision="abc",
        revision_source="this test",
        license="Apache-2.0",
        stand_in=True,
        architecture=manifest.read("gpt-oss-20b").architecture,
        files=tuple(
            CheckpointFile(path=name, size_bytes=len(content), sha256=durable.digest(content))
            for name, content in CONTENT.items()
        ),
    )
    return Given(described, tmp_path, "1")


def test_the_files_of_the_manifest_and_the_ranks_go_into_the_engine(given: Given) -> None:
    checkpoint = given.fetch(STEPS)
    assert [file.path for file in checkpoint.files] == [
        "checkpoint/config.json",
        "checkpoint/model.safetensors",
        RANKS_PATH,
    ]
    assert checkpoint.files[1].sha256 == durable.digest(b"weights")
    assert checkpoint.architecture.num_local_experts == 32
    assert checkpoint.model.stand_in


def test_a_missing_file_is_named_with_where_it_belongs(given: Given) -> None:
    (given.directory / "model.safetensors").unlink()
    with pytest.raises(BuildError, match=r"model\.safetensors is missing") as caught:
        given.fetch(STEPS)
    assert caught.value.exit_code is ExitCode.MISSING
    assert "somewhere/tiny at abc" in caught.value.advice


def test_a_file_that_was_cut_short_is_named_before_anything_is_hashed(given: Given) -> None:
    (given.directory / "model.safetensors").write_bytes(b"weig")
    with pytest.raises(BuildError, match="has 4 bytes, its manifest says 7") as caught:
        given.fetch(STEPS)
    assert caught.value.exit_code is ExitCode.DATA


def test_a_gpu_profile_says_what_is_missing_before_anything_is_fetched(tmp_path: Path) -> None:
    wanted = profile.load("gpt-oss-120b-2xh100")
    with pytest.raises(BuildError) as caught:
        fetch.choose(wanted, None, State(tmp_path))
    assert caught.value.exit_code is ExitCode.UNAVAILABLE
    assert "TensorRT-LLM is not installed" in caught.value.message
    assert "on 2 x NVIDIA H100 80GB HBM3" in caught.value.advice


def test_a_published_checkpoint_is_fetched_and_an_own_one_expanded(tmp_path: Path) -> None:
    wanted = profile.load("development")
    assert isinstance(fetch.choose(wanted, None, State(tmp_path)), Compact)
    wanted = wanted.model_copy(update={"checkpoint": "gpt-oss-20b"})
    source = fetch.choose(wanted, None, State(tmp_path))
    assert isinstance(source, Published)
    assert source.room == tmp_path / "checkpoints" / "gpt-oss-20b-6cee5e81ee839178"
    assert isinstance(fetch.choose(wanted, tmp_path, State(tmp_path)), Given)


def test_an_unknown_checkpoint_is_a_fault_of_the_profile(tmp_path: Path) -> None:
    wanted = profile.load("development").model_copy(update={"checkpoint": "nothing"})
    with pytest.raises(BuildError, match="known checkpoints: ") as caught:
        fetch.choose(wanted, None, State(tmp_path))
    assert caught.value.exit_code is ExitCode.CONFIGURATION
