"""One model over several processes: each loads its rank file and computes its part.

Attention is cut by heads and the experts by number, then along their inner dimension; what two
ranks compute a part of is summed over all ranks, once after attention and once after the experts.
The LM head is cut by vocabulary and its logits are gathered. The rules are in docs/sharding.md.
Every rank runs the same steps on the same tokens and gets the same logits.

`torch.distributed` must be initialised before `load_rank`, one process a rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open

from serving.engines.embedded.checkpoint import CheckpointError, ModelConfig, Tensors, read_config
from serving.engines.embedded.experts import Experts
from serving.engines.embedded.linear import Linear
from serving.engines.embedded.loading import Loader
from serving.engines.embedded.model import Layer, Model
from serving.engines.embedded.place import Place

_FIRST = "model.layers.0."
_ROUTER = ".mlp.router."
_OUT_BIAS = ".o_proj.bias"
_DOWN_BIAS = ".down_proj_bias"


def load_rank(
    directory: Path, *, block_tokens: int, dtype: torch.dtype, device: torch.device
) -> Model:
    """Returns this process's part of the model whose rank files are in `directory`.

    Its `forward` gives the logits of the whole vocabulary. Raises CheckpointError, also when the
    files were cut for another number of processes.
    """
    whole = read_config(directory)
    with torch.inference_mode(), _open_rank(directory) as tensors:
        local = tensors.config(whole)
        table = tensors("model.embed_tokens.weight", (local.vocab_size, whole.hidden_size))
        # The input table is only gathered from, and its rows are needed before any sum: whole.
        embedding = _gather(table.to(device, dtype), dim=0)
        model = Loader(local, tensors, block_tokens, dtype, device).model(embedding)
        layers = tuple(
            _joined(layer, tensors.router(index, whole, dtype, device), tensors.place, local)
            for index, layer in enumerate(model.layers)
        )
    return replace(
        model,
        config=replace(local, vocab_size=whole.vocab_size),
        layers=layers,
        head=_GatheredLinear(model.head),
    )


class _RankTensors(Tensors):
    """A rank file, read as the checkpoint of the smaller model that the rank computes."""

    def __init__(self, file: Any, path: Path, place: Place) -> None:
        super().__init__(dict.fromkeys(file.keys(), path), path)
        self._file = file
        self.place = place

    def __call__(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """As in `Tensors`. Biases of what is summed over ranks are zero on all but one."""
        if _ROUTER in name:
            rows = slice(self.place.expert_part * shape[0], (self.place.expert_part + 1) * shape[0])
            part: torch.Tensor = self._file.get_tensor(name)[rows]
            return part
        tensor = super().__call__(name, shape)
        added_elsewhere = (name.endswith(_OUT_BIAS) and self.place.rank != 0) or (
            name.endswith(_DOWN_BIAS) and self.place.inner_part != 0
        )
        return torch.zeros_like(tensor) if added_elsewhere else tensor

    def config(self, whole: ModelConfig) -> ModelConfig:
        """Returns the rank's numbers, as its tensors have them."""
        bias = self._shape(_FIRST + "mlp.experts.gate_up_proj_bias")
        return replace(
            whole,
            # As the LM head is cut, and never in INT8.
            vocab_size=self._shape("model.embed_tokens.weight")[0],
            num_heads=self._shape(_FIRST + "self_attn.sinks")[0],
            num_kv_heads=self._shape(_FIRST + "self_attn.k_proj.bias")[0] // whole.head_dim,
            num_experts=bias[0],
            intermediate_size=bias[1] // 2,
        )

    def router(
        self, layer: int, whole: ModelConfig, dtype: torch.dtype, device: torch.device
    ) -> Linear:
        """Returns a layer's router, which scores all experts."""
        prefix = f"model.layers.{layer}.mlp.router."
        weight = super().__call__(prefix + "weight", (whole.num_experts, whole.hidden_size))
        bias = super().__call__(prefix + "bias", (whole.num_experts,))
        return Linear(weight.to(device, dtype), bias.to(device, dtype), packed=False)

    def _shape(self, name: str) -> list[int]:
        shape: list[int] = self._file.get_slice(name).get_shape()
        return shape


@contextmanager
def _open_rank(directory: Path) -> Iterator[_RankTensors]:
    rank, count = dist.get_rank(), dist.get_world_size()
    path = directory / f"rank-{rank:05d}-of-{count:05d}.safetensors"
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            names = ("tensor_parallel", "expert_parallel", "rank")
            place = Place(*(int(metadata[name]) for name in names))
            if (place.rank, place.tensor_parallel) != (rank, count):
                raise CheckpointError(f"{path} is not the file of rank {rank} of {count}")
            yield _RankTensors(file, path, place)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (KeyError, ValueError):
        raise CheckpointError(f"{path}: does not say which rank it is for") from None


def _joined(layer: Layer, router: Linear, place: Place, local: ModelConfig) -> Layer:
    """Returns the layer with sums over ranks after attention and after the experts."""
    experts = _SharedExperts(
        router=router,
        per_token=local.experts_per_token,
        bank=layer.experts.bank,
        first=place.expert_part * local.num_experts,
        count=local.num_experts,
    )
    return replace(layer, out=_SummedLinear(layer.out), experts=experts)


class _SummedLinear(Linear):
    """A linear layer whose input features are spread over the ranks."""

    def __init__(self, part: Linear) -> None:
        self._part = part

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (rows, out_features), the sum of all ranks."""
        y = self._part(x)
        dist.all_reduce(y)
        return y


class _GatheredLinear(Linear):
    """A linear layer whose output features are spread over the ranks."""

    def __init__(self, part: Linear) -> None:
        self._part = part

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (rows, out_features) of all ranks side by side."""
        return _gather(self._part(x), dim=1)


@dataclass(frozen=True, slots=True)
class _SharedExperts(Experts):
    """A whole router, and of the experts those from `first` on, `count` of them."""

    first: int
    count: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (tokens, hidden): every rank's weighted experts, summed."""
        scores, chosen = torch.topk(self.router(x), self.per_token)
        weights = torch.softmax(scores, dim=-1)
        local = chosen - self.first
        tokens, slots = torch.nonzero((local >= 0) & (local < self.count), as_tuple=True)
        total = torch.zeros_like(x)
        if len(tokens):
            outputs = self.bank(x[tokens], local[tokens, slots].unsqueeze(1)).squeeze(1)
            total.index_add_(0, tokens, outputs * weights[tokens, slots].unsqueeze(1))
        dist.all_reduce(total)
        return total


def _gather(part: torch.Tensor, dim: int) -> torch.Tensor:
    """Returns the parts of all ranks, in rank order, along a dimension. All have one shape."""
    parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, part.contiguous())
    return torch.cat(parts, dim=dim)
