"""One rank of a model: computes the logits after each chunk of a prompt and writes them.

`rank_process.py RANK_FILES RENDEZVOUS RANK COUNT OUTPUT CHUNK...`: tokens are 0, 7, 14, ... modulo
the vocabulary; `OUTPUT` becomes a safetensors file with one tensor, `logits`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from serving.engines.embedded.kv_store import KvStore
from serving.engines.embedded.model import Model
from serving.engines.embedded.parallel import load_rank
from serving.engines.embedded.plan import Planner, Span

BLOCKS = 32
BLOCK_TOKENS = 16
CPU = torch.device("cpu")


def logits(model: Model, chunks: list[int]) -> torch.Tensor:
    """Returns (chunks, vocab): the logits after each chunk of the prompt."""
    store = KvStore((BLOCKS,) * len(model.layers), model.sizes, model.dtype, torch.device("cpu"))
    planner = Planner(model.sizes, BLOCKS, BLOCKS, model.dtype, torch.device("cpu"))
    tokens = np.arange(sum(chunks)) * 7 % model.config.vocab_size
    table = np.arange(1, BLOCKS)
    rows, done = [], 0
    with torch.inference_mode():
        for count in chunks:
            span = Span(tokens[done : done + count], done, table, table, samples=True)
            rows.append(model.forward(planner.plan([span]), store)[0])
            done += count
    return torch.stack(rows)


def main(files: str, rendezvous: str, rank: str, count: str, output: str, *chunks: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=Path(rendezvous).as_uri(), rank=int(rank), world_size=int(count)
    )
    model = load_rank(Path(files), block_tokens=BLOCK_TOKENS, dtype=torch.float32, device=CPU)
    save_file({"logits": logits(model, [int(chunk) for chunk in chunks])}, output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
