"""What an engine's checkpoint must hold, as it follows from its manifest."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine_build.failure import BuildError, ExitCode
from engine_build.weights import contents, inventory
from serving.boundary import engine
from serving.boundary.engine import Mesh
from tests.engine_build.checkpoints import SMALL, TINY
from tests.engine_build.scene import FIRST, furnish

TWO = Mesh(tensor_parallel=2, expert_parallel=2)


def test_only_the_embedded_runtime_has_rank_files() -> None:
    assert contents.is_cut("embedded", TWO)
    assert not contents.is_cut("embedded", Mesh())
    assert not contents.is_cut("trtllm", TWO)


def test_published_weights_are_the_inventory_and_all_ranks_hold_it() -> None:
    specs = contents.whole(SMALL, "mxfp4")
    assert specs == inventory.checkpoint(SMALL)
    ranks = contents.cut(SMALL, "mxfp4", TWO)
    assert [place.rank for place in ranks] == [0, 1]
    name = "model.layers.0.mlp.experts.gate_up_proj_blocks"
    assert sum(held[name].size_bytes for held in ranks.values()) == specs[name].size_bytes


@pytest.mark.parametrize("weights", ["fp8", "int8"])
def test_converted_weights_have_values_and_scales_in_their_place(weights: str) -> None:
    found = contents.whole(TINY, weights)
    published = inventory.checkpoint(TINY)
    assert {"F8_E4M3" if weights == "fp8" else "I8", "F32"} <= {
        spec.dtype for spec in found.values()
    }
    assert set(published) - set(found)
    assert contents.size_bytes(found) != contents.size_bytes(published)


def test_an_engine_in_another_precision_than_its_manifest_says_is_named(tmp_path: Path) -> None:
    scene = furnish(tmp_path, "fp8")
    built = scene.build(publish=False).engine
    contents.check(scene.engine, built)
    told = msgspec.structs.replace(built.precision, weights="mxfp4")
    with pytest.raises(BuildError, match=r"has no tensor .*_blocks") as caught:
        contents.check(scene.engine, msgspec.structs.replace(built, precision=told))
    assert caught.value.exit_code is ExitCode.DATA


def test_a_rank_file_that_is_missing_or_another_is_named(tmp_path: Path) -> None:
    scene = furnish(tmp_path, ranks=2)
    scene.build(publish=False)
    built = engine.read(scene.engine)
    first, second = sorted((scene.engine / "checkpoint").glob("rank-*"))
    four = Mesh(tensor_parallel=4, expert_parallel=4)
    with pytest.raises(BuildError, match=r"rank-00000-of-00004\.safetensors is missing"):
        contents.check(scene.engine, msgspec.structs.replace(built, mesh=four))
    second.unlink()
    with pytest.raises(BuildError, match=r"rank-00001-of-00002\.safetensors is missing") as caught:
        contents.check(scene.engine, built)
    assert caught.value.exit_code is ExitCode.MISSING
    first.write_bytes((scene.origins / FIRST).read_bytes())
    with pytest.raises(BuildError, match=r"rank-00000-of-00002\.safetensors: has no tensor"):
        contents.check(scene.engine, built)
