"""The vocabulary and the development checkpoint, compact and expanded, once a worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

import model_assets
from model_assets import manifest
from model_assets.development import compact
from model_assets.development.catalogue import Catalogue, read_catalogue
from model_assets.development.compact import Compact
from model_assets.development.conversations import Generator, Lesson
from model_assets.development.exchanges import read_questions
from model_assets.development.expand import expand
from serving.harmony.vocabulary import Vocabulary

ASSETS = Path(model_assets.__file__).parent


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    """Returns the o200k_harmony vocabulary."""
    return Vocabulary.load(ASSETS / "tokenizer" / "o200k_base.tiktoken.xz")


@pytest.fixture(scope="session")
def compact_path() -> Path:
    """Returns the compact file that the development manifest names."""
    (file,) = manifest.read("development").files
    return ASSETS / file.path


@pytest.fixture(scope="session")
def checkpoint(compact_path: Path) -> Compact:
    """Returns the compact checkpoint in memory."""
    return compact.read(compact_path)


@pytest.fixture(scope="session")
def expanded(compact_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the expanded checkpoint's directory."""
    out = tmp_path_factory.mktemp("checkpoint") / "expanded"
    expand(compact_path, out)
    return out


JUNK = ("xylorimba", "quokka", "zeugma")


def make_generator(seed: int, lesson: Lesson = "all") -> Generator:
    """Returns a generator of scenes whose unreadable words are `JUNK`."""
    return Generator(Random(seed), read_questions(), read_catalogue(), JUNK, lesson)


@pytest.fixture
def generators() -> Callable[..., Generator]:
    """Returns a function from a seed, and a lesson, to a generator."""
    return make_generator


@pytest.fixture
def generator() -> Generator:
    """Returns a generator of scenes with a fixed seed."""
    return make_generator(5)


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """Returns the catalogue of tools."""
    return read_catalogue()
