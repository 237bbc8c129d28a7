"""Muon: steps with all singular values about one, whatever the gradient's size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from model_assets.development.muon import Muon, orthogonalised


@pytest.mark.parametrize("shape", [(32, 32), (16, 48), (48, 16), (3, 24, 40)])
def test_singular_values_become_about_one(shape: tuple[int, ...]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert values.max() < 1.3
    assert values.mean() > 0.7


def test_the_directions_stay() -> None:
    matrix = torch.diag(torch.tensor([3.0, -1.0, 0.5]))
    found = orthogonalised(matrix)
    assert torch.equal(found.sign(), matrix.sign())


def test_a_step_does_not_depend_on_the_gradients_size() -> None:
    gradient = torch.randn(8, 16, generator=torch.Generator().manual_seed(2))
    moved = []
    for size in (1.0, 1000.0):
        parameter = nn.Parameter(torch.zeros(8, 16))
        parameter.grad = size * gradient
        Muon([parameter], lr=0.1, momentum=0.9).step()
        moved.append(parameter.detach())
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-3, atol=1e-4)


def test_it_walks_down_a_valley() -> None:
    target = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
    parameter = nn.Parameter(torch.zeros(6, 4))
    optimiser = Muon([parameter], lr=0.02, momentum=0.9)
    losses = []
    for _ in range(200):
        loss = (parameter - target).square().mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 20
