"""The Muon optimiser for matrices (K. Jordan et al. 2024, "Muon: An optimizer for hidden layers").

A step has the direction of the momentum with all its singular values set to about one, so a layer
learns in every direction equally fast. On this network it needs half of AdamW's steps. Processes
that train one network share the work: each moves some of the matrices and sends them to the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn

COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
"""Of the quintic whose repetition drives singular values towards one; from the same source."""
ROUNDS: Final = 5
SMALLEST: Final = 1e-7


def orthogonalised(matrix: Tensor) -> Tensor:
    """Returns matrices [..., m, n] with the same singular vectors and values of about one.

    The Newton-Schulz iteration of the source: the values end between 0.7 and 1.2.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[-2] > matrix.shape[-1]
    x: Tensor = matrix.mT if tall else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + SMALLEST)
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum over parameters whose last two axes are a matrix."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Moves every parameter that has a gradient."""
        shared = dist.is_initialized()
        worker, workers = (dist.get_rank(), dist.get_world_size()) if shared else (0, 1)
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            moved.sort(key=lambda parameter: -parameter.numel())  # equal shares for all
            for place, parameter in enumerate(moved):
                if place % workers == worker:
                    self._move(parameter, parameter.grad, group["lr"], group["momentum"])
            for place, parameter in enumerate(moved if shared else ()):
                dist.broadcast(parameter, place % workers)

    def _move(self, parameter: Tensor, gradient: Tensor, lr: float, momentum: float) -> None:
        state = self.state[parameter]
        mean = state.setdefault("mean", torch.zeros_like(parameter))
        mean.lerp_(gradient, 1 - momentum)
        ahead = gradient.lerp(mean, momentum)
        rows, columns = parameter.shape[-2:]
        parameter.add_(orthogonalised(ahead), alpha=-lr * max(1.0, rows / columns) ** 0.5)
