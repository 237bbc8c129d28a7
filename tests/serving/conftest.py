"""Fixtures of the tests of the serving package."""

from __future__ import annotations

from pathlib import Path

import pytest

import model_assets
from serving.harmony.vocabulary import Vocabulary

RANKS = Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"


@pytest.fixture(scope="session")
def ranks() -> Path:
    """Where the vocabulary's file is."""
    return RANKS


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    """The real vocabulary, loaded once a worker."""
    return Vocabulary.load(RANKS)
