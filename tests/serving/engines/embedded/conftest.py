"""Random GPT-OSS checkpoints, and transformers' model of the same weights as the oracle."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine_build.weights.quantise import quantise
from serving.boundary.engine import KvCache, Limits
from serving.boundary.messages import Fault
from serving.engines.embedded.runtime import EmbeddedRuntime

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class Shape:
    """The numbers of one random checkpoint. With `int8` it is what the engine build makes of it."""

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    experts: int = 4
    per_token: int = 2
    intermediate: int = 32
    window: int = 24
    vocab: int = 300
    mxfp4: bool = True
    int8: bool = False
    shards: int = 1
    dtype: torch.dtype = torch.float32
    seed: int = 0


Write = Callable[[Shape], Path]


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where models run: the CPU, or what EMBEDDED_DEVICE names (`cuda`)."""
    return torch.device(os.environ.get("EMBEDDED_DEVICE", "cpu"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Products of these sizes lose more by waiting for a second thread than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def write_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Writes a random checkpoint and returns its directory; equal shapes share one."""
    made: dict[Shape, Path] = {}

    def write(shape: Shape) -> Path:
        if shape not in made:
            made[shape] = tmp_path_factory.mktemp("checkpoint")
            if shape.int8:
                source = write(replace(shape, int8=False))
                quantise(source, made[shape], "int8", "source", workers=1)
            else:
                _write(shape, made[shape])
        return made[shape]

    return write


@pytest.fixture(scope="session")
def shape() -> type[Shape]:
    return Shape


@pytest.fixture(scope="session")
def oracle() -> Callable[[Path, Shape], Any]:
    """Returns transformers' model with the weights of a checkpoint, float32, eager attention."""
    return _oracle


def _config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "num_local_experts": shape.experts,
        "num_experts_per_tok": shape.per_token,
        "sliding_window": shape.window,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 150000,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        },
        "tie_word_embeddings": False,
        "layer_types": [
            "full_attention" if index % 2 else "sliding_attention" for index in range(shape.layers)
        ],
    }


