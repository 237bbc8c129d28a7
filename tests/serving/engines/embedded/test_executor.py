"""Steps that fail as a whole are computed one sequence at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from serving.boundary.engine import KvCache, Limits
from serving.boundary.messages import Generate
from serving.boundary.sampling import Sampling
from serving.engines.embedded.executor import Executor
from serving.engines.embedded.loading import load_model
from serving.engines.embedded.plan import Span
from serving.engines.embedded.scheduler import Work
from serving.engines.embedded.sequence import Sequence as Running

VOCABULARY = 300
MESSAGES = {
    "CUDA out of memory": "out_of_memory",
    "an index is wrong": "internal",
}


class Narrow:
    """A forward pass that takes one sequence at a time, and one token not at all.

    Its logits are the first token's number, in memory that every run writes anew.
    """

    def __init__(self, message: str) -> None:
        self._message = message
        self._logits = torch.empty((1, VOCABULARY))

    def run(self, spans: Sequence[Span]) -> tuple[list[int], torch.Tensor]:
        if len(spans) > 1 or spans[0].tokens[0] == 0:
            raise RuntimeError(self._message)
        return [0], self._logits.fill_(float(spans[0].tokens[0]))

    def warm_up(self) -> None:
        """Nothing to warm."""

    def clear(self, full: Sequence[int], sliding: Sequence[int]) -> None:
        """Nothing to clear."""


@pytest.mark.parametrize("message", MESSAGES)
def test_each_sequence_keeps_its_own_logits(
    write_checkpoint: Callable[..., Path], shape: Any, message: str
) -> None:
    model = load_model(
        write_checkpoint(shape()),
        block_tokens=16,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    executor = Executor(
        model,
        lambda full, sliding: Narrow(message),
        Limits(max_batch_size=4, max_num_tokens=64, max_seq_len=64),
        KvCache(block_tokens=16, max_tokens=256),
    )
    work = [
        Work(Running(Generate(number, [first], Sampling(max_tokens=4)), number, 64, 16), 1)
        for number, first in enumerate((7, 0, 9))
    ]
    done, failed = executor.run(work)
    assert [sequence.id for sequence in done.sampled] == [0, 2]
    assert done.logits[:, 0].tolist() == [7.0, 9.0]
    assert done.work == [work[0], work[2]]
    assert [(sequence.id, fault.kind) for sequence, fault in failed] == [(1, MESSAGES[message])]
