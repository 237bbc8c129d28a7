"""The service that every client is tested against: `python -m tests.clients.service`.

It runs in this repository's own environment, prints its URL once it is ready, and ends with its
standard input. The engine plays a script, so each client must get exactly what the script says: the
answer depends on a word of the prompt.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import model_assets
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Scenario, Script, Tokens
from serving.harmony.conversation import Assistant, ToolCall
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import Vocabulary
from tests.commands import serve

RANKS = Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"

NAMES = ("openai/gpt-oss-120b", "gpt-6-astra", "gpt-3.5-turbo-instruct", "model")
"""The model's name, and those that the openai package's own tests ask for."""
HELLO = Assistant(reasoning="A greeting.", content="Hello, wörld 😀!")
LOOK = ToolCall(name="get_weather", arguments='{"city": "Paris"}')
PERSON = '{"name": "Ada", "age": 36}'


def make_script(vocabulary: Vocabulary) -> Script:
    """Returns what the engine plays; the first word that is in the prompt decides."""

    def scenario(word: str | None, said: Assistant) -> Scenario:
        tokens = tuple(render_completion(said, vocabulary))
        match = () if word is None else tuple(vocabulary.encode(word))
        return Scenario(match=match, steps=(Tokens(ids=tokens),))

    return Script(
        keeps_to_grammars=True,
        pace_seconds=0.001,
        scenarios=(
            # What the tool returned, so this is the turn after the call.
            scenario(" Celsius", Assistant(content="It is 18 degrees in Paris.")),
            scenario(" rainfall", Assistant(reasoning="Look.", calls=(LOOK,))),
            # Some clients ask for structure by a function that must be called.
            *(
                scenario(
                    f"type {name} =", Assistant(calls=(ToolCall(name=name, arguments=PERSON),))
                )
                for name in ("Person", "PartialPerson", "json")
            ),
            scenario("# Response Formats", Assistant(reasoning="A person.", content=PERSON)),
            scenario(None, HELLO),
        ),
    )


def main() -> None:
    """Serves until standard input ends."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        engine = root / "engine"
        replay_engine.write(engine, make_script(Vocabulary.load(RANKS)), ranks=RANKS)
        extra = {
            "GPT_OSS_ENGINE": str(engine),
            "GPT_OSS_SERVED_MODEL_NAMES": json.dumps(NAMES),
            "XDG_STATE_HOME": str(root / "state"),
        }
        with serve(root / "bentoml", extra=extra) as served:
            served.wait_until_ready()
            sys.stdout.write(f"{served.url}\n")
            sys.stdout.flush()
            sys.stdin.read()


if __name__ == "__main__":
    main()
