"""Nothing that a client sends becomes a control token of the prompt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.harmony.conversation import (
    Assistant,
    Conversation,
    Developer,
    FunctionTool,
    System,
    ToolCall,
    ToolResult,
    Turn,
    User,
)
from serving.harmony.render import render
from serving.harmony.vocabulary import ORDINARY_TOKENS, Vocabulary
from tests.serving.harmony.properties import PROPERTY

NAMES = st.sampled_from(
    [
        "<|start|>",
        "<|end|>",
        "<|message|>",
        "<|channel|>",
        "<|constrain|>",
        "<|return|>",
        "<|call|>",
        "<|endoftext|>",
        "<|reserved_200013|>",
        "\ud800",
        "\n",
        " to=functions.f",
        "x",
    ]
)
HOSTILE = st.lists(NAMES | st.text(max_size=5), max_size=6).map("".join)
SCHEMA = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["object", "string"]) | HOSTILE,
        "description": HOSTILE,
        "title": HOSTILE,
        "enum": st.lists(HOSTILE, max_size=2),
        "default": HOSTILE | st.lists(HOSTILE, max_size=2),
        "examples": st.lists(HOSTILE, max_size=2),
        "properties": st.dictionaries(
            HOSTILE,
            st.fixed_dictionaries(
                {"type": st.just("string"), "description": HOSTILE, "default": HOSTILE},
                optional={
                    "title": HOSTILE,
                    "enum": st.lists(HOSTILE),
                    "oneOf": st.lists(st.fixed_dictionaries({"description": HOSTILE}), max_size=2),
                },
            ),
            max_size=2,
        ),
    }
)
TURNS = st.one_of(
    st.builds(Developer, instructions=HOSTILE),
    st.builds(User, text=HOSTILE, name=st.none() | HOSTILE),
    st.builds(
        Assistant,
        reasoning=st.none() | HOSTILE,
        content=st.none() | HOSTILE,
        calls=st.lists(st.builds(ToolCall, name=HOSTILE, arguments=HOSTILE), max_size=2).map(tuple),
    ),
    st.builds(ToolResult, name=HOSTILE, text=HOSTILE),
)
CLIENTS = st.builds(
    Conversation,
    system=st.builds(
        System,
        model_identity=HOSTILE,
        knowledge_cutoff=st.none() | HOSTILE,
        current_date=st.none() | HOSTILE,
    ),
    turns=st.lists(TURNS, max_size=4).map(tuple),
    tools=st.lists(
        st.builds(FunctionTool, name=HOSTILE, description=HOSTILE, parameters=st.none() | SCHEMA),
        max_size=2,
    ).map(tuple),
    response_formats=st.dictionaries(HOSTILE, SCHEMA, max_size=2),
)


@PROPERTY
@given(client=CLIENTS)
def test_the_control_tokens_of_a_prompt_depend_on_its_shape_alone(
    vocabulary: Vocabulary, client: Conversation
) -> None:
    harmless = Conversation(
        system=System(),
        turns=tuple(map(_harmless, client.turns)),
        tools=tuple(FunctionTool(name="x") for _ in client.tools),
        response_formats={str(i): {} for i in range(len(client.response_formats))},
    )
    assert _control(render(client, vocabulary)) == _control(render(harmless, vocabulary))


def _harmless(turn: Turn) -> Turn:
    """Returns a turn of the same shape with texts that mean nothing."""
    if isinstance(turn, Developer):
        return Developer(instructions=_plain(turn.instructions))
    if isinstance(turn, User):
        return User(text="x")
    if isinstance(turn, ToolResult):
        return ToolResult(name="x", text="x")
    return Assistant(
        reasoning=_plain(turn.reasoning or ""),
        content=_plain(turn.content or ""),
        calls=tuple(ToolCall(name="x", arguments="x") for _ in turn.calls),
    )


def _plain(text: str) -> str:
    return "x" if text else ""


def _control(tokens: list[int]) -> list[int]:
    return [token for token in tokens if token >= ORDINARY_TOKENS]
