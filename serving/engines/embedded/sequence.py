"""One sequence on its way through the engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.boundary.messages import Finish, Generate
from serving.boundary.sampling import Sampling
from serving.engines.embedded.blocks import chain_hash, root_hash

Indices = NDArray[np.int64]


class Sequence:
    """Tokens so far, how many of them are in the cache, and the blocks that hold them.

    `computed` tokens have keys and values; the last token never has while the sequence runs, so
    `remaining` is at least 1. Table entries without a block are 0.
    """

    def __init__(
        self, request: Generate, arrival: int, max_seq_len: int, block_tokens: int
    ) -> None:
        self.id = request.id
        self.sampling: Sampling = request.sampling
        self.priority = request.priority
        self.arrival = arrival
        self.prompt_tokens = len(request.prompt)
        self.most_tokens = min(self.prompt_tokens + request.sampling.max_tokens, max_seq_len)
        self._tokens: Indices = np.empty(self.most_tokens, dtype=np.int64)
        self._tokens[: self.prompt_tokens] = request.prompt
        self.length = self.prompt_tokens
        self.computed = 0
        self.cached_tokens: int | None = None
        """Prompt tokens found in the cache on first admission; None before it."""
        self._block_tokens = block_tokens
        blocks = -(-self.most_tokens // block_tokens)
        self.full_table: Indices = np.zeros(blocks, dtype=np.int64)
        self.sliding_table: Indices = np.zeros(blocks, dtype=np.int64)
        self.held_blocks = 0
        """Leading blocks of the sequence that have memory in the full layers."""
        self.first_sliding_block = 0
        """Blocks before this one have been given back by the sliding layers."""
        self.kept_tokens = 0
        """Leading tokens whose keys and values are in shared blocks: not to be written again."""
        self.named_blocks = 0
        """Leading blocks whose content is recorded for reuse."""
        self.scored_tokens = 1
        """Leading tokens of the prompt whose log-probabilities were given; the first has none."""
        self._hashes = [root_hash(request.cache_salt)]

    @property
    def precedence(self) -> tuple[float, int]:
        """Sorts what is served first to the front."""
        return (-self.priority, self.arrival)

    @property
    def remaining(self) -> int:
        """Tokens still to compute before the next can be sampled."""
        return self.length - self.computed

    @property
    def scoring(self) -> bool:
        """True while tokens of the prompt are to be scored that have not been."""
        wanted = self.sampling.prompt_logprobs is not None
        return wanted and self.scored_tokens < self.prompt_tokens

    def token(self, position: int) -> int:
        """Returns the token at a position before `length`."""
        return int(self._tokens[position])

    @property
    def generated(self) -> int:
        """Tokens sampled so far."""
        return self.length - self.prompt_tokens

    def span(self, count: int) -> Indices:
        """Returns the next `count` tokens to compute."""
        return self._tokens[self.computed : self.computed + count]

    def append(self, token: int) -> Finish:
        """Adds a sampled token and returns why the sequence ends with it, or an empty string."""
        self._tokens[self.length] = token
        self.length += 1
        if token in self.sampling.stop_token_ids and not self.sampling.ignore_eos:
            return "stop"
        return "length" if self.length == self.most_tokens else ""

    def block_hash(self, index: int) -> bytes:
        """Returns the chained hash of block `index`, all of whose tokens are known."""
        size = self._block_tokens
        while len(self._hashes) <= index + 1:
            start = (len(self._hashes) - 1) * size
            content = self._tokens[start : start + size].astype(np.uint32).tobytes()
            self._hashes.append(chain_hash(self._hashes[-1], content))
        return self._hashes[index + 1]
