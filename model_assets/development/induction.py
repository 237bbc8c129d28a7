"""First weights with which the network already copies.

Two heads of attention in a row make an induction circuit (Olsson et al. 2022, "In-context Learning
and Induction Heads"): one in the first layer notes at every token which token came before it, one
in the second layer looks for the place whose noted token is the present one, and says what stands
there. Learning this from nothing takes longer than all the rest of the training, and names and
arguments of tools need it, so the circuit is laid into the first weights and training refines it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from model_assets.development.network import Attention, Network

FAST_PAIRS = 4
"""Rope pairs that turn fast enough to tell neighbours apart."""
SLOW_FROM = 14
"""From this rope pair on, the angle hardly changes over some hundred tokens."""
NEAR_STRENGTH = 5.0
NOTE_STRENGTH = 0.6
MATCH_STRENGTH = 2.6
SAY_STRENGTH = 3.0
HEAD_STRENGTH = 0.2
TABLE_STRENGTH = 0.7
KINSHIP = 0.7
BEFORE_SHARE = 0.3


def lay(network: Network, families: Sequence[int]) -> None:
    """Writes the circuit into the first weights of a network with hidden = 2 * head_dim.

    Rows of one family (see `rows.families`) begin with similar vectors, so what is copied can
    change its form: ` Paris` in a question, `Paris` in an argument.

    At first the first half of the stream holds which token this is, and the second half what the
    circuit adds: a rotated copy of the token before, and a differently rotated copy of the token to
    say next, which is what the LM head reads.
    """
    shape = network.shape
    half = shape.head_dim
    if shape.hidden_size != 2 * half:
        raise ValueError(f"hidden_size is {shape.hidden_size}, not twice head_dim {half}")
    is_now, is_added = torch.split(torch.eye(2 * half), half)
    noted, said = orthogonal(half), orthogonal(half)
    with torch.no_grad():
        table = network.embed_tokens.weight
        shared = torch.randn(max(families) + 1, half)[torch.tensor(families)]
        own = torch.randn(len(families), half)
        table[:, :half] = TABLE_STRENGTH * (
            math.sqrt(KINSHIP) * shared + math.sqrt(1 - KINSHIP) * own
        )
        table[:, half:] = 0
        network.lm_head.weight.copy_(HEAD_STRENGTH * table[:, :half] @ said @ is_added)
        first, second = (cast(Attention, block.self_attn) for block in network.layers[:2])
        _look_back(first)
        _values(first, NOTE_STRENGTH * is_now, is_added.T @ noted.T)
        _match(second, is_now, noted @ is_added)
        _values(second, is_now, SAY_STRENGTH * is_added.T @ said.T)
        _match_before(second)


def orthogonal(size: int) -> Tensor:
    """Returns a random rotation."""
    matrix: Tensor = nn.init.orthogonal_(torch.empty(size, size))
    return matrix


def _look_back(attention: Attention) -> None:
    """Makes query head 0 attend to the token before, by its position alone."""
    width = attention.shape.head_dim
    half = width // 2
    key, query = torch.zeros(width), torch.zeros(width)
    key[:FAST_PAIRS] = NEAR_STRENGTH
    speeds = attention.shape.rope_theta ** (-torch.arange(FAST_PAIRS) / half)
    query[:FAST_PAIRS] = NEAR_STRENGTH * speeds.cos()
    query[half : half + FAST_PAIRS] = -NEAR_STRENGTH * speeds.sin()
    attention.k_proj.weight[:width] = 0
    attention.k_proj.bias[:width] = key
    attention.q_proj.weight[:width] = 0
    attention.q_proj.bias[:width] = query


def _match(attention: Attention, is_now: Tensor, was_before: Tensor) -> None:
    """Makes query head 0 look for keys whose noted token is the query's token."""
    width = attention.shape.head_dim
    half = width // 2
    slow = [*range(SLOW_FROM, half), *range(half + SLOW_FROM, width)]
    query, key = torch.zeros_like(is_now), torch.zeros_like(is_now)
    query[slow] = MATCH_STRENGTH * is_now[: len(slow)]
    key[slow] = MATCH_STRENGTH * was_before[: len(slow)]
    attention.q_proj.weight[:width] = query
    attention.q_proj.bias[:width] = 0
    attention.k_proj.weight[:width] = key
    attention.k_proj.bias[:width] = 0


def _match_before(attention: Attention) -> None:
    """Makes query head 1 look for keys whose noted token is the query's own noted token.

    It says, more softly, what followed the token before this one: after `city` and a quotation
    mark, what `city` was followed by earlier.
    """
    width = attention.shape.head_dim
    attention.q_proj.weight[width : 2 * width] = attention.k_proj.weight[:width]
    attention.q_proj.bias[width : 2 * width] = 0
    said = attention.o_proj.weight[:, :width]
    attention.o_proj.weight[:, width : 2 * width] = BEFORE_SHARE * said


def _values(attention: Attention, read: Tensor, write: Tensor) -> None:
    """Makes the first values read [width, hidden], and query head 0 write [hidden, width]."""
    width = attention.shape.head_dim
    attention.v_proj.weight[:width] = read
    attention.v_proj.bias[:width] = 0
    attention.o_proj.weight[:, :width] = write
