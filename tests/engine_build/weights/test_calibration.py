"""What comes to the experts, and the prompts that it is measured with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from benchmarks.synthetic import generate
from engine_build import durable
from engine_build.failure import BuildError, ExitCode
from engine_build.fetch import RANKS
from engine_build.weights import calibration
from engine_build.weights.calibration import Calibration
from model_assets.development.shape import Shape
from serving.boundary import engine
from serving.boundary.engine import RANKS_PATH, Mesh
from serving.engines.embedded.experts import SwiGlu
from serving.engines.embedded.kv_store import KvStore
from serving.engines.embedded.loading import load_model
from serving.engines.embedded.model import Model, Norm
from serving.engines.embedded.plan import Planner, Span
from serving.harmony.vocabulary import Vocabulary
from tests.engine_build.checkpoints import SMALL
from tests.engine_build.scene import Scene

# BentoML 1.4.39 makes its patterns in a way that pathspec warns of.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

CPU = torch.device("cpu")
GATE_UP = "model.layers.{}.mlp.experts.gate_up_proj"


def test_the_set_renders_to_distinct_prompts_of_many_kinds() -> None:
    prompts = calibration.prompts(Vocabulary.load(RANKS))
    assert len(prompts) >= 24
    assert len({tuple(tokens) for tokens in prompts.values()}) == len(prompts)
    assert len({token for tokens in prompts.values() for token in tokens}) > 500


def test_what_the_clamp_bounds_needs_no_measurement() -> None:
    grid = torch.linspace(-60, 60, 401)
    gates, ups = torch.meshgrid(grid, grid, indexing="ij")
    rows = torch.stack((gates.flatten(), ups.flatten()), dim=-1)
    assert 55.9 < float(SwiGlu(1.702, 7.0)(rows).abs().max()) <= 56.0


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    shape: Shape = msgspec.structs.replace(SMALL, sliding_window=16)
    generate(shape, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def _inputs(model: Model, tokens: list[int]) -> list[float]:
    """Returns what each layer's experts see, one token at a time."""
    largest = [0.0] * len(model.layers)
    for index, layer in enumerate(model.layers):

        def watched(
            x: torch.Tensor, dtype: torch.dtype, index: int = index, norm: Norm = layer.experts_norm
        ) -> torch.Tensor:
            out = norm(x, dtype)
            largest[index] = max(largest[index], float(out.abs().max()))
            return out

        object.__setattr__(layer, "experts_norm", watched)
    store = KvStore((8,) * len(model.layers), model.sizes, model.dtype, CPU)
    planner = Planner(model.sizes, 8, 8, model.dtype, CPU)
    table = np.arange(1, 8)
    with torch.inference_mode():
        for position, token in enumerate(tokens):
            span = Span(np.array([token]), position, table, table, samples=True)
            model.forward(planner.plan([span]), store)
    return largest


def test_every_token_is_seen_in_every_layer(checkpoint: Path) -> None:
    tokens = [(7 * index) % SMALL.vocab_size for index in range(40)]
    model = load_model(checkpoint, block_tokens=32, dtype=torch.float32, device=CPU)
    expected = _inputs(model, tokens)
    model = load_model(checkpoint, block_tokens=32, dtype=torch.float32, device=CPU)
    for _ in range(2):
        found = dict(calibration.magnitudes(model, tokens))
        assert list(found) == [GATE_UP.format(layer) for layer in range(SMALL.num_hidden_layers)]
        assert list(found.values()) == pytest.approx(expected, rel=1e-3)
    assert dict(calibration.magnitudes(model, tokens[:1])) != found


def test_the_command_writes_what_it_measured_beside_the_engine(
    scene: Scene,
    run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = {"one": [1, 2, 3], "two": [4] * 40}
    monkeypatch.setattr(calibration, "prompts", lambda _vocabulary: asked)
    ranks = scene.engine / RANKS_PATH
    ranks.parent.mkdir()
    ranks.symlink_to(RANKS)
    assert run("calibrate", "gpt-oss-development") == 0
    assert "in 2 prompts of 43 tokens" in capsys.readouterr().out
    path = scene.state.calibration("gpt-oss-development")
    found = msgspec.json.decode(path.read_bytes(), type=Calibration)
    assert list(found.largest) == [GATE_UP.format(0)]
    assert min(found.largest.values()) > 0
    assert found.calibration_sha256 == durable.sha256(calibration.SET)


def test_the_largest_of_all_prompts_counts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = scene.engine / RANKS_PATH
    ranks.parent.mkdir()
    ranks.symlink_to(RANKS)
    told = {1: 4.0, 2: 10.0, 3: 7.0}
    asked = {"one": [1], "two": [2], "three": [3]}
    monkeypatch.setattr(calibration, "prompts", lambda _vocabulary: asked)
    monkeypatch.setattr(
        calibration, "magnitudes", lambda _model, tokens: [("layer", told[tokens[0]])]
    )
    built = engine.read(scene.engine)
    assert calibration.calibrate(scene.engine, built).largest == {"layer": 10.0}
    told[3] = float("nan")
    with pytest.raises(BuildError, match="layer: not a finite number at prompt three") as info:
        calibration.calibrate(scene.engine, built)
    assert info.value.exit_code is ExitCode.DATA


def test_rank_files_are_not_calibrated(scene: Scene) -> None:
    built = engine.read(scene.engine)
    cut = msgspec.structs.replace(built, mesh=Mesh(tensor_parallel=2, expert_parallel=2))
    with pytest.raises(BuildError, match="is cut into 2 rank files") as info:
        calibration.calibrate(scene.engine, cut)
    assert info.value.exit_code is ExitCode.CONFIGURATION


def test_a_checkpoint_that_does_not_load_is_named(scene: Scene) -> None:
    built = engine.read(scene.engine)
    with pytest.raises(BuildError, match=r"o200k_base\.tiktoken\.xz") as info:
        calibration.calibrate(scene.engine, built)
    assert info.value.exit_code is ExitCode.DATA
