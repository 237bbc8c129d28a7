"""The precision gate: what passes, what falls back, what is refused, and with which numbers."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from engine_build import assemble, manifest
from engine_build.assemble import PlannedFile
from engine_build.build import build
from engine_build.failure import BuildError, ExitCode
from engine_build.fetch import RANKS, CompactCheckpoint, choose
from engine_build.place import State
from engine_build.profiles.profile import GateLimits, Precision, load
from engine_build.proof import gate, golden, golden_prompts, known_answers, probe, questions
from engine_build.proof.probe import Answer, Question
from engine_build.report import BuildReport
from engine_build.resolve import resolve
from engine_build.weights import contents
from serving.boundary import engine
from serving.boundary.engine import Engine, Golden
from tests.engine_build.proof.pretended import (
    HALF,
    LIMITS,
    QUARTER,
    WHOLE,
    Pretended,
    run,
    short_gate,
)
from tests.engine_build.scene import Scene, furnish


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return short_gate(tmp_path, monkeypatch)


def test_an_engine_like_its_reference_passes_and_says_so(scene: Scene) -> None:
    pretended = Pretended({WHOLE: 7, HALF: 7}, {WHOLE: 0.9, HALF: 0.8})
    built = run(scene, pretended)
    assert built.gate
    (found,) = built.gate.comparisons
    assert found.passed
    assert found.positions == 2 * gate.TOKENS_A_QUESTION
    assert found.agreement == 1.0
    assert found.divergence == pytest.approx(0.9 * math.log(9 / 8) + 0.1 * math.log(0.5), abs=1e-6)
    assert built.gate.reference.activations == WHOLE
    assert engine.verify(scene.engine) == built
    # Two engines were started: the one that passed has answered the golden prompts as well.
    assert pretended.asked == [WHOLE, HALF]
    assert not scene.recorded
    assert [(one.name, set(one.tokens)) for one in built.golden] == [("greeting", {7})]
    report = msgspec.json.decode(scene.state.report(built.name).read_bytes(), type=BuildReport)
    assert report.gate == built.gate


def test_other_tokens_are_refused_with_the_numbers_and_no_engine_is_left(scene: Scene) -> None:
    with pytest.raises(BuildError) as caught:
        run(scene, Pretended({WHOLE: 7, HALF: 8}))
    assert caught.value.exit_code is ExitCode.PRECISION
    assert "bfloat16, KV cache auto: 0.0% of 96 tokens equal" in caught.value.message
    assert "at least 90.0% equal tokens, at most 0.1 nats, and at most 2.0%" in caught.value.message
    assert "gate.fallback" in caught.value.advice
    assert not scene.engine.exists()


def test_equal_tokens_of_another_distribution_are_refused(scene: Scene) -> None:
    with pytest.raises(BuildError, match=r"100\.0% of 96 tokens equal, divergence 1\.\d+ nats"):
        run(scene, Pretended({WHOLE: 7, HALF: 7}, {WHOLE: 0.9, HALF: 0.1}))


def test_a_fallback_is_built_where_the_profile_allows_it(scene: Scene) -> None:
    pretended = Pretended({WHOLE: 7, HALF: 8})
    built = run(scene, pretended, fallback=WHOLE)
    assert built.precision.activations == WHOLE
    assert built.gate
    assert [(one.precision.activations, one.passed) for one in built.gate.comparisons] == [
        (HALF, False)
    ]
    assert pretended.asked == [WHOLE, HALF]  # the reference needs no comparison with itself
    assert engine.read(scene.engine) == built


def test_a_fallback_that_is_not_the_reference_is_compared_too(scene: Scene) -> None:
    built = run(scene, Pretended({WHOLE: 7, HALF: 8, QUARTER: 7}), fallback=QUARTER)
    assert built.gate
    assert [one.passed for one in built.gate.comparisons] == [False, True]


def test_a_fallback_that_does_not_pass_is_refused_with_both(scene: Scene) -> None:
    with pytest.raises(BuildError, match=r"bfloat16.*; .*float8"):
        run(scene, Pretended({WHOLE: 7, HALF: 8, QUARTER: 9}), fallback=QUARTER)


def test_a_fallback_to_the_published_weights_holds_the_published_files(scene: Scene) -> None:
    scene.weights = "fp8"
    published = scene.profile.model_copy(
        update={"precision": Precision(weights="mxfp4", activations="auto")}
    )

    def ask(directory: Path, wanted: Sequence[Question]) -> list[Answer]:
        token = 7 if engine.read(directory).precision.weights == "mxfp4" else 8
        # Both directories hold what their manifest says.
        contents.check(directory, engine.read(directory))
        return [Answer((token,) * one.max_tokens) for one in wanted]

    built = build(
        scene.profile,
        scene,
        scene.state,
        scene.steps(),
        store=None,
        record=scene.record,
        gate=gate.PrecisionGate(
            limits=LIMITS, reference=published, fallbacks=(published,), ask=ask
        ),
    ).engine
    assert built.precision.weights == "mxfp4"
    assert built.gate
    (found,) = built.gate.comparisons
    assert (found.precision.weights, found.passed) == ("fp8", False)
    assert engine.verify(scene.engine) == built
    contents.check(scene.engine, built)
    held = {path.name for path in (scene.engine / "checkpoint").iterdir()}
    assert held == {path.name for path in scene.origins.iterdir()}
    # The fallback has the reference's precision, so it was not asked; its golden prompts ran.
    assert built.golden[0].tokens == (3,)


def test_a_failed_gate_leaves_the_engine_of_before(scene: Scene) -> None:
    before = scene.build(publish=False).engine
    with pytest.raises(BuildError):
        run(scene, Pretended({WHOLE: 7, HALF: 8}))
    assert engine.verify(scene.engine) == before


def test_an_engine_without_a_gate_has_the_digest_that_it_always_had(scene: Scene) -> None:
    built = scene.build(publish=False).engine
    assert b'"gate"' not in (scene.engine / engine.MANIFEST_NAME).read_bytes()
    assert built.gate is msgspec.UNSET


def test_an_unknown_number_is_no_pass() -> None:
    precision = engine.Precision(weights="a", activations="b", kv_cache="c")
    places = [gate.Position((1,), 2, {2: math.log(0.9)})]
    with pytest.raises(BuildError, match="not a number"):
        gate.compare(precision, places, [Answer((2,), ({2: math.nan},))], LIMITS)
    with pytest.raises(BuildError, match="answered none"):
        gate.compare(precision, [], [], LIMITS)


def test_the_gpu_profile_compares_fp8_with_bf16_and_falls_back_to_it() -> None:
    resolved = resolve("gpt-oss-120b-2xh100", None)
    assert resolved.profile.precision.activations == "fp8"
    assert resolved.profile.arguments["env_overrides"]["OVERRIDE_QUANT_ALGO"] == "W4A8_MXFP4_FP8"
    assert resolved.gate
    *apart, both = resolved.gate.fallbacks
    assert [(one.precision.activations, one.precision.kv_cache) for one in apart] == [
        ("bf16", "fp8"),
        ("fp8", "auto"),
    ]
    for other in (resolved.gate.reference, both):
        assert other.precision == Precision(weights="mxfp4", activations="bf16", kv_cache="auto")
        assert "OVERRIDE_QUANT_ALGO" not in other.arguments["env_overrides"]
        assert other.arguments["kv_cache_config"]["dtype"] == "auto"
        assert other.mesh == resolved.profile.mesh


def test_quality_asks_for_bf16_throughout_and_compares_nothing() -> None:
    resolved = resolve("gpt-oss-120b-2xh100", "quality")
    assert resolved.gate
    assert resolved.gate.fallbacks == ()
    assert resolved.profile.precision == resolved.gate.reference.precision
    assert resolved.profile.precision == Precision(weights="mxfp4", activations="bf16")


@pytest.fixture
def few_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two questions and short answers, for engines that are run."""
    asked = questions.prompts(RANKS)
    few = {name: asked[name] for name in ("greeting", "sum")}
    monkeypatch.setattr(questions, "prompts", lambda _ranks: few)
    known = known_answers.known_tokens(RANKS)[:6]
    monkeypatch.setattr(known_answers, "known_tokens", lambda _ranks: known)
    monkeypatch.setattr(gate, "TOKENS_A_QUESTION", 12)


