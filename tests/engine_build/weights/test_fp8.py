"""FP8 from MXFP4: torch's own casts are the oracle, and the proof counts what they do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine_build.weights import fp8
from serving.engines.embedded.mxfp4 import dequantise

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def draw(rows: int, blocks: int, lowest: int, highest: int, seed: int = 0) -> Arrays:
    """Returns random blocks and scales from `lowest` to `highest`."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 256, (rows, blocks, 16), dtype=np.uint8)
    scales = random.integers(lowest, highest + 1, (rows, blocks), dtype=np.uint8)
    return codes, scales


def exact(blocks: NDArray[np.uint8], scales: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns the MXFP4 weights (rows, columns)."""
    values = dequantise(
        torch.from_numpy(blocks)[None], torch.from_numpy(scales)[None], torch.float64
    )
    found: NDArray[np.float64] = values[0].numpy()
    return found


def spread(exponents: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Returns the scale of each weight."""
    whole = np.repeat(np.repeat(fp8.scale(exponents), 128, axis=0), 128, axis=1)
    return whole[: shape[0], : shape[1]].astype(np.float64)


def decode(codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = (
        torch.from_numpy(codes).view(torch.float8_e4m3fn).to(torch.float64).numpy()
    )
    return found


def test_the_values_of_e4m3_are_torchs() -> None:
    codes = np.arange(127, dtype=np.uint8)
    assert np.array_equal(fp8.e4m3_values(), decode(codes))
    assert fp8.e4m3_values()[-1] == fp8.LARGEST


@pytest.mark.parametrize(("rows", "blocks"), [(128, 4), (200, 6), (5, 1), (256, 9)])
def test_fifteen_exponents_convert_exactly(rows: int, blocks: int) -> None:
    codes, scales = draw(rows, blocks, 110, 124)
    exponents = fp8.tile_exponents(codes, scales)
    assert exponents.shape == (-(-rows // 128), -(-blocks // 4))
    found, proof = fp8.convert(codes, scales, exponents)
    weights = exact(codes, scales)
    assert np.array_equal(decode(found) * spread(exponents, weights.shape), weights)
    assert proof == fp8.Fp8Findings(blocks=rows * blocks, exact_blocks=rows * blocks)


def test_the_sign_of_zero_is_kept() -> None:
    codes, scales = np.full((1, 1, 16), 0x80, np.uint8), np.full((1, 1), 127, np.uint8)
    found, _ = fp8.convert(codes, scales, fp8.tile_exponents(codes, scales))
    assert found.tolist() == [[0x00, 0x80] * 16]


def test_sixteen_exponents_do_not_and_the_proof_says_how_far_off() -> None:
    codes, scales = draw(128, 4, 104, 124)
    scales[0, 0] = 124
    exponents = fp8.tile_exponents(codes, scales)
    found, proof = fp8.convert(codes, scales, exponents)
    weights, steps = exact(codes, scales), spread(exponents, (128, 128))
    cast = torch.from_numpy(weights / steps).to(torch.float32).to(torch.float8_e4m3fn)
    assert np.array_equal(found, cast.view(torch.uint8).numpy())

    errors = np.abs(decode(found) * steps - weights)
    by_block = errors.reshape(128, 4, 32).max(-1)
    relative = np.divide(errors, np.abs(weights), out=np.zeros_like(errors), where=weights != 0)
    assert proof.exact_blocks == np.count_nonzero(by_block == 0) < proof.blocks == 512
    assert proof.largest_relative_error == relative.max() == 1.0
    assert proof.largest_tile_error == pytest.approx(float((errors / steps).max()) / 448)
    assert 0 < proof.largest_tile_error < 2.0**-18


def test_every_shift_that_is_called_exact_is_and_the_next_is_not() -> None:
    """One tile with the largest scale in its first block and each distance in the second."""
    codes = np.full((1, 2, 16), 0x31, np.uint8)  # 0.5 and 1.5 in turn
    outcomes = []
    for distance in range(20):
        scales = np.array([[150, 150 - distance]], np.uint8)
        proof = fp8.convert(codes, scales, fp8.tile_exponents(codes, scales))[1]
        outcomes.append(proof.exact_blocks == 2)
    assert outcomes == [True] * 15 + [False] * 5


def test_blocks_of_zeros_do_not_raise_the_scale() -> None:
    codes, scales = draw(8, 4, 100, 104)
    codes[3, 2], scales[3, 2] = 0x80, 254  # zeros of both signs
    exponents = fp8.tile_exponents(codes, scales)
    assert exponents.tolist() == [[104 - 127 - 6]]
    found, proof = fp8.convert(codes, scales, exponents)
    assert proof.exact_blocks == proof.blocks
    weights = exact(codes, scales)
    assert np.array_equal(decode(found) * spread(exponents, weights.shape), weights)


@pytest.mark.parametrize(("lowest", "highest"), [(0, 14), (0, 3), (240, 254)])
def test_the_ends_of_the_range_are_exact_and_no_scale_is_subnormal(
    lowest: int, highest: int
) -> None:
    codes, scales = draw(130, 5, lowest, highest)
    exponents = fp8.tile_exponents(codes, scales)
    found, proof = fp8.convert(codes, scales, exponents)
    weights = exact(codes, scales)
    assert np.array_equal(decode(found) * spread(exponents, weights.shape), weights)
    assert proof.exact_blocks == proof.blocks
    assert fp8.scale(exponents).min() >= np.finfo(np.float32).tiny


def test_a_scale_that_is_no_number_is_refused() -> None:
    codes, scales = draw(4, 2, 120, 124)
    scales[1, 1] = 255
    with pytest.raises(ValueError, match="not a number"):
        fp8.tile_exponents(codes, scales)


def test_proofs_add_up() -> None:
    one = fp8.Fp8Findings(
        blocks=3, exact_blocks=2, largest_relative_error=0.5, largest_tile_error=0.1
    )
    other = fp8.Fp8Findings(blocks=1, exact_blocks=1)
    assert one + other == fp8.Fp8Findings(
        blocks=4, exact_blocks=3, largest_relative_error=0.5, largest_tile_error=0.1
    )
