"""Training rows: each conversation sees its scene's beginning and itself, and nothing else."""

from __future__ import annotations

import numpy as np
import torch

from model_assets.development.batches import ROW_TOKENS, batch, scene_rows
from model_assets.development.conversations import Generator
from model_assets.development.network import Network
from model_assets.development.rows import Rows, rows_of
from model_assets.development.shape import Shape
from serving.harmony.render import render, render_completion
from serving.harmony.vocabulary import Vocabulary


def all_rows(vocabulary: Vocabulary, generator: Generator) -> Rows:
    ids: set[int] = set()
    for _ in range(30):
        for example in generator.scene(2):
            ids.update(render(example.conversation, vocabulary))
            ids.update(render_completion(example.answer, vocabulary))
    return rows_of(ids, vocabulary.size)


def test_an_id_without_a_row_goes_to_the_last(vocabulary: Vocabulary) -> None:
    rows = rows_of([7, 3, 200_006], vocabulary.size)
    assert rows.ids == (3, 7, 200_006)
    assert rows.compact([200_006, 3, 4, 7]).tolist() == [2, 0, 3, 1]


def test_rows_hold_each_conversation_with_its_answer_learned(
    vocabulary: Vocabulary, generator: Generator
) -> None:
    for _ in range(10):
        scene = generator.scene(4)
        expected: list[tuple[list[int], list[int]]] = []
        found: list[tuple[list[int], list[int]]] = []
        for example in scene:
            prompt = render(example.conversation, vocabulary)
            expected.append((prompt, render_completion(example.answer, vocabulary)))
        for row in scene_rows(scene, vocabulary):
            segments = np.array(row.segments)
            tokens, learned = np.array(row.tokens), np.array(row.learned)
            shared = tokens[segments == 0].tolist()
            for number in range(1, segments.max() + 1):
                own = segments == number
                positions = np.array(row.positions)[own]
                assert positions.tolist() == list(range(len(shared), len(shared) + own.sum()))
                found.append(
                    (shared + tokens[own & ~learned].tolist(), tokens[learned & own].tolist())
                )
        assert [pair for pair in expected if sum(map(len, pair)) <= ROW_TOKENS] == found


def test_a_conversation_in_a_row_computes_what_it_computes_alone(
    vocabulary: Vocabulary, generator: Generator
) -> None:
    torch.manual_seed(2)
    rows = all_rows(vocabulary, generator)
    shape = Shape(num_hidden_layers=2, hidden_size=32, intermediate_size=32)
    network = Network(shape, len(rows.ids)).eval()
    row = max(scene_rows(generator.scene(4), vocabulary), key=lambda r: max(r.segments))
    packed = batch([row], rows)
    number = max(row.segments)
    assert number > 1
    mine = [place for place, segment in enumerate(row.segments) if segment in (0, number)]
    chosen, length = torch.tensor(mine), len(mine)
    visible = torch.ones(1, length, length, dtype=torch.bool).tril()
    with torch.inference_mode():
        together = network(packed.tokens, packed.positions, packed.visible)[0][chosen]
        alone = network(packed.tokens[:, chosen], torch.arange(length)[None], visible)[0]
    torch.testing.assert_close(together, alone, rtol=0, atol=0.05)
