"""The random checkpoints: read by transformers and by the engine's own loader, always the same."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.utils.quantization_config import Mxfp4Config

from benchmarks.checkpoints import SMALL, TINY, TWENTY_BILLION, CheckpointShape, ensure, mxfp4
from serving.engines.embedded.loading import load_model


def digests(directory: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.iterdir())
    }


@pytest.mark.parametrize("shape", [TINY, mxfp4(TINY)], ids=lambda shape: str(shape.experts))
def test_transformers_and_the_engine_read_it(shape: CheckpointShape, tmp_path: Path) -> None:
    directory = ensure(shape, tmp_path)
    plain = {} if shape.experts == "bf16" else {"quantization_config": Mxfp4Config(dequantize=True)}
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **plain)
    with torch.inference_mode():
        logits = model(torch.arange(20)[None]).logits
    assert logits.shape == (1, 20, shape.vocab_size)
    assert 1.0 < float(logits.std()) < 10.0
    own = load_model(directory, block_tokens=16, dtype=torch.float32, device=torch.device("cpu"))
    assert own.config.num_experts == shape.num_experts


def test_the_same_shape_gives_the_same_bytes_and_is_written_once(tmp_path: Path) -> None:
    first = ensure(TINY, tmp_path / "a")
    assert digests(first) == digests(ensure(TINY, tmp_path / "b"))
    assert digests(first) != digests(ensure(replace(TINY, seed=1), tmp_path / "a"))
    stamp = (first / "config.json").stat().st_mtime_ns
    assert ensure(TINY, tmp_path / "a") == first
    assert (first / "config.json").stat().st_mtime_ns == stamp


def test_what_an_interrupted_write_left_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    directory = ensure(TINY, tmp_path)
    partial = directory.with_name(directory.name + ".partial")
    directory.rename(partial)
    (partial / "config.json").write_text("cut")
    assert (ensure(TINY, tmp_path) / "config.json").read_text() != "cut"
    assert not partial.exists()


def test_sizes_are_those_of_the_published_models() -> None:
    # gpt-oss-20b has 20.9 billion weights (its model card); 12.8 GiB of them in the published file.
    shape = TWENTY_BILLION
    weights = 3 * shape.hidden_size * shape.intermediate_size * shape.num_experts
    total = shape.num_layers * (weights + shape.attention_weights) + 2 * shape.head_weights
    assert total == pytest.approx(20.9e9, rel=0.005)
    assert SMALL.head_weights * 2 == pytest.approx(103e6, rel=0.01)
    assert SMALL.expert_bytes == 2 * 3 * 256 * 256
