"""Engines of rank files, run for real: two processes say what the model in one piece says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine_build.build import build
from engine_build.failure import BuildError, ExitCode
from engine_build.proof import golden, golden_prompts, ranks
from engine_build.report import BuildReport
from serving.boundary import engine
from serving.engines.embedded.runtime import EmbeddedRuntime
from tests.engine_build.scene import Scene, furnish

RANK = "rank-00001-of-00002.safetensors"


@pytest.fixture(scope="module", autouse=True)
def prompts() -> Iterator[None]:
    """Golden prompts of the tiny model's ten tokens."""
    asked = {"one": [1, 2, 3], "two": [4] * 40}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(golden_prompts, "prompts", lambda _ranks: asked)
        yield


@pytest.fixture(scope="module")
def scene(prompts: None, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A machine with an engine of two ranks, built for real: compared, its golden prompts run."""
    made = furnish(tmp_path_factory.mktemp("ranks"), ranks=2)
    build(made.profile, made, made.state, made.steps(), store=None, record=golden.record)
    return made


def test_the_ranks_say_what_the_whole_model_says(scene: Scene) -> None:
    built = engine.verify(scene.engine)
    content = scene.state.report(built.name).read_bytes()
    compared = msgspec.json.decode(content, type=BuildReport).ranks
    assert compared
    assert compared.ranks == 2
    assert compared.positions == 2 * ranks.COMPARED_TOKENS
    assert compared.largest_difference < 1e-5
    assert [len(one.tokens) for one in built.golden] == [golden_prompts.MAX_TOKENS] * 2


def test_the_ranks_of_int8_weights_say_what_those_say_in_one_piece(tmp_path: Path) -> None:
    other = furnish(tmp_path, "int8", ranks=2)
    build(other.profile, other, other.state, other.steps(), store=None, record=other.record)
    content = other.state.report(other.profile.name).read_bytes()
    compared = msgspec.json.decode(content, type=BuildReport).ranks
    assert compared
    assert compared.largest_difference < 1e-5


def test_a_rank_with_other_numbers_is_refused_with_how_far_it_is(
    scene: Scene, tmp_path: Path
) -> None:
    built = engine.read(scene.engine)
    shutil.copytree(scene.engine, tmp_path / "other")
    path = tmp_path / "other" / "checkpoint" / RANK
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[:8], "little")
    place = json.loads(content[8 : 8 + size])["model.layers.0.mlp.experts.down_proj_scales"]
    begin, end = (8 + size + offset for offset in place["data_offsets"])
    content[begin:end] = bytes(min(byte + 3, 254) for byte in content[begin:end])
    path.write_bytes(content)
    with pytest.raises(BuildError, match="the logits of 2 ranks are off by") as caught:
        ranks.compare(tmp_path / "other", scene.origins, built)
    assert caught.value.exit_code is ExitCode.PRECISION


def test_a_rank_that_fails_is_named_and_nobody_waits_for_it(scene: Scene, tmp_path: Path) -> None:
    built = engine.read(scene.engine)
    shutil.copytree(scene.engine, tmp_path / "other")
    (tmp_path / "other" / "checkpoint" / RANK).unlink()
    with pytest.raises(BuildError, match=r"rank 1 of 2 failed: .*rank-00001") as caught:
        golden.check(tmp_path / "other", built)
    assert caught.value.exit_code is ExitCode.DATA


def test_the_service_refuses_an_engine_of_ranks_with_the_reason(scene: Scene) -> None:
    with pytest.raises(engine.EngineError, match="mesh is of more than one device"):
        EmbeddedRuntime.load(scene.engine)