def run_shipped(name: str, tmp_path: Path) -> tuple[Engine, State]:
    """Builds a shipped profile of the development model, its gate's engines run for real."""
    wanted = load(name)
    source = choose(wanted, None, State(tmp_path))
    assert isinstance(source, CompactCheckpoint)
    scene = furnish(tmp_path)
    built = build(
        wanted,
        source,
        scene.state,
        scene.steps(),
        store=None,
        record=never,
        gate=resolve(name, None).gate,
    ).engine
    return built, scene.state


def never(_directory: Path, _built: Engine) -> tuple[Golden, ...]:
    raise AssertionError("what passes the gate has answered the golden prompts there")


@pytest.mark.usefixtures("few_questions")
def test_int8_weights_are_compared_with_the_published_ones(tmp_path: Path) -> None:
    built, state = run_shipped("development-int8", tmp_path)
    assert built.precision.weights == "int8"
    assert built.gate
    assert built.gate.reference.weights == "mxfp4"
    (found,) = built.gate.comparisons
    assert found.passed
    # Other numbers were compared, and near ones.
    assert found.largest_divergence
    assert found.largest_divergence < 0.01
    assert [one.name for one in built.golden] == list(golden_prompts.CONVERSATIONS)
    assert all(one.tokens for one in built.golden)
    golden.check(state.engine(built.name), built)
    assert not state.reference(built.name).exists()
    assert not state.conversion(built.name).exists()


@pytest.mark.usefixtures("few_questions")
def test_the_embedded_runtime_passes_and_a_broken_scale_does_not(tmp_path: Path) -> None:
    """The development model: bfloat16 passes against float32, one layer's experts times 16 not."""
    built, state = run_shipped("development-bf16", tmp_path)
    assert built.precision.activations == HALF
    assert built.gate
    assert built.gate.comparisons[0].passed

    directory = state.engine(built.name)
    limits = GateLimits(least_agreement=0.98, most_divergence=0.01)
    reference = msgspec.structs.replace(
        built, precision=msgspec.structs.replace(built.precision, activations=WHOLE), files=()
    )
    room = tmp_path / "reference"
    files = [PlannedFile(one.path, directory / one.path, one.size_bytes) for one in built.files]
    assemble.link(files, room)
    manifest.write(room, reference)
    places = gate.positions(room)
    break_scales(directory / "checkpoint", "model.layers.1.mlp.experts.down_proj_scales")
    told = probe.ask(directory, [Question(place.context) for place in places])
    found = gate.compare(built.precision, places, told, limits)
    assert not found.passed
    assert found.divergence
    assert found.divergence > 10 * limits.most_divergence


def break_scales(checkpoint: Path, name: str) -> None:
    """Makes a tensor of E8M0 scales 16 times as large, in place and the file as long as before."""
    for path in checkpoint.glob("*.safetensors"):
        content = bytearray(path.read_bytes())
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        if name not in header:
            continue
        begin, end = (8 + size + offset for offset in header[name]["data_offsets"])
        content[begin:end] = bytes(min(byte + 4, 254) for byte in content[begin:end])
        os.unlink(path)  # it may be a link
        path.write_bytes(content)
        return
    raise LookupError(name)
