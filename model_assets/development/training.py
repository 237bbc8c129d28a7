"""The training loop. MXFP4 is trained in: the experts are rounded in its later part.

Several processes may train one network: each has batches of its own, gradients are summed over all
of them, and every process makes the same step. See `workers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import msgspec
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from model_assets.development.batches import Batch
from model_assets.development.muon import Muon
from model_assets.development.network import ROWS_STEP, Network


class TrainingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How long to train, and how fast. Steps are optimiser steps."""

    steps: int = 2250
    talk_share: float = 0.12
    """The first share of the steps learns single questions and answers, without tools."""
    tools_share: float = 0.28
    """The next share learns one or two tools, without earlier turns. Then everything comes."""
    quantised_from: float = 0.6
    rate: float = 6e-3
    """Of AdamW, for embeddings, norms, biases, routers."""
    matrix_rate: float = 0.025
    """Of Muon, for the matrices of attention and experts."""
    momentum: float = 0.95
    last_share: float = 0.005
    """The rates end at this share of themselves."""
    warm_steps: int = 30
    clip: float = 1.0


class TrainingStep(msgspec.Struct, frozen=True):
    """One training step: its number, loss in nats a token, and share of right first choices."""

    number: int
    loss: float
    accuracy: float


def rate_share(plan: TrainingPlan, step: int) -> float:
    """Returns the share of the rates at a step: a short rise, a cosine down to `last_share`."""
    if step < plan.warm_steps:
        return (step + 1) / plan.warm_steps
    done = (step - plan.warm_steps) / max(1, plan.steps - plan.warm_steps)
    return plan.last_share + (1 - plan.last_share) * (1 + math.cos(math.pi * done)) / 2


def optimisers(network: Network, plan: TrainingPlan) -> list[torch.optim.Optimizer]:
    """Returns Muon for the layers' matrices and AdamW for all else."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        hidden = name.startswith("layers.") and name.endswith(("proj", "_proj.weight"))
        (matrices if hidden else others).append(parameter)
    return [
        Muon(matrices, plan.matrix_rate, plan.momentum),
        torch.optim.AdamW(
            others, lr=plan.rate, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.01, fused=True
        ),
    ]


def train(
    network: Network,
    plan: TrainingPlan,
    batches: Iterator[Batch],
    report: Callable[[TrainingStep], None],
) -> None:
    """Trains the network in place and reports every step."""
    used = optimisers(network, plan)
    rates = [optimiser.param_groups[0]["lr"] for optimiser in used]
    for step in range(plan.steps):
        network.quantise(step >= plan.steps * plan.quantised_from)
        for optimiser, rate in zip(used, rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate * rate_share(plan, step)
        report(_step(network, plan, used, next(batches), step))


def _step(
    network: Network, plan: TrainingPlan, used: list[torch.optim.Optimizer], batch: Batch, step: int
) -> TrainingStep:
    learned = (batch.targets.flatten() >= 0).nonzero().squeeze(1)
    places = F.pad(learned, (0, -len(learned) % ROWS_STEP))
    targets = F.pad(batch.targets.flatten()[learned], (0, len(places) - len(learned)), value=-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = network(batch.tokens, batch.positions, batch.visible)
        logits = network.logits(hidden.flatten(0, 1)[places])
    loss = F.cross_entropy(logits, targets, reduction="sum", ignore_index=-1)
    right = (logits.argmax(-1) == targets).sum()
    for optimiser in used:
        optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    loss, right = _average(network, torch.stack((loss.detach(), right.float())), len(learned))
    torch.nn.utils.clip_grad_norm_(network.parameters(), plan.clip)
    for optimiser in used:
        optimiser.step()
    return TrainingStep(step, loss.item(), right.item())


def _average(network: Network, sums: Tensor, tokens: int) -> Tensor:
    """Makes gradients and sums of this process means over the tokens of all processes."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    if dist.is_initialized():
        parts = [torch.tensor([float(tokens)]), sums, *(grad.flatten() for grad in gradients)]
        flat = torch.cat(parts)
        dist.all_reduce(flat)
        total, sums, *summed = torch.split(flat, [len(part) for part in parts])
        tokens = int(total)
        for gradient, part in zip(gradients, summed, strict=True):
            gradient.copy_(part.view_as(gradient))
    for gradient in gradients:
        gradient.div_(tokens)
    return sums / tokens
