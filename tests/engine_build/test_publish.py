"""What the model store is told of an engine."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml

from engine_build import publish
from engine_build.fetch import RANKS
from serving.boundary import engine
from serving.boundary.engine import Device, Engine, Model, Precision
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Repeat, Scenario, Script
from tests.engine_build.scene import Scene

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

REVISION = "b5c939de8f754692c1647ca79fbf85e8c1e70f8a"


@pytest.fixture
def built(tmp_path: Path) -> Engine:
    """An engine for GPUs."""
    script = Script(scenarios=(Scenario(steps=(Repeat(ids=(5,)),)),))
    replay_engine.write(tmp_path / "engine", script, ranks=RANKS)
    return msgspec.structs.replace(
        engine.read(tmp_path / "engine"),
        runtime="trtllm",
        device=Device(kind="NVIDIA H100 80GB HBM3", count=2),
        model=Model(
            name="openai/gpt-oss-120b", repository="openai/gpt-oss-120b", revision=REVISION
        ),
        precision=Precision(weights="mxfp4", activations="fp8", kv_cache="fp8"),
    )


def test_labels_say_for_which_gpus_in_which_precision_of_which_revision(built: Engine) -> None:
    assert publish.labels(built) == {
        "runtime": "trtllm",
        "device": "NVIDIA-H100-80GB-HBM3",
        "device_count": "2",
        "weights": "mxfp4",
        "activations": "fp8",
        "kv_cache": "fp8",
        "model": "openai-gpt-oss-120b",
        "revision": REVISION,
        "stand_in": "false",
    }


def test_the_entry_in_the_store_has_them(scene: Scene) -> None:
    found = publish.labels(engine.read(scene.engine))
    (entry,) = scene.store.glob("*/*/model.yaml")
    assert yaml.safe_load(entry.read_text(encoding="utf-8"))["labels"] == found
    assert all(len(value) <= 63 for value in found.values())
