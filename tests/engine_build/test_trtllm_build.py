"""The GPU profile, built over TensorRT-LLM's contract double: gate, fallback, manifest, tuning.

What it shows is the build's side. No figure of it says anything of a GPU.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from engine_build import tune
from engine_build.build import build
from engine_build.proof import gate, golden_prompts, known_answers, probe, questions
from engine_build.proof.probe import Batch
from engine_build.resolve import resolve
from serving.boundary import engine
from serving.boundary.engine import Engine, Precision
from tests.engine_build.scene import Scene, furnish

DOUBLES = Path(__file__).parents[1] / "doubles"
TORCH = """
class cuda:
    device_count = staticmethod(lambda: 2)
    get_device_name = staticmethod(lambda index: "NVIDIA H100 80GB HBM3")
"""


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A machine whose engine processes find the double, and two GPUs."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "torch.py").write_text(TORCH)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(packages), str(DOUBLES)]))
    monkeypatch.setattr(questions, "prompts", lambda _ranks: {"one": [3, 0, 1]})
    monkeypatch.setattr(golden_prompts, "prompts", lambda _ranks: {"greeting": [3, 0, 1]})
    monkeypatch.setattr(known_answers, "known_tokens", lambda _ranks: [])
    made = furnish(tmp_path / "scene")
    made.runtime_version = "1.4.0rc4"
    made.architecture = msgspec.structs.replace(made.architecture, vocab_size=201_088)
    return made


def make(scene: Scene) -> Engine:
    """Builds the GPU profile with its gate."""
    resolved = resolve("gpt-oss-120b-2xh100", None)
    return build(
        resolved.profile,
        scene,
        scene.state,
        scene.steps(),
        store=None,
        record=scene.record,
        gate=resolved.gate,
    ).engine


def test_what_agrees_is_built_as_asked_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "TOKENS_A_QUESTION", 1)
    built = make(scene)
    assert built.precision == Precision(weights="mxfp4", activations="fp8", kv_cache="fp8")
    assert built.arguments["env_overrides"]["OVERRIDE_QUANT_ALGO"] == "W4A8_MXFP4_FP8"
    assert built.gate
    (found,) = built.gate.comparisons
    assert found.passed
    assert found.divergence == 0.0
    assert built.gate.reference.activations == "bf16"


def test_what_does_not_agree_falls_back_with_the_arguments_of_the_fallback(scene: Scene) -> None:
    # What the double says depends on where the prompt ends, as no model's answer does.
    built = make(scene)
    assert built.precision == Precision(weights="mxfp4", activations="bf16", kv_cache="auto")
    assert "OVERRIDE_QUANT_ALGO" not in built.arguments["env_overrides"]
    assert built.arguments["kv_cache_config"]["dtype"] == "auto"
    assert built.gate
    tried = [(one.precision.activations, one.precision.kv_cache) for one in built.gate.comparisons]
    assert tried == [("fp8", "fp8"), ("bf16", "fp8"), ("fp8", "auto")]
    for found in built.gate.comparisons:
        assert not found.passed
        assert found.positions == 4
        assert found.agreement == 0.25
    assert engine.verify(scene.state.engine(built.name)) == built


def test_tuning_keeps_the_caches_below_the_engine(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "TOKENS_A_QUESTION", 1)
    monkeypatch.setattr(tune, "shapes", lambda _built: [Batch(2, 16), Batch(1, 32)])
    monkeypatch.setattr(probe, "_ORDINARY", 100_000)  # the double takes some ids for faults
    built = make(scene)
    directory = scene.state.engine(built.name)
    assert not (directory / "cache").exists()
    report = tune.tune(directory, compare=True, note=lambda _line: None)
    # The autotuner writes a file and makes no directory; the runtime makes it when it starts.
    assert (directory / "cache" / "autotuner").is_dir()
    assert report.runtime == "trtllm"
    assert len(report.first.timings) == 2
    assert engine.verify(directory) == built
