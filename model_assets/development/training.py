"""The training loop: copying first, then conversations, the second half with MXFP4 experts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import msgspec
import torch
import torch.nn.functional as F

from model_assets.development.batches import Batch
from model_assets.development.network import Network


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How long to train, and how fast. Steps are optimiser steps."""

    steps: int = 2400
    copy_steps: int = 60
    """So many steps practise copying alone."""
    copy_every: int = 8
    """After them every so many steps copying is practised again, or it would be forgotten."""
    quantised_from: float = 0.55
    rate: float = 2e-3
    last_rate: float = 1e-5
    warm_steps: int = 50
    clip: float = 1.0


class Step(msgspec.Struct, frozen=True):
    """One training step: its number, loss in nats a token, and share of right first choices."""

    number: int
    loss: float
    accuracy: float


def rate(plan: Plan, step: int) -> float:
    """Returns the learning rate of a step: a short rise, then a cosine down to `last_rate`."""
    if step < plan.warm_steps:
        return plan.rate * (step + 1) / plan.warm_steps
    done = (step - plan.warm_steps) / max(1, plan.steps - plan.warm_steps)
    return plan.last_rate + (plan.rate - plan.last_rate) * (1 + math.cos(math.pi * done)) / 2


def train(
    network: Network,
    plan: Plan,
    copies: Iterator[Batch],
    conversations: Iterator[Batch],
    report: Callable[[Step], None],
) -> None:
    """Trains the network in place and reports every step."""
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=plan.rate, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.01
    )
    for step in range(plan.steps):
        network.quantise(step >= plan.steps * plan.quantised_from)
        for group in optimiser.param_groups:
            group["lr"] = rate(plan, step)
        copying = step < plan.copy_steps or step % plan.copy_every == 0
        batch = next(copies if copying else conversations)
        report(_step(network, plan, optimiser, batch, step))


def _step(
    network: Network, plan: Plan, optimiser: torch.optim.Optimizer, batch: Batch, step: int
) -> Step:
    learned = batch.targets >= 0
    targets = batch.targets[learned]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = network(batch.tokens, batch.positions, batch.visible)
        logits = network.logits(hidden[learned])
    loss = F.cross_entropy(logits, targets)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), plan.clip)
    optimiser.step()
    accuracy = (logits.argmax(-1) == targets).float().mean()
    return Step(step, loss.item(), accuracy.item())
