"""One process of a model on the CPU: a rank with its file, or the whole model alone.

`python -m engine_build.proof.rank_process WORK RANK` does the task in WORK/task.json and leaves
there answer-RANK.json and, where the task asks for them, logits-RANK.npy. Every rank computes every
token; rank 0 chooses.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch
import torch.distributed as dist

from engine_build.proof.ranks import LOGITS_NAME, RankAnswer, Task, answer_name, read_task
from serving.engines.embedded.kv_store import KvStore
from serving.engines.embedded.linear import fast_dtype
from serving.engines.embedded.loading import load_model
from serving.engines.embedded.model import Model
from serving.engines.embedded.parallel import load_rank
from serving.engines.embedded.plan import Planner, Span
from serving.engines.embedded.runtime import DTYPES

BLOCK_TOKENS = 32
RESERVED_BLOCKS = 1
"""The null block of a cache."""
CPU = torch.device("cpu")


def run(work: Path, rank: int) -> None:
    """Does the task in a work directory as one of its ranks."""
    task = read_task(work)
    dtype = DTYPES[task.activations] or fast_dtype(CPU)
    directory = Path(task.directory)
    if task.ranks == 1:
        model = load_model(directory, block_tokens=BLOCK_TOKENS, dtype=dtype, device=CPU)
    else:
        dist.init_process_group(
            "gloo",
            init_method=(work / "rendezvous").as_uri(),
            rank=rank,
            world_size=task.ranks,
        )
        model = load_rank(directory, block_tokens=BLOCK_TOKENS, dtype=dtype, device=CPU)
    answers: list[list[int]] = []
    logits: list[torch.Tensor] = []
    with torch.inference_mode():
        for index, prompt in enumerate(task.prompts):
            given = None if task.answers is None else task.answers[index]
            tokens: list[int] = []
            for row, token in _decode(model, prompt, given, task):
                tokens.append(token)
                if task.logits:
                    logits.append(row.float())
            answers.append(tokens)
    if task.logits:
        np.save(work / LOGITS_NAME.format(rank), torch.stack(logits).numpy())
    (work / answer_name(rank)).write_bytes(msgspec.json.encode(RankAnswer(tokens=tuple(answers))))
    if task.ranks > 1:
        dist.destroy_process_group()


def _decode(
    model: Model, prompt: list[int], given: list[int] | None, task: Task
) -> Iterator[tuple[torch.Tensor, int]]:
    """Yields (logits, token) one position after the other: the given tokens, or the likeliest."""
    most = task.max_tokens if given is None else len(given)
    blocks = -(-(len(prompt) + most) // BLOCK_TOKENS) + RESERVED_BLOCKS
    planner = Planner(model.sizes, blocks, blocks, model.dtype, CPU)
    store = KvStore((blocks,) * len(model.layers), model.sizes, model.dtype, CPU)
    table = np.arange(RESERVED_BLOCKS, blocks)
    fed, start = prompt, 0
    for index in range(most):
        span = Span(np.array(fed, dtype=np.int64), start, table, table, samples=True)
        row = model.forward(planner.plan([span]), store)[0]
        token = _likeliest(row, task.ranks) if given is None else given[index]
        yield row, token
        if token in task.stop:
            return
        start += len(fed)
        fed = [token]


def _likeliest(row: torch.Tensor, ranks: int) -> int:
    """Returns rank 0's choice, on every rank."""
    chosen = row.argmax().view(1)
    if ranks > 1:
        dist.broadcast(chosen, 0)
    return int(chosen)


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
