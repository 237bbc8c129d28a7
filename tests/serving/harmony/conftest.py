"""The vocabulary, loaded once a worker, and the library that ours is held to."""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import model_assets
from serving.harmony.vocabulary import Vocabulary
from tests.serving.harmony.oracle import Oracle, tokenize

Tokenize = Callable[[str], list[int]]


@pytest.fixture(scope="session")
def ranks_path() -> Path:
    """Returns where the compressed ranks are."""
    return Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"


@pytest.fixture(scope="session")
def vocabulary(ranks_path: Path) -> Vocabulary:
    """Returns the vocabulary."""
    return Vocabulary.load(ranks_path)


@pytest.fixture(scope="session")
def oracle(ranks_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    """Yields openai-harmony, loaded from our ranks and not from the network."""
    directory = tmp_path_factory.mktemp("ranks")
    with lzma.open(ranks_path) as compressed:
        (directory / "o200k_base.tiktoken").write_bytes(compressed.read())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_ENCODINGS_BASE", str(directory))
        yield Oracle()


@pytest.fixture(scope="session")
def ids(vocabulary: Vocabulary) -> Tokenize:
    """Returns a function from markup to ids: `<|end|>` and the like are control tokens in it."""
    return lambda markup: tokenize(markup, vocabulary)
