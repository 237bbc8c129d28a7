"""One engine for all tests of the service among its machine's users, proxies and signals."""

from __future__ import annotations

from pathlib import Path

import pytest

import model_assets
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Delay, Scenario, Script, Tokens
from serving.harmony import vocabulary as words
from serving.harmony.vocabulary import Vocabulary

RANKS = Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"
LONG_SECONDS = 600.0


@pytest.fixture(scope="package")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine whose answer to `forever` does not end while a test lasts."""
    vocabulary = Vocabulary.load(RANKS)
    opening = (words.CHANNEL, *vocabulary.encode("final"), words.MESSAGE)
    said = Tokens(ids=(*opening, *vocabulary.encode("Yes."), words.RETURN))
    begun = Tokens(ids=(*opening, *vocabulary.encode("Well")))
    forever = Scenario(
        match=tuple(vocabulary.encode(" forever")), steps=(begun, Delay(seconds=LONG_SECONDS))
    )
    directory = tmp_path_factory.mktemp("replay") / "engine"
    script = Script(scenarios=(forever, Scenario(steps=(said,))), keeps_to_grammars=True)
    replay_engine.write(directory, script, ranks=RANKS)
    return directory
