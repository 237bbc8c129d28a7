"""The largest numbers that prompts bring into each layer's experts, in the embedded runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from serving.engines.embedded.experts import Experts
from serving.engines.embedded.kv_store import KvStore
from serving.engines.embedded.loading import load_model
from serving.engines.embedded.model import Model
from serving.engines.embedded.plan import Planner, Span

BLOCK_TOKENS = 32
RESERVED_BLOCKS = 1
"""The null block of a cache."""


@dataclass(frozen=True, slots=True)
class _Watched(Experts):
    """Experts that note the largest magnitude of what comes to them."""

    place: str
    seen: dict[str, float]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """As `Experts`."""
        self.seen[self.place] = max(float(x.abs().max()), self.seen.get(self.place, 0.0))
        return Experts.__call__(self, x)


def probe(
    checkpoint: Path, longest_tokens: int, dtype: torch.dtype = torch.float32
) -> Callable[[Sequence[int]], Iterator[tuple[str, float]]]:
    """Returns a probe of a checkpoint, for prompts of up to `longest_tokens`, on the CPU."""
    device = torch.device("cpu")
    seen: dict[str, float] = {}
    model = _watch(
        load_model(checkpoint, block_tokens=BLOCK_TOKENS, dtype=dtype, device=device), seen
    )
    blocks = -(-longest_tokens // BLOCK_TOKENS) + RESERVED_BLOCKS
    planner = Planner(model.sizes, blocks, blocks, dtype, device)
    table = np.arange(RESERVED_BLOCKS, blocks)

    def run(tokens: Sequence[int]) -> Iterator[tuple[str, float]]:
        seen.clear()
        store = KvStore((blocks,) * len(model.layers), model.sizes, dtype, device)
        span = Span(np.array(tokens, dtype=np.int64), 0, table, table, samples=True)
        with torch.inference_mode():
            model.forward(planner.plan([span]), store)
        yield from seen.items()

    return run


def _watch(model: Model, seen: dict[str, float]) -> Model:
    """Returns the model with its experts watched.

    The forward pass computes its last layer for the rows that are sampled alone. So the last layer
    comes once more, unwatched, and the one before it sees every row.
    """
    layers = tuple(
        replace(
            layer,
            experts=_Watched(
                router=layer.experts.router,
                per_token=layer.experts.per_token,
                bank=layer.experts.bank,
                place=f"model.layers.{index}.mlp.experts.gate_up_proj",
                seen=seen,
            ),
        )
        for index, layer in enumerate(model.layers)
    )
    return replace(model, layers=(*layers, model.layers[-1]))
