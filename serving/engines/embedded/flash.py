"""Full attention of a prompt chunk through torch's fused kernels, with the sink put in afterwards.

For GPUs, where scores that are written out would cost more than they save. A sink s is a score
without a value: it only adds exp(s) to the denominator exp(lse), so the output without it times
sigmoid(lse - s) is the output with it.

The kernels differ in how they align a causal mask that is not square. So the chunk attends to its
past without a mask and to itself with a square one, and the two are joined by their log-sum-exp.

Tested on a CPU with the CPU's kernel; the CUDA kernel has not yet run.
"""

from __future__ import annotations

import torch


def attend_chunk(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, sinks: torch.Tensor
) -> torch.Tensor:
    """Returns (heads, tokens, head_dim) for the last `tokens` positions of a sequence.

    `queries` (heads, tokens, head_dim) come scaled; keys and values are (kv heads, positions,
    head_dim), those of the chunk last; `sinks` is (heads,).
    """
    tokens, positions = queries.shape[1], keys.shape[1]
    group = queries.shape[0] // keys.shape[0]
    keys, values = (side.repeat_interleave(group, dim=0) for side in (keys, values))
    past = positions - tokens
    output, lse = _kernel(queries, keys[:, past:], values[:, past:], causal=True)
    if past:
        before, before_lse = _kernel(queries, keys[:, :past], values[:, :past], causal=False)
        joint = torch.logaddexp(lse, before_lse)
        output = _weigh(output, lse - joint) + _weigh(before, before_lse - joint)
        lse = joint
    return (output * torch.sigmoid(lse - sinks.unsqueeze(1)).unsqueeze(2)).to(queries.dtype)


def _weigh(output: torch.Tensor, log_share: torch.Tensor) -> torch.Tensor:
    return output * log_share.exp().unsqueeze(2)


def _kernel(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns outputs (heads, tokens, head_dim) and float32 log-sum-exps (heads, tokens)."""
    batch = [side.unsqueeze(0) for side in (queries, keys, values)]
    if queries.device.type == "cuda":
        found = torch.ops.aten._scaled_dot_product_flash_attention(*batch, 0.0, causal, scale=1.0)
    else:
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *batch, 0.0, causal, scale=1.0
        )
    return found[0][0], found[1][0].to(torch.float32)
