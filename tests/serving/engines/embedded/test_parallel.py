"""Ranks in processes of their own against the model in one piece."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from engine_build.weights import shard
from model_assets.development.shape import Shape, config
from serving.boundary.engine import Architecture
from serving.engines.embedded.checkpoint import CheckpointError
from serving.engines.embedded.loading import load_model
from serving.engines.embedded.parallel import load_rank

PROCESS = Path(__file__).with_name("rank_process.py")
REPOSITORY = Path(__file__).parents[4]
CHUNKS = (70, 1, 1, 30, 1)
CONFIG = config(Shape())


@pytest.fixture(scope="module")
def single() -> ModuleType:
    """The module that the processes run, to run the whole model in the same way."""
    spec = util.spec_from_file_location("rank_process", PROCESS)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _architecture(checkpoint: Path) -> Architecture:
    config = json.loads((checkpoint / "config.json").read_bytes())
    names = Architecture.__struct_fields__
    return Architecture(**{name: config[name] for name in names})


def _run_ranks(files: Path, room: Path, count: int) -> list[torch.Tensor]:
    """Returns each rank's logits."""
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    outputs = [room / f"logits-{rank}.safetensors" for rank in range(count)]
    rendezvous = room / "rendezvous"
    processes = []
    try:
        for rank, output in enumerate(outputs):
            place = map(str, (files, rendezvous, rank, count, output, *CHUNKS))
            command = [sys.executable, str(PROCESS), *place]
            processes.append(
                subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
            )
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * count, errors
    return [load_file(output)["logits"] for output in outputs]


@pytest.mark.parametrize(
    ("expert_parallel", "numbers"),
    [
        (2, {}),
        (1, {"intermediate": 64}),
        (2, {"heads": 4, "kv_heads": 1, "window": 5, "experts": 8}),
    ],
    ids=["experts by number", "experts cut", "one KV head on both"],
)
def test_two_ranks_give_the_logits_of_the_whole_model(
    write_checkpoint: Callable[..., Path],
    shape: Any,
    single: ModuleType,
    tmp_path: Path,
    expert_parallel: int,
    numbers: dict[str, Any],
) -> None:
    checkpoint = write_checkpoint(shape(**numbers))
    architecture = _architecture(checkpoint)
    shard.shard(
        checkpoint,
        tmp_path / "ranks",
        architecture,
        "test",
        tensor_parallel=2,
        expert_parallel=expert_parallel,
        workers=1,
    )
    whole = load_model(checkpoint, block_tokens=16, dtype=torch.float32, device=torch.device("cpu"))
    expected = single.logits(whole, list(CHUNKS))

    for found in _run_ranks(tmp_path / "ranks", tmp_path, 2):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(found.argmax(-1), expected.argmax(-1))


def test_files_cut_for_other_ranks_are_refused(tmp_path: Path) -> None:
    """A rank that finds no file of its own says which one it looked for."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    method = (tmp_path / "rendezvous").as_uri()
    dist.init_process_group("gloo", init_method=method, rank=0, world_size=1)
    try:
        with pytest.raises(CheckpointError, match=r"rank-00000-of-00001\.safetensors"):
            load_rank(tmp_path, block_tokens=16, dtype=torch.float32, device=torch.device("cpu"))
    finally:
        dist.destroy_process_group()
