"""Training rows: each conversation sees its scene's beginning and itself, and nothing else."""

from __future__ import annotations

import itertools
from random import Random

import numpy as np
import torch

from model_assets.development.batches import COPY_ROW_TOKENS, batch, copies, scene_rows
from model_assets.development.conversations import Generator
from model_assets.development.network import Network
from model_assets.development.rows import Rows, families, rows_of
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


def test_forms_of_a_word_are_one_family(vocabulary: Vocabulary) -> None:
    forms = {form: vocabulary.encode(form)[0] for form in (" Paris", "Paris", " get", ".get", ",")}
    rows = rows_of(forms.values(), vocabulary.size)
    found = families(vocabulary, rows)
    assert len(found) == len(rows.ids) + 1
    family = {form: found[rows.ids.index(token)] for form, token in forms.items()}
    assert family[" Paris"] == family["Paris"]
    assert family[" get"] == family[".get"]
    assert len({*family.values(), found[-1]}) == 4


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
        assert [pair for pair in expected if sum(map(len, pair)) <= 448] == found


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
    chosen = torch.tensor([segment in (0, number) for segment in row.segments])
    length = int(chosen.sum())
    visible = torch.ones(1, length, length, dtype=torch.bool).tril()
    with torch.inference_mode():
        together = network(packed.tokens, packed.positions, packed.visible)[0][chosen]
        alone = network(packed.tokens[:, chosen], torch.arange(length)[None], visible)[0]
    torch.testing.assert_close(together, alone, rtol=0, atol=0.05)


def test_the_second_of_two_equal_pieces_is_learned(vocabulary: Vocabulary) -> None:
    rows = rows_of(range(2000), vocabulary.size)
    text = np.full(COPY_ROW_TOKENS + 40, 1234)
    distances = set()
    for drawn in itertools.islice(copies(Random(1), rows, [text]), 5):
        for tokens, targets in zip(drawn.tokens.tolist(), drawn.targets.tolist(), strict=True):
            learned = [place for place, target in enumerate(targets) if target >= 0]
            assert learned == list(range(learned[0], learned[-1] + 1))
            assert targets[learned[0] : learned[-1] + 1] == tokens[learned[0] + 1 :][: len(learned)]
            piece = tokens[learned[0] : learned[-1] + 2]
            first = next(i for i in range(learned[0]) if tokens[i : i + len(piece)] == piece)
            distances.add(learned[0] - first)
            outside = tokens[:first] + tokens[first + len(piece) : learned[0]]
            assert set(outside) <= {1234}
    assert len(distances) > 20
