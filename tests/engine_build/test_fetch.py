"""Checkpoints: what is missing or cut short is named, and what a machine lacks is told at once."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from engine_build import durable, fetch
from engine_build.failure import BuildError, ExitCode
from engine_build.fetch import CompactCheckpoint, GivenCheckpoint, PublishedCheckpoint
from engine_build.place import State
from engine_build.profiles import profile
from engine_build.progress import Steps
from serving.boundary.engine import RANKS_PATH
from tests.engine_build.checkpoints import TINY, describe, make

STEPS = Steps(Console(file=io.StringIO()))


@pytest.fixture
def given(tmp_path: Path) -> GivenCheckpoint:
    """A directory with the files of a tiny manifest."""
    make(tmp_path / "tiny", TINY, names=("model.safetensors",))
    return GivenCheckpoint(describe(tmp_path / "tiny", TINY), tmp_path / "tiny", "1")


def test_the_files_of_the_manifest_and_the_ranks_go_into_the_engine(given: GivenCheckpoint) -> None:
    checkpoint = given.fetch(STEPS)
    assert [file.path for file in checkpoint.files] == [
        "checkpoint/config.json",
        "checkpoint/model.safetensors",
        "checkpoint/model.safetensors.index.json",
        RANKS_PATH,
    ]
    assert checkpoint.files[1].sha256 == durable.sha256(given.directory / "model.safetensors")
    assert checkpoint.architecture.num_local_experts == 4
    assert checkpoint.model.stand_in


def test_a_missing_file_is_named_with_where_it_belongs(given: GivenCheckpoint) -> None:
    (given.directory / "model.safetensors").unlink()
    with pytest.raises(BuildError, match=r"model\.safetensors is missing") as caught:
        given.fetch(STEPS)
    assert caught.value.exit_code is ExitCode.MISSING
    assert "somewhere/checkpoint at abc" in caught.value.advice


def test_a_file_that_was_cut_short_is_named_before_anything_is_hashed(
    given: GivenCheckpoint,
) -> None:
    path = given.directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BuildError, match="is cut short within model") as caught:
        given.fetch(STEPS)
    assert caught.value.exit_code is ExitCode.DATA


def test_a_file_of_another_length_is_named(given: GivenCheckpoint) -> None:
    path = given.directory / "model.safetensors.index.json"
    size_bytes = path.stat().st_size
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(
        BuildError, match=f"has {size_bytes + 1} bytes, its manifest says {size_bytes}"
    ) as caught:
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
    assert isinstance(fetch.choose(wanted, None, State(tmp_path)), CompactCheckpoint)
    wanted = wanted.model_copy(update={"checkpoint": "gpt-oss-20b"})
    source = fetch.choose(wanted, None, State(tmp_path))
    assert isinstance(source, PublishedCheckpoint)
    assert source.directory == tmp_path / "checkpoints" / "gpt-oss-20b-6cee5e81ee839178"
    assert isinstance(fetch.choose(wanted, tmp_path, State(tmp_path)), GivenCheckpoint)


def test_an_unknown_checkpoint_is_a_fault_of_the_profile(tmp_path: Path) -> None:
    wanted = profile.load("development").model_copy(update={"checkpoint": "nothing"})
    with pytest.raises(BuildError, match="known checkpoints: ") as caught:
        fetch.choose(wanted, None, State(tmp_path))
    assert caught.value.exit_code is ExitCode.CONFIGURATION