def _write(shape: Shape, directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps(_config(shape)))
    tensors = _tensors(shape)
    names = sorted(tensors)
    if shape.shards == 1:
        save_file(tensors, directory / "model.safetensors")
        return
    weight_map = {name: f"model-{i % shape.shards}.safetensors" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        part = {name: tensors[name] for name in names if weight_map[name] == file}
        save_file(part, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _tensors(shape: Shape) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(shape.seed)

    def normal(*size: int, scale: float) -> torch.Tensor:
        return (torch.randn(size, generator=random) * scale).to(shape.dtype)

    hidden, inner, count = shape.hidden, shape.intermediate, shape.experts
    width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    tensors = {
        "model.embed_tokens.weight": normal(shape.vocab, hidden, scale=1.0),
        "model.norm.weight": 1 + normal(hidden, scale=0.2),
        "lm_head.weight": normal(shape.vocab, hidden, scale=hidden**-0.5),
    }
    for index in range(shape.layers):
        layer = f"model.layers.{index}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}{name}.weight"] = 1 + normal(hidden, scale=0.2)
        for name, out, size in (
            ("q", width, hidden),
            ("k", kv_width, hidden),
            ("v", kv_width, hidden),
            ("o", hidden, width),
        ):
            key = f"{layer}self_attn.{name}_proj."
            tensors[key + "weight"] = normal(out, size, scale=2 * size**-0.5)
            tensors[key + "bias"] = normal(out, scale=0.3)
        tensors[layer + "self_attn.sinks"] = normal(shape.heads, scale=1.5)
        tensors[layer + "mlp.router.weight"] = normal(count, hidden, scale=hidden**-0.5)
        tensors[layer + "mlp.router.bias"] = normal(count, scale=0.3)
        for name, out, size in (("gate_up_proj", 2 * inner, hidden), ("down_proj", hidden, inner)):
            key = f"{layer}mlp.experts.{name}"
            tensors[key + "_bias"] = normal(count, out, scale=0.5)
            if shape.mxfp4:
                size_blocks = (count, out, size // 32)
                tensors[key + "_blocks"] = torch.randint(
                    0, 256, (*size_blocks, 16), generator=random, dtype=torch.uint8
                )
                tensors[key + "_scales"] = torch.randint(
                    120, 126, size_blocks, generator=random, dtype=torch.uint8
                )
            else:
                tensors[key] = normal(count, size, out, scale=size**-0.5)
    return tensors


def _unpack(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """MXFP4 by the letter of the format, value by value; (..., n, 16) -> (..., n * 32)."""
    values = []
    for block, scale in zip(
        blocks.reshape(-1, 16).tolist(), scales.flatten().tolist(), strict=True
    ):
        for byte in block:
            for nibble in (byte & 15, byte >> 4):
                sign = -1.0 if nibble & 8 else 1.0
                values.append(sign * MAGNITUDES[nibble & 7] * 2.0 ** (scale - 127))
    return torch.tensor(values).view(*scales.shape[:-1], -1)


def _oracle(directory: Path, shape: Shape) -> Any:
    from transformers import GptOssConfig, GptOssForCausalLM

    raw = _config(shape)
    rope = {**raw.pop("rope_scaling"), "rope_theta": raw.pop("rope_theta")}
    config = GptOssConfig(**raw, rope_parameters=rope)
    config._attn_implementation = "eager"
    state: dict[str, torch.Tensor] = {}
    for name, tensor in _tensors(shape).items():
        if name.endswith("_scales"):
            continue
        if name.endswith("_blocks"):
            stem = name.removesuffix("_blocks")
            state[stem] = _unpack(tensor, _tensors(shape)[stem + "_scales"]).mT.contiguous()
        else:
            state[name] = tensor.float()
    model: Any = GptOssForCausalLM(config)
    model = model.float().eval()
    missing, unexpected = model.load_state_dict(state, strict=True)
    assert not missing
    assert not unexpected
    return model


MakeRuntime = Callable[..., EmbeddedRuntime]


@pytest.fixture
def make_runtime(write_checkpoint: Write, device: torch.device) -> MakeRuntime:
    """Returns a runtime over a random checkpoint; small limits unless told otherwise."""

    def make(
        chosen: Shape | None = None,
        *,
        batch: int = 16,
        budget: int = 256,
        longest: int = 1024,
        cache_tokens: int = 8192,
        reuse: bool = True,
        dtype: torch.dtype = torch.float32,
        graphs: tuple[int, ...] = (),
        ranks: Path | None = None,
        native: bool = True,
    ) -> EmbeddedRuntime:
        return EmbeddedRuntime(
            write_checkpoint(chosen or Shape()),
            limits=Limits(max_batch_size=batch, max_num_tokens=budget, max_seq_len=longest),
            kv_cache=KvCache(block_tokens=16, max_tokens=cache_tokens, block_reuse=reuse),
            dtype=dtype,
            device=device.type,
            graph_batch_sizes=graphs,
            ranks=ranks,
            native=native,
        )

    return make


@dataclass
class Result:
    """All that one sequence got."""

    tokens: list[int]
    logprobs: list[float]
    finish: str = ""
    cached_tokens: int = 0
    outputs: int = 0
    fault: Fault | None = None


@pytest.fixture
def finish_all() -> Callable[[EmbeddedRuntime], dict[int, Result]]:
    """Runs a runtime until nothing is left and returns the results by id."""
    return _finish_all


def _finish_all(runtime: EmbeddedRuntime) -> dict[int, Result]:
    results: dict[int, Result] = {}
    while runtime.busy:
        step = runtime.step()
        for output in step.outputs if step else []:
            result = results.setdefault(output.id, Result([], []))
            assert not result.finish, "an output after the last"
            assert result.outputs == 0 or output.cached_tokens == 0
            result.tokens += output.tokens
            result.logprobs += [entry.logprob for entry in output.logprobs or []]
            result.finish = output.finish
            result.fault = output.fault
            result.cached_tokens += output.cached_tokens
            result.outputs += 1
    return results
