"""Fixtures of the tests of the serving package."""

from __future__ import annotations

from pathlib import Path

import pytest

import model_assets
from serving.harmony.vocabulary import Vocabulary
from serving.runtime.grammar.core import Compiler
from serving.runtime.grammar.ranks import read_pieces
from serving.settings import Deadlines
from tests.serving.scene import Scene, Stage

RANKS = Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"


@pytest.fixture(scope="session")
def ranks() -> Path:
    """Where the vocabulary's file is."""
    return RANKS


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    """The real vocabulary, loaded once a worker."""
    return Vocabulary.load(RANKS)


@pytest.fixture(scope="session")
def compiler() -> Compiler:
    """A compiler of grammars for the real vocabulary."""
    return Compiler(read_pieces(RANKS), Vocabulary.size)


@pytest.fixture
def stage(vocabulary: Vocabulary) -> Stage:
    """Returns a function that makes a scene: a pipeline on an engine that the test plays."""

    def make(deadlines: Deadlines | None = None, capacity: int = 8) -> Scene:
        return Scene(vocabulary, deadlines or Deadlines(), capacity)

    return make
