"""Checkpoints in every precision that the engine build writes, read as it writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine_build.weights.quantise import quantise
from serving.engines.embedded.checkpoint import CheckpointError, open_tensors, read_config
from serving.engines.embedded.opening import open_model
from serving.engines.embedded.plan import Span
from serving.engines.embedded.weights import Affine, Int8, LayerWeights, Weights, plain

Convert = Callable[[str], tuple[Path, Path]]
CPU = torch.device("cpu")
TOKENS = np.random.default_rng(0).integers(0, 300, 60)


@pytest.fixture
def convert(write_checkpoint: Callable[..., Path], shape: Any, tmp_path: Path) -> Convert:
    """Returns the directories of a checkpoint and of its copy in another precision."""

    def convert(precision: str) -> tuple[Path, Path]:
        source = write_checkpoint(
            # Two tiles of 128 by 128 weights and a part of a third, down and across.
            shape(dtype=torch.bfloat16, hidden=160, intermediate=160, experts=3, per_token=3)
        )
        quantise(source, tmp_path / precision, precision, "source", workers=1)
        return source, tmp_path / precision

    return convert


def logits(directory: Path, dtype: torch.dtype) -> torch.Tensor:
    """Returns float32 (vocab,) after a prompt."""
    _, open_pass = open_model(directory, block_tokens=16, dtype=dtype, device=CPU)
    table = np.arange(2, 8)
    with torch.inference_mode():
        _, found = open_pass(8, 8).run([Span(TOKENS, 0, table, table, samples=True)])
    return found[0].float()


def read(directory: Path) -> tuple[LayerWeights, tuple[Affine, Affine], torch.Tensor]:
    """Returns the second layer, its experts, and the LM head, in float32."""
    config = read_config(directory)
    weights = Weights(config, open_tensors(directory), torch.float32, CPU)
    return weights.layer(1), weights.experts(1), plain(weights.head(), torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_fp8_experts_give_the_bits_of_mxfp4(convert: Convert, dtype: torch.dtype) -> None:
    source, converted = convert("fp8")
    assert torch.equal(logits(source, dtype), logits(converted, dtype))


def test_int8_matrices_are_within_half_a_step(convert: Convert) -> None:
    """A step is 1/127 of the largest of a row; float32 adds its own rounding."""
    (exact, experts, exact_head), (found, same, found_head) = map(read, convert("int8"))
    for name in ("qkv", "out"):
        before, after = (getattr(layer, name) for layer in (exact, found))
        assert isinstance(after.weight, Int8)
        assert_half_a_step(before.weight, plain(after.weight, torch.float32))
        assert torch.equal(before.bias, after.bias)
    assert_half_a_step(exact_head, found_head)
    before, after = exact.router.weight, found.router.weight
    assert isinstance(before, torch.Tensor)
    assert isinstance(after, torch.Tensor)
    assert torch.equal(before, after)
    for before, after in zip(experts, same, strict=True):
        assert torch.equal(before.weight, after.weight)


def assert_half_a_step(exact: torch.Tensor, found: torch.Tensor) -> None:
    step = exact.abs().amax(1, keepdim=True) / 127
    assert ((found - exact).abs() <= 0.5001 * step).all()
    assert not torch.equal(found, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_int8_logits_stay_near(convert: Convert, dtype: torch.dtype) -> None:
    source, converted = convert("int8")
    exact = logits(source, torch.float32)
    deviation = (logits(converted, dtype) - exact).pow(2).mean().sqrt() / exact.std()
    assert 0 < deviation < 0.15


@pytest.mark.parametrize(
    ("precision", "name", "dtype", "message"),
    [
        ("int8", "lm_head.weight_values", torch.uint8, "lm_head.weight_values is of type"),
        ("int8", "lm_head.weight_scales", torch.float64, "lm_head.weight_scales is of type"),
        (
            "fp8",
            "model.layers.0.mlp.experts.down_proj_values",
            torch.uint8,
            r"down_proj_values is of type torch.uint8, not torch.float8_e4m3fn",
        ),
        (
            "mxfp4",
            "model.layers.0.mlp.experts.down_proj_scales",
            torch.int8,
            "down_proj_scales is of type torch.int8",
        ),
    ],
)
def test_a_tensor_of_another_type_is_named(
    convert: Convert, precision: str, name: str, dtype: torch.dtype, message: str
) -> None:
    _, directory = convert(precision)
    replace(directory, name, lambda tensor: tensor.to(dtype))
    with pytest.raises(CheckpointError, match=message):
        logits(directory, torch.float32)


def test_a_code_without_a_counterpart_is_named(convert: Convert) -> None:
    """-128 has no magnitude of seven bits, and no conversion makes it."""
    _, directory = convert("int8")
    replace(directory, "lm_head.weight_values", lambda tensor: tensor.fill_(-128))
    with pytest.raises(CheckpointError, match=r"lm_head.weight_values has codes below -127"):
        logits(directory, torch.float32)


def test_projections_of_several_forms_are_one_plain_matrix(convert: Convert) -> None:
    """Queries plain, keys and values in INT8."""
    source, directory = convert("int8")
    exact, coded = (read(path)[0].qkv.weight for path in (source, directory))
    name = "model.layers.1.self_attn.q_proj.weight"
    queries = load_file(source / "model.safetensors")[name]
    (path,) = (path for path in directory.glob("*") if holds(path, name + "_values"))
    tensors = load_file(path)
    del tensors[name + "_values"], tensors[name + "_scales"]
    save_file(tensors | {name: queries}, path)
    found = read(directory)[0].qkv.weight
    assert isinstance(found, torch.Tensor)
    rows = len(queries)
    assert torch.equal(found[:rows], plain(exact, torch.float32)[:rows])
    assert torch.equal(found[rows:], plain(coded, torch.float32)[rows:])


def test_scales_of_too_few_tiles_are_named(convert: Convert) -> None:
    _, directory = convert("fp8")
    name = "model.layers.1.mlp.experts.gate_up_proj_tile_scales"
    replace(directory, name, lambda tensor: tensor[:, :1].contiguous())
    with pytest.raises(CheckpointError, match=r"gate_up_proj_tile_scales has shape \(3, 1, 2\)"):
        logits(directory, torch.float32)


def replace(directory: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Rewrites the file that holds a tensor."""
    (path,) = (path for path in directory.glob("*") if holds(path, name))
    tensors = load_file(path)
    tensors[name] = change(tensors[name])
    save_file(tensors, path)


def holds(path: Path, name: str) -> bool:
    return path.suffix == ".safetensors" and name in load_file(path)
