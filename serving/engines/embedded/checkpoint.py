"""Reading a GPT-OSS checkpoint in Hugging Face's layout: config.json and safetensors.

Tensors are memory-mapped, each by itself: what is only gathered from (the embedding) never becomes
resident, and what is repacked gives its pages back as soon as the tensor is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from serving.boundary.engine import EngineError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"


class CheckpointError(EngineError):
    """A checkpoint that cannot be loaded: another try changes nothing, so the host refuses it.

    The message names the file and what is wrong.
    """


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position parameters; `factor` 1 is plain RoPE, more is YaRN."""

    theta: float
    factor: float
    beta_fast: float
    beta_slow: float
    original_max_positions: int
    truncate: bool
    attention_factor: float | None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The architecture, in the words of config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_experts: int
    experts_per_token: int
    sliding: tuple[bool, ...]
    """Whether layer i attends only to the last `sliding_window` positions."""
    sliding_window: int
    max_positions: int
    rms_norm_eps: float
    swiglu_alpha: float
    swiglu_limit: float
    rope: Rope

    @property
    def group(self) -> int:
        """Query heads that share one key and value head."""
        return self.num_heads // self.num_kv_heads


def read_config(directory: Path) -> ModelConfig:
    """Returns the architecture. Raises CheckpointError for another model or a missing field."""
    path = directory / "config.json"
    try:
        raw = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None
    if not isinstance(raw, dict) or raw.get("model_type") != "gpt_oss":
        raise CheckpointError(f"{path}: model_type is not gpt_oss")
    try:
        return _config(raw)
    except KeyError as error:
        raise CheckpointError(f"{path}: {error.args[0]} is missing") from None
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def _config(raw: Mapping[str, Any]) -> ModelConfig:
    layers = int(raw["num_hidden_layers"])
    kinds = raw.get("layer_types") or [
        "full_attention" if index % 2 else "sliding_attention" for index in range(layers)
    ]
    if len(kinds) != layers or not set(kinds) <= {"full_attention", "sliding_attention"}:
        raise ValueError("layer_types must say full_attention or sliding_attention for each layer")
    heads, kv_heads = int(raw["num_attention_heads"]), int(raw["num_key_value_heads"])
    if heads % kv_heads:
        raise ValueError(f"num_attention_heads {heads} is no multiple of {kv_heads} kv heads")
    if raw.get("tie_word_embeddings"):
        raise ValueError("tie_word_embeddings is not GPT-OSS")
    return ModelConfig(
        vocab_size=int(raw["vocab_size"]),
        hidden_size=int(raw["hidden_size"]),
        intermediate_size=int(raw["intermediate_size"]),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=int(raw.get("head_dim") or int(raw["hidden_size"]) // heads),
        num_experts=int(raw["num_local_experts"]),
        experts_per_token=int(raw.get("num_experts_per_tok") or raw["experts_per_token"]),
        sliding=tuple(kind == "sliding_attention" for kind in kinds),
        sliding_window=int(raw["sliding_window"]),
        max_positions=int(raw["max_position_embeddings"]),
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-5)),
        swiglu_alpha=float(raw.get("swiglu_alpha", 1.702)),
        swiglu_limit=float(raw.get("swiglu_limit", 7.0)),
        rope=_rope(raw),
    )


def _rope(raw: Mapping[str, Any]) -> Rope:
    """Both spellings: `rope_parameters` (transformers 5), `rope_theta` and `rope_scaling` (4)."""
    scaling: Mapping[str, Any] = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("yarn", "default"):
        raise ValueError(f"rope_type {kind!r} is not known")
    yarn = kind == "yarn"
    original = scaling.get("original_max_position_embeddings") or raw["max_position_embeddings"]
    attention_factor = scaling.get("attention_factor") if yarn else None
    return Rope(
        theta=float(scaling.get("rope_theta") or raw["rope_theta"]),
        factor=float(scaling["factor"]) if yarn else 1.0,
        beta_fast=float(scaling.get("beta_fast") or 32.0),
        beta_slow=float(scaling.get("beta_slow") or 1.0),
        original_max_positions=int(original),
        truncate=bool(scaling.get("truncate", True)),
        attention_factor=None if attention_factor is None else float(attention_factor),
    )


class Tensors:
    """The tensors of one checkpoint by name, read from the file that holds each."""

    def __init__(self, files: Mapping[str, Path], directory: Path) -> None:
        self._files = files
        self._directory = directory

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __call__(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """Returns a tensor that is a mapping of its file. Raises CheckpointError."""
        if name not in self._files:
            raise CheckpointError(f"{self._directory}: no tensor {name}")
        with _opened(self._files[name]) as file:
            tensor: torch.Tensor = file.get_tensor(name)
        if tuple(tensor.shape) != tuple(shape):
            raise CheckpointError(
                f"{self._directory}: {name} has shape {tuple(tensor.shape)}, "
                f"config.json implies {tuple(shape)}"
            )
        return tensor


def open_tensors(directory: Path) -> Tensors:
    """Returns the tensors of every shard. Raises CheckpointError for one that cannot be read."""
    files: dict[str, Path] = {}
    for shard in _shards(directory):
        with _opened(shard) as file:
            files.update(dict.fromkeys(file.keys(), shard))
    return Tensors(files, directory)


def _opened(shard: Path) -> Any:
    try:
        return safe_open(str(shard), framework="pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{shard}: {error}") from None


def _shards(directory: Path) -> list[Path]:
    index = directory / INDEX_NAME
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except FileNotFoundError:
        return [directory / SINGLE_NAME]
    except OSError as error:
        raise CheckpointError(f"{index} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, AttributeError):
        raise CheckpointError(f"{index} has no weight_map") from None
    strange = [name for name in names if Path(name).name != name]
    if strange:
        raise CheckpointError(f"{index} names a file outside the checkpoint")
    return [directory / name for name in sorted(names)]
