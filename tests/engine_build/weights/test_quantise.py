"""A checkpoint in another precision: what changes, what does not, and what it cost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine_build import durable
from engine_build.failure import BuildError, ExitCode
from engine_build.weights import fp8, inventory, quantise, tensors
from engine_build.weights.quantise import Findings, QuantisationReport
from engine_build.weights.tensor_file import Bytes, open_file
from serving.engines.embedded.mxfp4 import dequantise
from tests.engine_build.checkpoints import SMALL, make

STEM = "model.layers.1.mlp.experts.gate_up_proj"


def loaded(directory: Path) -> dict[str, torch.Tensor]:
    """Returns all tensors, read by the reference library."""
    found: dict[str, torch.Tensor] = {}
    for path in directory.glob("*.safetensors"):
        found |= load_file(path)
    return found


def same_bytes(tensor: torch.Tensor, expected: Bytes) -> bool:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() == expected.tobytes()


def test_as_published_nothing_changes(tmp_path: Path) -> None:
    held = make(tmp_path / "c")
    report = quantise.quantise(tmp_path / "c", tmp_path / "q", "mxfp4", "c", workers=2)
    found = loaded(tmp_path / "q")
    assert found.keys() == held.keys()
    assert all(same_bytes(found[name], held[name]) for name in held)
    assert report.findings == Findings()
    with tensors.open_checkpoint(tmp_path / "q") as opened:
        tensors.check(tmp_path / "q", opened, SMALL)


def test_fp8_experts_hold_the_same_weights(tmp_path: Path) -> None:
    held = make(tmp_path / "c")
    report = quantise.quantise(tmp_path / "c", tmp_path / "q", "fp8", "c", workers=2)
    found, before = loaded(tmp_path / "q"), loaded(tmp_path / "c")
    for name in held:
        if "_proj_blocks" not in name:
            continue
        stem = name.removesuffix("_blocks")
        scales = found[stem + "_tile_scales"].repeat_interleave(128, 1).repeat_interleave(128, 2)
        values = found[stem + "_values"]
        weights = values.float() * scales[:, : values.shape[1], : values.shape[2]]
        assert torch.equal(
            weights, dequantise(before[name], before[stem + "_scales"], torch.float32)
        )
    blocks = sum(held[name].size for name in held if name.endswith("_scales"))
    assert report.findings.experts == fp8.Fp8Findings(blocks=blocks, exact_blocks=blocks)
    unchanged = [name for name in held if not name.endswith(("_blocks", "_scales"))]
    assert all(same_bytes(found[name], held[name]) for name in unchanged)
    config = json.loads((tmp_path / "q" / "config.json").read_bytes())
    assert config["quantization_config"]["quant_method"] == "fp8_tiles"


def test_int8_matrices_are_within_half_a_step(tmp_path: Path) -> None:
    held = make(tmp_path / "c")
    report = quantise.quantise(tmp_path / "c", tmp_path / "q", "int8", "c", workers=2)
    found, before = loaded(tmp_path / "q"), loaded(tmp_path / "c")
    changed = [name for name in held if name not in found]
    assert "lm_head.weight" in changed
    assert len(changed) == 4 * SMALL.num_hidden_layers + 1
    for name in changed:
        weights = found[name + "_values"].float() * found[name + "_scales"][:, None]
        original = before[name].float()
        largest = original.abs().amax(-1, keepdim=True)
        assert ((weights - original).abs() <= largest / 254 * 1.0001).all()
    kept = [name for name in held if name not in changed]
    assert all(same_bytes(found[name], held[name]) for name in kept)
    assert report.findings.matrices.weights == sum(before[name].numel() for name in changed)
    assert 0 < report.findings.matrices.largest_row_error <= 1 / 254 * 1.0001


def test_the_report_names_every_file_with_its_sha256(tmp_path: Path) -> None:
    make(tmp_path / "c")
    report = quantise.quantise(tmp_path / "c", tmp_path / "q", "fp8", "c", workers=2)
    stored = json.loads((tmp_path / "q" / quantise.REPORT_NAME).read_bytes())
    assert stored["findings"]["experts"]["exact_blocks"] == report.findings.experts.exact_blocks
    assert len(report.files) == SMALL.num_hidden_layers + 1
    for name, sha256 in report.files.items():
        assert durable.sha256(tmp_path / "q" / name) == sha256


@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_one_worker_or_many_give_the_same_bytes(tmp_path: Path, precision: str) -> None:
    make(tmp_path / "c")
    reports = [
        quantise.quantise(tmp_path / "c", tmp_path / str(n), precision, "c", workers=n)
        for n in (1, 3)
    ]
    assert reports[0] == reports[1]


def test_a_conversion_that_was_killed_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "c")
    whole = quantise.quantise(tmp_path / "c", tmp_path / "whole", "fp8", "c", workers=1)
    converted: list[int] = []
    convert = fp8.convert

    def dies(blocks: Bytes, scales: Bytes, exponents: np.ndarray) -> tuple[Bytes, fp8.Fp8Findings]:
        if len(converted) == 2 * 2 * SMALL.num_local_experts:
            raise KeyboardInterrupt
        converted.append(1)
        return convert(blocks, scales, exponents)

    monkeypatch.setattr(fp8, "convert", dies)
    with pytest.raises(KeyboardInterrupt):
        quantise.quantise(tmp_path / "c", tmp_path / "q", "fp8", "c", workers=1)
    third = "model-00002-of-00003.safetensors"
    assert not (tmp_path / "q" / third).exists()
    assert (tmp_path / "q" / third.replace("2-", "1-")).exists()
    assert not (tmp_path / "q" / quantise.REPORT_NAME).exists()
    kept = (tmp_path / "q" / third.replace("2-", "1-")).stat().st_ino
    converted.clear()
    report: QuantisationReport = quantise.quantise(
        tmp_path / "c", tmp_path / "q", "fp8", "c", workers=1
    )
    assert report == whole
    assert len(converted) == 2 * SMALL.num_local_experts
    assert (tmp_path / "q" / third.replace("2-", "1-")).stat().st_ino == kept


def test_what_was_made_of_another_checkpoint_is_not_kept(tmp_path: Path) -> None:
    make(tmp_path / "c")
    inodes = []
    for identity in ("c", "c", "d"):
        quantise.quantise(tmp_path / "c", tmp_path / "q", "fp8", identity, workers=1)
        inodes.append((tmp_path / "q" / "model-00000-of-00003.safetensors").stat().st_ino)
    assert inodes[0] == inodes[1] != inodes[2]


def test_a_weight_that_is_no_number_is_named(tmp_path: Path) -> None:
    make(tmp_path / "c", files=1)
    path = tmp_path / "c" / "model-00000-of-00000.safetensors"
    raw = bytearray(path.read_bytes())
    with open_file(path) as file:
        entry = file.entries[STEM + "_scales"]
    rows = inventory.checkpoint(SMALL)[STEM + "_scales"].size_bytes // SMALL.num_local_experts
    raw[entry.start_bytes + 2 * rows + 5] = 255
    path.write_bytes(raw)
    with pytest.raises(BuildError, match=r"gate_up_proj_scales, expert 2: .* not a number") as info:
        quantise.quantise(tmp_path / "c", tmp_path / "q", "fp8", "c", workers=1)
    assert info.value.exit_code is ExitCode.DATA


def test_an_unknown_precision_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BuildError, match=r"'fp9'.* Known: mxfp4, fp8, int8") as info:
        quantise.planned({}, "fp9")
    assert info.value.exit_code is ExitCode.CONFIGURATION
