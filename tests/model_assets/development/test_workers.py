"""Workers: two processes with a row each train the network that one with both rows trains."""

from __future__ import annotations

import itertools
import json
import multiprocessing
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from model_assets.development.batches import Batch
from model_assets.development.network import Network
from model_assets.development.shape import Shape
from model_assets.development.training import TrainingPlan, TrainingStep, train
from model_assets.development.workers import joined

ROWS = ([1, 2, 3, 4, 5, 6, 7, 8], [3, 1, 4, 1, 5, 2, 6, 5])
LEARNED = (7, 4)
"""Of how many tokens of each row the next one is learned: means are over tokens, not workers."""


def batch(rows: list[int]) -> Batch:
    tokens = torch.tensor([ROWS[row] for row in rows])
    targets = torch.full_like(tokens, -1)
    for place, row in enumerate(rows):
        targets[place, : LEARNED[row]] = tokens[place, 1 : LEARNED[row] + 1]
    visible = torch.ones(len(rows), 8, 8, dtype=torch.bool).tril()
    return Batch(tokens, torch.arange(8).expand(len(rows), -1), visible, targets)


def untrained() -> Network:
    torch.manual_seed(3)
    return Network(Shape(num_hidden_layers=1, hidden_size=32, intermediate_size=32), 9)


def unmoved(network: Network) -> list[str]:
    """Returns the names of the weights that are still as they were drawn."""
    first = untrained().state_dict()
    return [name for name, value in network.state_dict().items() if torch.equal(value, first[name])]


def gradient(network: Network) -> torch.Tensor:
    return torch.cat(
        [value.grad.flatten() for value in network.parameters() if value.grad is not None]
    )


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Gives the other tests of this process their threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def learn(rows: list[int]) -> tuple[Network, list[TrainingStep]]:
    torch.set_num_threads(1)
    network = untrained()
    steps: list[TrainingStep] = []
    train(network, TrainingPlan(steps=1, warm_steps=1), itertools.repeat(batch(rows)), steps.append)
    return network, steps


def assist(out: Path, worker: int, count: int) -> None:
    network, steps = learn([worker])
    sums = {name: float(value.double().sum()) for name, value in network.state_dict().items()}
    out.write_text(json.dumps([sums, [step.loss for step in steps]]))


def fail(worker: int, count: int) -> None:
    raise SystemExit(1)


def test_two_workers_train_as_one_process_does(tmp_path: Path) -> None:
    """Also their loss is that of both, and both end with the same bits."""
    told = tmp_path / "assistant.json"
    with joined(2, partial(assist, told)):
        together, steps = learn([0])
    alone, expected = learn([0, 1])
    # In bfloat16 a row rounds a little differently beside another one.
    assert torch.cosine_similarity(gradient(together), gradient(alone), dim=0) > 0.999
    for found, wanted in zip(steps, expected, strict=True):
        assert found.loss == pytest.approx(wanted.loss, rel=0.02)
        assert found.accuracy == pytest.approx(wanted.accuracy, abs=1 / sum(LEARNED) + 1e-6)
    assert unmoved(together) == unmoved(alone)
    sums, losses = json.loads(told.read_text())
    assert losses == [step.loss for step in steps]
    assert sums == {
        name: float(value.double().sum()) for name, value in together.state_dict().items()
    }


def test_one_worker_is_this_process() -> None:
    with joined(1, fail):
        assert not torch.distributed.is_initialized()


def test_a_worker_that_fails_ends_the_others() -> None:
    with pytest.raises(RuntimeError), joined(2, fail):
        learn([0])
    assert not multiprocessing.active_children()
