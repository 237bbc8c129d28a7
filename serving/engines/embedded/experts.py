"""The mixture of experts: routing, clamped SwiGLU, and two ways to run the chosen experts.

Both order the (token, expert) pairs by expert. `LoopedBank` then runs each used expert once, on
packed weights that are read at memory speed: for CPUs. `GroupedBank` does all of them in one
kernel, without a word from the host, so that a CUDA graph can hold it: for GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from serving.engines.embedded.linear import Linear

JOINT_TOKENS = 16


@dataclass(frozen=True, slots=True)
class SwiGlu:
    """(up + 1) * gate * sigmoid(alpha * gate), gate clamped above, up on both sides."""

    alpha: float
    limit: float

    def __call__(self, gate_up: torch.Tensor) -> torch.Tensor:
        """Returns (rows, inner) for (rows, 2 * inner): all gates, then all ups. Clamps in place."""
        gate, up = gate_up.chunk(2, dim=-1)
        gate.clamp_(max=self.limit)
        up.clamp_(min=-self.limit, max=self.limit)
        glu = torch.mul(gate, self.alpha).sigmoid_().mul_(gate)
        return torch.addcmul(glu, up, glu)


class LoopedBank:
    """Experts as one pair of linear layers each.

    `joint` is all the first layers in one. For a few tokens it is cheaper to compute every expert's
    in one call and to leave out what was not chosen than to call each.
    """

    def __init__(
        self,
        gate_up: tuple[Linear, ...],
        down: tuple[Linear, ...],
        activation: SwiGlu,
        joint: Linear | None = None,
    ) -> None:
        self._gate_up = gate_up
        self._down = down
        self._activation = activation
        self._joint = joint

    def __call__(self, x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Returns (tokens, per_token, hidden): the output of every expert in `chosen`."""
        tokens, per_token = chosen.shape
        if tokens == 1:  # one row an expert: nothing to bring together
            runs = [(expert, row, row + 1) for row, expert in enumerate(chosen[0].tolist())]
            source = torch.zeros(per_token, dtype=torch.int64)
            return self._run(x, source, chosen[0], runs).unsqueeze(0)
        flat = chosen.view(-1).numpy()
        order = np.argsort(flat, kind="stable")
        ends = np.bincount(flat, minlength=len(self._down)).cumsum().tolist()
        bounds = zip(range(len(ends)), [0, *ends], ends, strict=False)
        runs = [(expert, start, stop) for expert, start, stop in bounds if start < stop]
        source, experts = torch.from_numpy(order // per_token), torch.from_numpy(flat[order])
        outputs = self._run(x, source, experts, runs)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        back = outputs.index_select(0, torch.from_numpy(place))
        return back.view(tokens, per_token, -1)

    def _run(
        self,
        x: torch.Tensor,
        source: torch.Tensor,
        experts: torch.Tensor,
        runs: list[tuple[int, int, int]],
    ) -> torch.Tensor:
        """Returns (rows, hidden): row i is expert `experts[i]` on token `source[i]`.

        Each of `runs` is (expert, start, stop): the rows of one expert.
        """
        if self._joint is not None and len(x) <= JOINT_TOKENS:
            every = self._joint(x).view(len(x) * len(self._down), -1)
            inner = every.index_select(0, source * len(self._down) + experts)
        else:
            inputs = x.index_select(0, source)
            inner = torch.cat([self._gate_up[e](inputs[start:stop]) for e, start, stop in runs])
        inner = self._activation(inner)
        return torch.cat([self._down[e](inner[start:stop]) for e, start, stop in runs])


@dataclass(frozen=True, slots=True)
class GroupedBank:
    """Experts stacked for `grouped_mm`. Not yet run on a GPU."""

    gate_up: torch.Tensor  # (experts, 2 * intermediate, hidden)
    gate_up_bias: torch.Tensor  # (experts, 2 * intermediate)
    down: torch.Tensor  # (experts, hidden, intermediate)
    down_bias: torch.Tensor  # (experts, hidden)
    activation: SwiGlu

    def __call__(self, x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """As `LoopedBank`, with offsets that stay on the device."""
        experts, order = torch.sort(chosen.view(-1), stable=True)
        every = torch.arange(len(self.gate_up), device=x.device, dtype=experts.dtype)
        ends = torch.searchsorted(experts, every, right=True).to(torch.int32)
        inputs = x.index_select(0, order // chosen.shape[1])
        inner = F.grouped_mm(inputs, self.gate_up.mT, offs=ends)
        inner += self.gate_up_bias.index_select(0, experts)
        outputs = F.grouped_mm(self.activation(inner), self.down.mT, offs=ends)
        outputs += self.down_bias.index_select(0, experts)
        back = torch.empty_like(outputs).index_copy_(0, order, outputs)
        return back.view(*chosen.shape, -1)


@dataclass(frozen=True, slots=True)
class Experts:
    """One layer's router and experts."""

    router: Linear
    per_token: int
    bank: LoopedBank | GroupedBank

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (tokens, hidden): for each token the weighted sum of its experts."""
        scores, chosen = torch.topk(self.router(x), self.per_token)
        weights = torch.softmax(scores, dim=-1).unsqueeze(-1)
        return self.bank(x, chosen).mul_(weights).sum(dim=1)
