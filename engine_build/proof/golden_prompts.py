"""The golden prompts: what every engine is asked when it is built, and again by `verify`."""

from __future__ import annotations

from pathlib import Path

from engine_build.failure import BuildError, ExitCode
from serving.harmony.conversation import Conversation, FunctionTool, System, User
from serving.harmony.render import render
from serving.harmony.vocabulary import CALL, RETURN, Vocabulary, VocabularyError

MAX_TOKENS = 48
STOP = (RETURN, CALL)
"""The tokens that end an answer."""
WEATHER = FunctionTool(
    name="get_current_weather",
    description="Returns the weather of a city.",
    parameters={
        "type": "object",
        "properties": {"location": {"type": "string"}},
        "required": ["location"],
    },
)
CONVERSATIONS = {
    "greeting": Conversation(system=System(reasoning_effort="low"), turns=(User(text="Hello!"),)),
    "fact": Conversation(system=System(), turns=(User(text="What is the capital of France?"),)),
    "tool": Conversation(
        system=System(current_date="2026-01-31"),
        turns=(User(text="What is the weather in Paris?"),),
        tools=(WEATHER,),
    ),
}


def prompts(ranks: Path) -> dict[str, list[int]]:
    """Returns the token ids of every golden prompt by name, in a fixed order."""
    try:
        vocabulary = Vocabulary.load(ranks)
    except VocabularyError as error:
        raise BuildError(ExitCode.DATA, str(error)) from None
    return {name: render(talk, vocabulary) for name, talk in CONVERSATIONS.items()}
