"""Rank files: put together they are the checkpoint, bit for bit."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open

from engine_build import durable
from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import architecture_bytes
from engine_build.weights import inventory, layout, quantise, shard, tensors
from engine_build.weights.tensor_file import Bytes, Spec, open_file
from model_assets import manifest
from model_assets.development.shape import Shape
from serving.boundary.engine import Architecture, Mesh
from serving.engines.embedded.place import Place
from tests.engine_build.checkpoints import SMALL, make

MESHES = [(1, 1), (2, 2), (2, 1), (4, 4), (4, 2), (4, 1), (8, 4), (8, 2)]


def cut(
    source: Path, target: Path, mesh: tuple[int, int], sizes: Shape = SMALL
) -> shard.ShardingReport:
    tensor_parallel, expert_parallel = mesh
    return shard.shard(
        source,
        target,
        sizes,
        "made for a test",
        tensor_parallel=tensor_parallel,
        expert_parallel=expert_parallel,
        workers=2,
    )


def join(name: str, parts: list[Bytes], ranks: list[Place], spec: Spec, sizes: Shape) -> Bytes:
    """Returns the whole tensor of all ranks' parts, in bytes (*shape, bytes of an item).

    Raises ValueError when ranks that hold the same bytes differ, or some byte is on no rank.
    """
    item = parts[0].shape[-1]
    whole: Bytes = np.zeros((*spec.shape, item), np.uint8)
    known: NDArray[np.bool_] = np.zeros(spec.shape, np.bool_)
    for part, place in zip(parts, ranks, strict=True):
        where = layout.cut(name, place, sizes)
        if not np.array_equal(whole[where][known[where]], part[known[where]]):
            raise ValueError(f"{name}: ranks hold different bytes of the same part")
        whole[where] = part
        known[where] = True
    if not known.all():
        raise ValueError(f"{name}: a part of it is on no rank")
    return whole


@pytest.mark.parametrize("mesh", MESHES, ids=lambda mesh: f"tp{mesh[0]}-ep{mesh[1]}")
def test_all_ranks_together_are_the_checkpoint(tmp_path: Path, mesh: tuple[int, int]) -> None:
    held = make(tmp_path / "c")
    report = cut(tmp_path / "c", tmp_path / "r", mesh)
    ranks = layout.places(*mesh)
    parts: dict[str, list[bytes]] = {name: [] for name in held}
    specs = inventory.checkpoint(SMALL)
    for name, spec in specs.items():
        arrays = []
        for place in ranks:
            with open_file(tmp_path / "r" / shard.file_name(place)) as file:
                arrays.append(file.raw(name).copy())
        whole = join(name, arrays, ranks, spec, SMALL)
        assert whole.tobytes() == held[name].tobytes(), name
        parts[name] = [array.tobytes() for array in arrays]
    assert list(report.files) == [shard.file_name(place) for place in ranks]
    for name in specs:
        if name.endswith(("layernorm.weight", "router.weight", "router.bias", "o_proj.bias")):
            assert set(parts[name]) == {held[name].tobytes()}


def test_quantised_checkpoints_are_cut_too(tmp_path: Path) -> None:
    make(tmp_path / "c")
    for precision in ("fp8", "int8"):
        changed = tmp_path / precision
        quantise.quantise(tmp_path / "c", changed, precision, "c", workers=1)
        cut(changed, tmp_path / f"{precision}-ranks", (2, 2))
        ranks = layout.places(2, 2)
        with tensors.open_checkpoint(changed) as opened:
            for name, spec in opened.specs.items():
                arrays = []
                for place in ranks:
                    path = tmp_path / f"{precision}-ranks" / shard.file_name(place)
                    with open_file(path) as file:
                        arrays.append(file.raw(name).copy())
                whole = join(name, arrays, ranks, spec, SMALL)
                assert whole.tobytes() == opened.raw(name).tobytes()


def test_an_expert_in_fp8_is_not_cut(tmp_path: Path) -> None:
    make(tmp_path / "c")
    quantise.quantise(tmp_path / "c", tmp_path / "q", "fp8", "c", workers=1)
    with pytest.raises(BuildError, match="FP8 experts are not cut") as info:
        cut(tmp_path / "q", tmp_path / "r", (4, 2))
    assert info.value.exit_code is ExitCode.CONFIGURATION
    assert not list((tmp_path / "r").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("mesh", "words"),
    [
        ((4, 3), r"expert_parallel = 3 does not divide mesh\.tensor_parallel = 4"),
        ((8, 8), "expert_parallel = 8 does not divide 4 experts"),
        ((3, 1), "tensor_parallel = 3 does not divide 8 attention heads"),
        ((8, 1), "leaves a rank none of 5 blocks"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(
    tmp_path: Path, mesh: tuple[int, int], words: str
) -> None:
    with pytest.raises(BuildError, match=words) as info:
        cut(tmp_path / "none", tmp_path / "r", mesh)
    assert info.value.exit_code is ExitCode.CONFIGURATION


def test_a_checkpoint_of_another_model_is_not_cut(tmp_path: Path) -> None:
    make(tmp_path / "c")
    other = msgspec.structs.replace(SMALL, num_local_experts=8)
    with pytest.raises(BuildError, match=r"config\.json: num_local_experts is 4"):
        cut(tmp_path / "c", tmp_path / "r", (2, 2), other)


def test_kv_heads_that_the_ranks_do_not_share_evenly_are_refused() -> None:
    odd = msgspec.structs.replace(SMALL, num_attention_heads=12, num_key_value_heads=6)
    with pytest.raises(BuildError, match="4 and 6 KV heads"):
        layout.check(odd, 4, 1)


def test_a_cut_expert_has_the_same_inner_part_in_both_matrices() -> None:
    """Rows of gate_up are pairs of what becomes a column of down."""
    for place in layout.places(4, 1):
        prefix = "model.layers.0.mlp.experts."
        rows = layout.cut(prefix + "gate_up_proj_blocks", place, SMALL)[1]
        columns = layout.cut(prefix + "down_proj_blocks", place, SMALL)[2]
        assert (rows.start, rows.stop) == (64 * columns.start, 64 * columns.stop)
        assert layout.cut(prefix + "gate_up_proj_bias", place, SMALL)[1] == rows


@pytest.mark.parametrize("mesh", [(2, 2), (4, 4), (8, 8), (4, 2), (8, 4)])
def test_a_rank_weighs_what_the_plan_says(mesh: tuple[int, int]) -> None:
    shape = manifest.read("gpt-oss-120b").architecture
    names = Architecture.__struct_fields__
    architecture = Architecture(**{name: getattr(shape, name) for name in names})
    planned = architecture_bytes.weights(
        architecture, Mesh(tensor_parallel=mesh[0], expert_parallel=mesh[1])
    )
    specs = inventory.checkpoint(shape)
    heaviest = max(
        sum(spec.size_bytes for spec in layout.rank_specs(specs, place, shape).values())
        for place in layout.places(*mesh)
    )
    assert planned.total == pytest.approx(heaviest, rel=0.002)


def test_a_rank_that_differs_or_is_missing_is_noticed(tmp_path: Path) -> None:
    held = make(tmp_path / "c")
    name = "model.norm.weight"
    spec = inventory.checkpoint(SMALL)[name]
    part = held[name].reshape(64, 2)
    other = part.copy()
    other[3] += 1
    with pytest.raises(ValueError, match="different bytes"):
        join(name, [part, other], layout.places(2, 2), spec, SMALL)
    table = held["lm_head.weight"].reshape(101, 64, 2)[:50]
    tables = inventory.checkpoint(SMALL)["lm_head.weight"]
    with pytest.raises(ValueError, match="on no rank"):
        join("lm_head.weight", [table], layout.places(2, 2)[:1], tables, SMALL)


def test_a_rank_file_says_which_rank_it_is_for(tmp_path: Path) -> None:
    make(tmp_path / "c")
    report = cut(tmp_path / "c", tmp_path / "r", (4, 2))
    for rank, name in enumerate(report.files):
        with safe_open(tmp_path / "r" / name, framework="np") as file:
            assert file.metadata() == {
                "rank": str(rank),
                "tensor_parallel": "4",
                "expert_parallel": "2",
            }


def test_a_cut_that_is_run_again_gives_the_same_files(tmp_path: Path) -> None:
    make(tmp_path / "c")
    first = cut(tmp_path / "c", tmp_path / "r", (2, 2))
    for name, sha256 in first.files.items():
        assert durable.sha256(tmp_path / "r" / name) == sha256
    names = {path.name for path in (tmp_path / "r").glob("[!.]*")}
    assert names == {*first.files, shard.REPORT_NAME, tensors.CONFIG_NAME}
    (tmp_path / "r" / shard.file_name(Place(2, 2, 1))).unlink()
    assert cut(tmp_path / "c", tmp_path / "r", (2, 2)) == first
