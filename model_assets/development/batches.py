"""Training rows and batches.

A row holds the common beginning of a scene once, then its conversations one after the other. Each
conversation sees the beginning and itself, at the positions that it would have alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import torch
from torch import Tensor

from model_assets.development.conversations import Example, Generator
from model_assets.development.rows import Rows
from serving.harmony.render import render, render_completion
from serving.harmony.vocabulary import Vocabulary

CONVERSATIONS_A_SCENE = 8
ROW_TOKENS = 512
BATCH_TOKENS = 3072
POOL_ROWS = 96
LENGTH_STEP = 64
"""Rows are padded to a multiple: the CPU's matrix library compiles code for every new shape."""


class Row(msgspec.Struct):
    """One row: token ids, positions, conversation numbers (0: the beginning), learned or not."""

    tokens: list[int]
    positions: list[int]
    segments: list[int]
    learned: list[bool]


class Batch(msgspec.Struct, frozen=True):
    """Tensors of [B, T]; visible is [B, T, T]. `targets` is -1 where nothing is learned."""

    tokens: Tensor
    positions: Tensor
    visible: Tensor
    targets: Tensor


def scene_rows(scene: Sequence[Example], vocabulary: Vocabulary) -> list[Row]:
    """Returns the rows of a scene; a conversation that is too long for a row is left out."""
    prompts = [render(example.conversation, vocabulary) for example in scene]
    answers = [render_completion(example.answer, vocabulary) for example in scene]
    shared = _shared(prompts)
    rows: list[Row] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        if len(prompt) + len(answer) > ROW_TOKENS:
            continue
        rest = len(prompt) - shared + len(answer)
        if not rows or len(rows[-1].tokens) + rest > ROW_TOKENS:
            start = prompt[:shared]
            rows.append(Row(start, list(range(shared)), [0] * shared, [False] * shared))
        row = rows[-1]
        row.tokens = row.tokens + prompt[shared:] + answer
        row.positions += range(shared, shared + rest)
        row.segments += [row.segments[-1] + 1] * rest
        row.learned += [False] * (rest - len(answer)) + [True] * len(answer)
    return rows


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """Returns how many leading tokens the prompts share; each keeps at least one of its own."""
    shortest = min(len(prompt) for prompt in prompts) - 1
    for index in range(shortest):
        if any(prompt[index] != prompts[0][index] for prompt in prompts):
            return index
    return shortest


def batch(rows: Sequence[Row], vocabulary_rows: Rows) -> Batch:
    """Returns the rows as tensors, padded on the right to a length that holds the longest."""
    length = -max(len(row.tokens) for row in rows) // LENGTH_STEP * -LENGTH_STEP
    tokens = np.full((len(rows), length), len(vocabulary_rows.ids), dtype=np.int64)
    positions = np.zeros((len(rows), length), dtype=np.int64)
    segments = np.full((len(rows), length), -1, dtype=np.int64)
    targets = np.full((len(rows), length), -1, dtype=np.int64)
    for index, row in enumerate(rows):
        count = len(row.tokens)
        tokens[index, :count] = vocabulary_rows.compact(row.tokens)
        positions[index, :count] = row.positions
        segments[index, :count] = row.segments
        learned = np.asarray(row.learned[1:])
        targets[index, : count - 1] = np.where(learned, tokens[index, 1:count], -1)
    place = torch.from_numpy(segments)
    same = (place[:, :, None] == place[:, None, :]) | (place[:, None, :] == 0)
    visible = same & torch.ones(length, length, dtype=torch.bool).tril()
    return Batch(
        torch.from_numpy(tokens), torch.from_numpy(positions), visible, torch.from_numpy(targets)
    )


def batches(
    generator: Generator, vocabulary: Vocabulary, rows: Rows, size_tokens: int = BATCH_TOKENS
) -> Iterator[Batch]:
    """Yields batches of at most `size_tokens` without end, rows of similar length together."""
    while True:
        pool: list[Row] = []
        while len(pool) < POOL_ROWS:
            pool += scene_rows(generator.scene(CONVERSATIONS_A_SCENE), vocabulary)
        pool.sort(key=lambda row: len(row.tokens))
        cut: list[list[Row]] = [[]]
        for row in pool:
            if (len(cut[-1]) + 1) * len(row.tokens) > size_tokens:
                cut.append([])
            cut[-1].append(row)
        generator.rng.shuffle(cut)
        for part in cut:
            yield batch(part, rows)
