"""Rows times one matrix, in bfloat16 and in INT8."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from ctypes import POINTER, c_int, c_int64, c_void_p
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from serving.engines.embedded.int8 import LARGEST, dequantise
from serving.engines.embedded.native import library
from serving.engines.embedded.native.library import CMatrix
from serving.engines.embedded.native.panels import PANEL, code_panels, panels
from serving.engines.embedded.weights import Int8, Matrix

WRITE, ADD, WRITE_NARROW = range(3)
OUTPUTS = 330
"""Five panels and a part of one."""

Multiply = Callable[..., torch.Tensor]


class CRows(ctypes.Structure):
    """`Rows`."""

    _fields_ = (("start", c_void_p), ("stride", c_int64), ("index", c_void_p))


class CTarget(ctypes.Structure):
    """`Target`."""

    _fields_ = (("to", c_void_p), ("stride", c_int64), ("ending", c_int))


@pytest.fixture(scope="module")
def multiply(options: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Multiply:
    """Returns x W^T + b (rows, outputs), in float32 or as `ending` says."""
    path = tmp_path_factory.mktemp("product") / "product.so"
    source, headers = Path(__file__).with_name("product.c"), library.SOURCE.parent
    command = (library.COMPILER, *library.FLAGS, *options, f"-I{headers}", str(source))
    subprocess.run((*command, "-o", str(path)), check=True)
    compiled = ctypes.CDLL(str(path))
    compiled.product.argtypes = (
        POINTER(CMatrix),
        POINTER(CRows),
        c_int64,
        POINTER(CTarget),
        c_int,
        c_void_p,
    )
    compiled.product.restype = None
    assert compiled.matrix_bytes() == ctypes.sizeof(CMatrix)

    def multiply(
        x: torch.Tensor,
        weight: Matrix,
        bias: torch.Tensor | None = None,
        *,
        ending: int = WRITE,
        threads: int = 1,
    ) -> torch.Tensor:
        packed = code_panels(weight.codes) if isinstance(weight, Int8) else panels(weight)
        scales = padded(weight.scales) if isinstance(weight, Int8) else None
        added = None if bias is None else padded(bias)
        matrix = CMatrix(
            weights=packed.data_ptr(),
            row_scales=None if scales is None else scales.data_ptr(),
            bias=None if added is None else added.data_ptr(),
            outputs=OUTPUTS,
            inputs=x.shape[1],
        )
        dtype = torch.bfloat16 if ending == WRITE_NARROW else torch.float32
        y = torch.ones((len(x), len(packed) * PANEL), dtype=dtype)
        rows = CRows(start=x.data_ptr(), stride=x.stride(0))
        target = CTarget(to=y.data_ptr(), stride=y.stride(0), ending=ending)
        room = torch.empty((threads, x.shape[1] * PANEL), dtype=torch.bfloat16)
        compiled.product(matrix, rows, len(x), target, threads, room.data_ptr())
        return y[:, :OUTPUTS]

    return multiply


def padded(outputs: torch.Tensor) -> torch.Tensor:
    return F.pad(outputs, (0, -len(outputs) % PANEL))


@pytest.fixture(scope="module")
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module", params=[96, 80])
def inputs(request: pytest.FixtureRequest) -> int:
    """Whole tiles, and not."""
    count: int = request.param
    return count


@pytest.fixture(scope="module")
def x(random: torch.Generator, inputs: int) -> torch.Tensor:
    """More rows than one task has."""
    return torch.randn((103, inputs), generator=random).to(torch.bfloat16)


@pytest.fixture(scope="module")
def weight(random: torch.Generator, inputs: int) -> Int8:
    """Every code that there is, in some row."""
    codes = torch.randint(-LARGEST, LARGEST + 1, (OUTPUTS, inputs), generator=random)
    assert set(codes.flatten().tolist()) == set(range(-LARGEST, LARGEST + 1))
    scales = torch.rand(OUTPUTS, generator=random) / 100
    return Int8(codes.to(torch.int8), scales)


@pytest.fixture(scope="module")
def bias(random: torch.Generator) -> torch.Tensor:
    return torch.randn(OUTPUTS, generator=random)


@pytest.mark.parametrize("coded", [True, False], ids=["int8", "bfloat16"])
def test_a_product_is_within_float32_of_the_exact_one(
    multiply: Multiply, x: torch.Tensor, weight: Int8, bias: torch.Tensor, coded: bool
) -> None:
    """Each of the additions rounds by 2^-24 of its sum, the scale and the bias by as much."""
    exact_weight = weight.codes.double() * weight.scales.double().unsqueeze(1)
    plain = exact_weight.to(torch.bfloat16)
    chosen, exact_weight = (weight, exact_weight) if coded else (plain, plain.double())
    exact = x.double() @ exact_weight.T + bias
    most = x.double().abs() @ exact_weight.abs().T + bias.abs()
    error = (multiply(x, chosen, bias).double() - exact).abs()
    assert (error <= most * 2.0**-24 * (x.shape[1] + 2)).all()


def test_int8_is_nearer_than_what_is_unpacked_to_bfloat16(
    multiply: Multiply, x: torch.Tensor, weight: Int8
) -> None:
    plain = dequantise(weight.codes, weight.scales)
    exact = x.double() @ plain.double().T
    unpacked = (multiply(x, plain.to(torch.bfloat16)) - exact).abs().max()
    assert (multiply(x, weight) - exact).abs().max() < unpacked / 1000


def test_sums_of_codes_have_the_bits_of_bfloat16(
    multiply: Multiply, x: torch.Tensor, weight: Int8
) -> None:
    codes = Int8(weight.codes, torch.ones(OUTPUTS))
    assert torch.equal(multiply(x, codes), multiply(x, weight.codes.to(torch.bfloat16)))


@pytest.mark.parametrize("coded", [True, False], ids=["int8", "bfloat16"])
def test_a_row_gives_the_same_bits_alone_and_in_any_batch(
    multiply: Multiply, x: torch.Tensor, weight: Int8, bias: torch.Tensor, coded: bool
) -> None:
    chosen = weight if coded else dequantise(weight.codes, weight.scales).to(torch.bfloat16)
    alone = torch.cat([multiply(row.unsqueeze(0), chosen, bias) for row in x])
    for count in (*range(1, 21), 96, len(x)):
        for threads in (1, 2):
            found = multiply(x[-count:], chosen, bias, threads=threads)
            assert torch.equal(found, alone[-count:])


def test_int8_ends_as_the_other_forms_do(
    multiply: Multiply, x: torch.Tensor, weight: Int8, bias: torch.Tensor
) -> None:
    written = multiply(x, weight, bias)
    assert torch.equal(multiply(x, weight, bias, ending=ADD), written + 1)
    narrow = multiply(x, weight, bias, ending=WRITE_NARROW)
    assert torch.equal(narrow, written.to(torch.bfloat16))
