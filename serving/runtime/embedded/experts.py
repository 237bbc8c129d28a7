"""The mixture of experts: routing, clamped SwiGLU, and three ways to run it that agree.

`dense` computes every expert for every token in two products: best for a few tokens that reach
most of the experts anyway. `sorted` orders the (token, expert) pairs by expert and runs each used
expert once. `grouped` is the same order in one kernel, without a word from the host: for GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

MOST_DENSE_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Experts:
    """One layer's router and experts. Rows of `gate_up` are all gates, then all ups."""

    router: torch.Tensor  # (experts, hidden)
    router_bias: torch.Tensor  # (experts,)
    gate_up: torch.Tensor  # (experts, 2 * intermediate, hidden)
    gate_up_bias: torch.Tensor  # (experts, 1, 2 * intermediate)
    down: torch.Tensor  # (experts, hidden, intermediate)
    down_bias: torch.Tensor  # (experts, 1, hidden)
    per_token: int
    alpha: float
    limit: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (tokens, hidden): for each token the weighted sum of its experts."""
        scores, chosen = torch.topk(F.linear(x, self.router, self.router_bias), self.per_token)
        weights = torch.softmax(scores, dim=-1).unsqueeze(-1)
        if x.device.type == "cuda":
            outputs = self.grouped(x, chosen)
        elif self._reaches_most(x.shape[0]):
            outputs = self.dense(x, chosen)
        else:
            outputs = self.sorted(x, chosen)
        return outputs.mul_(weights).sum(dim=1)

    def _reaches_most(self, tokens: int) -> bool:
        """Whether `tokens` tokens, routed evenly, would use at least half of the experts."""
        missed = (1.0 - self.per_token / len(self.router)) ** tokens
        return tokens <= MOST_DENSE_TOKENS and missed <= 0.5

    def dense(self, x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Returns (tokens, per_token, hidden), the outputs of `chosen` (tokens, per_token)."""
        tokens, count = x.shape[0], len(self.router)
        shared = x.expand(count, tokens, -1)
        inner = self._swiglu(torch.baddbmm(self.gate_up_bias, shared, self.gate_up.mT))
        outputs = torch.baddbmm(self.down_bias, inner, self.down.mT).view(count * tokens, -1)
        rows = chosen * tokens
        if tokens > 1:
            rows += torch.arange(tokens).unsqueeze(1)
        return outputs.index_select(0, rows.view(-1)).view(tokens, self.per_token, -1)

    def sorted(self, x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """As `dense`, reading only the experts that are used."""
        flat = chosen.view(-1)
        order = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat, minlength=len(self.router)).tolist()
        inputs = x.index_select(0, order // self.per_token)
        inner = inputs.new_empty((len(flat), self.gate_up.shape[1]))
        self._each(inputs, inner, counts, self.gate_up, self.gate_up_bias)
        outputs = torch.empty_like(inputs)
        self._each(self._swiglu(inner), outputs, counts, self.down, self.down_bias)
        back = torch.empty_like(outputs).index_copy_(0, order, outputs)
        return back.view(x.shape[0], self.per_token, -1)

    @staticmethod
    def _each(
        inputs: torch.Tensor,
        outputs: torch.Tensor,
        counts: list[int],
        weight: torch.Tensor,
        bias: torch.Tensor,
    ) -> None:
        start = 0
        for expert, count in enumerate(counts):
            if count:
                rows = slice(start, start + count)
                torch.addmm(bias[expert], inputs[rows], weight[expert].t(), out=outputs[rows])
                start += count

    def grouped(self, x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """As `sorted`, with offsets that stay on the device."""
        flat = chosen.view(-1)
        experts, order = torch.sort(flat, stable=True)
        every = torch.arange(len(self.router), device=x.device, dtype=experts.dtype)
        ends = torch.searchsorted(experts, every, right=True).to(torch.int32)
        inputs = x.index_select(0, order // self.per_token)
        inner = F.grouped_mm(inputs, self.gate_up.mT, offs=ends)
        inner += self.gate_up_bias.squeeze(1).index_select(0, experts)
        outputs = F.grouped_mm(self._swiglu(inner), self.down.mT, offs=ends)
        outputs += self.down_bias.squeeze(1).index_select(0, experts)
        back = torch.empty_like(outputs).index_copy_(0, order, outputs)
        return back.view(x.shape[0], self.per_token, -1)

    def _swiglu(self, gate_up: torch.Tensor) -> torch.Tensor:
        """(up + 1) * gate * sigmoid(alpha * gate), gate clamped above, up on both sides."""
        gate, up = gate_up.chunk(2, dim=-1)
        gate.clamp_(max=self.limit)
        up.clamp_(min=-self.limit, max=self.limit)
        glu = torch.mul(gate, self.alpha).sigmoid_().mul_(gate)
        return torch.addcmul(glu, up, glu)
