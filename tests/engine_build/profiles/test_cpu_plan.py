"""The plan of an engine on a CPU, held against what the runtime keeps."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine_build import fetch
from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import cpu_plan, profile
from engine_build.profiles.cpu_plan import CpuPlan
from engine_build.profiles.profile import Profile
from engine_build.weights.quantise import quantise
from serving.boundary.engine import Architecture, KvCache, Limits
from serving.engines.embedded.executor import Executor
from serving.engines.embedded.native import library
from serving.engines.embedded.native.forward_pass import NativePass
from serving.engines.embedded.native.model import MOST_UNPACKED_BYTES, load_native
from tests.engine_build.checkpoints import SMALL, make

CPU_PROFILES = ("gpt-oss-20b-cpu", "gpt-oss-120b-cpu")
# Whole panels of 64 outputs, so that no padding counts.
SHAPE = msgspec.structs.replace(
    SMALL,
    hidden_size=256,
    intermediate_size=320,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=32,
    vocab_size=1024,
    num_local_experts=64,
)
ARCHITECTURE = Architecture(
    **{name: getattr(SHAPE, name) for name in Architecture.__struct_fields__}
)


def made(wanted: Profile) -> CpuPlan:
    described = fetch.describe(wanted)
    return cpu_plan.make(wanted, fetch.architecture(described), 0)


def test_the_bound_is_the_runtime_s() -> None:
    assert cpu_plan.MOST_UNPACKED_BYTES == MOST_UNPACKED_BYTES


@pytest.mark.parametrize("weights", ["int8", "mxfp4"])
@pytest.mark.parametrize("most_unpacked_bytes", [0, MOST_UNPACKED_BYTES])
def test_weights_and_cache_are_what_the_runtime_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str, most_unpacked_bytes: int
) -> None:
    monkeypatch.setattr(cpu_plan, "MOST_UNPACKED_BYTES", most_unpacked_bytes)
    raw = profile.load("gpt-oss-20b-cpu").model_dump()
    raw["precision"]["weights"] = weights
    wanted = Profile.model_validate(raw)
    plan = cpu_plan.make(wanted, ARCHITECTURE, 0)
    directory = tmp_path / "published"
    make(directory, SHAPE)
    if weights == "int8":
        quantise(directory, tmp_path / "int8", weights, "source", workers=1)
        config = (directory / "config.json").read_bytes()
        directory = tmp_path / "int8"
        (directory / "config.json").write_bytes(config)
    model = load_native(
        directory,
        block_tokens=wanted.kv_cache.block_tokens,
        library=library.load(library.default_cache()),
        most_unpacked_bytes=most_unpacked_bytes,
    )
    kept_bytes = sum(tensor.nbytes for tensor in model.kept) - plan.embeddings
    assert plan.attention + plan.experts + plan.head == pytest.approx(kept_bytes, rel=0.01)
    caches: list[NativePass] = []

    def open_pass(full_blocks: int, sliding_blocks: int) -> NativePass:
        caches.append(NativePass(model, full_blocks, sliding_blocks))
        return caches[-1]

    limits, held = Limits(**wanted.limits.model_dump()), KvCache(**wanted.kv_cache.model_dump())
    Executor(model, open_pass, limits, held)
    assert plan.kv_cache == pytest.approx(
        sum(cache.nbytes for cache in caches[0]._caches), rel=0.01
    )
    tokens = wanted.limits.max_num_tokens
    room_bytes = model.library.room_bytes(model.structs, tokens, 2)
    logits = wanted.limits.max_batch_size * SHAPE.vocab_size * 4 * cpu_plan.LOGIT_COPIES
    assert plan.step - logits == pytest.approx(room_bytes, rel=0.1)


@pytest.mark.parametrize(("name", "memory_gb"), [("20b", 13.1), ("120b", 65.5)])
def test_the_shipped_profiles_need_so_much(name: str, memory_gb: float) -> None:
    plan = made(profile.load(f"gpt-oss-{name}-cpu"))
    assert plan.memory / 1e9 == pytest.approx(memory_gb, abs=0.1)
    assert any("memory" in line and "together" in line for line in cpu_plan.lines(plan, 0))
    assert plan.needs_compiler


def test_in_float32_everything_is_held_unpacked() -> None:
    raw = profile.load("gpt-oss-20b-cpu").model_dump()
    raw["precision"]["activations"] = "float32"
    plan = made(Profile.model_validate(raw))
    assert plan.memory > 80e9
    assert not plan.needs_compiler


def test_rank_files_are_not_planned() -> None:
    with pytest.raises(BuildError, match="planned for one process") as caught:
        made(profile.load("development-2ranks"))
    assert caught.value.exit_code is ExitCode.CONFIGURATION
