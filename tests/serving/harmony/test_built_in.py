"""Built-in tools as the library offers them, and a conversation that goes on after their calls."""

from __future__ import annotations

import openai_harmony as harmony
import pytest

from serving.events import (
    BuiltInCallStart,
    Channel,
    Content,
    Event,
    Reasoning,
    ToolCallArguments,
    ToolCallStart,
)
from serving.harmony.built_in import continuation, recipients
from serving.harmony.conversation import (
    BuiltInTool,
    Conversation,
    Developer,
    FunctionTool,
    System,
    User,
)
from serving.harmony.parse import Parser
from serving.harmony.render import render
from serving.harmony.vocabulary import START, Vocabulary
from tests.serving.harmony.conftest import Tokenize
from tests.serving.harmony.oracle import Oracle

PYTHON = BuiltInTool(name="python")
BROWSER = BuiltInTool(name="browser")
BOTH = recipients((PYTHON, BROWSER))


@pytest.mark.parametrize(
    "tools",
    [
        (PYTHON,),
        (BROWSER,),
        (PYTHON, BROWSER),
        (BuiltInTool(name="python", description="Runs.\n\nAnd prints.\n"),),
        (BuiltInTool(name="browser", description="Reads.\nsources=intranet"),),
    ],
)
@pytest.mark.parametrize("functions", [(), (FunctionTool(name="python", description="Mine."),)])
def test_the_system_message_offers_them_as_the_library_does(
    tools: tuple[BuiltInTool, ...],
    functions: tuple[FunctionTool, ...],
    vocabulary: Vocabulary,
    oracle: Oracle,
) -> None:
    conversation = Conversation(
        system=System(current_date="2026-01-31", built_in=tools),
        turns=(Developer(instructions="Be kind."), User(text="Hi")),
        tools=functions,
    )
    assert render(conversation, vocabulary) == oracle.render(conversation)


def test_a_system_message_without_them_is_as_it_was(vocabulary: Vocabulary, oracle: Oracle) -> None:
    conversation = Conversation(system=System(), turns=(User(text="Hi"),))
    text = vocabulary.decode(render(conversation, vocabulary))
    assert "# Tools" not in text
    assert render(conversation, vocabulary) == oracle.render(conversation)


@pytest.mark.parametrize(
    ("recipient", "call"),
    [("python", "print(1)"), ("browser.search", '{"query":"x"}')],
)
def test_a_call_and_its_output_continue_the_prompt_as_the_library_renders_them(
    recipient: str, call: str, vocabulary: Vocabulary, oracle: Oracle, ids: Tokenize
) -> None:
    generated = ids(f" to={recipient}<|channel|>analysis code<|message|>{call}<|call|>")
    prompt = render(Conversation(system=System(), turns=(User(text="Hi"),)), vocabulary)
    made = prompt + continuation(
        generated, BuiltInCallStart(0, recipient), "a\n<|end|>", vocabulary
    )

    author = harmony.Author.new(harmony.Role.TOOL, recipient)
    messages = [
        harmony.Message.from_role_and_content(harmony.Role.ASSISTANT, call)
        .with_channel("analysis")
        .with_recipient(recipient)
        .with_content_type("code"),
        harmony.Message.from_author_and_content(author, "a\n<|end|>")
        .with_channel("analysis")
        .with_recipient("assistant"),
    ]
    rendered = oracle.encoding.render_conversation_for_completion(
        harmony.Conversation.from_messages(messages), harmony.Role.ASSISTANT
    )
    # The library's begins with the `<|start|>assistant` that our prompt ends in.
    opening = [START, *vocabulary.encode("assistant")]
    assert prompt[-len(opening) :] == opening
    assert made == prompt[: -len(opening)] + list(rendered)


def test_the_last_token_becomes_the_one_that_ends_a_call(
    vocabulary: Vocabulary, ids: Tokenize
) -> None:
    generated = ids(" to=python<|channel|>commentary code<|message|>1<|return|>")
    made = continuation(generated, BuiltInCallStart(0, "python", "commentary"), "", vocabulary)
    # What the tool says comes back on the channel of the call.
    assert vocabulary.decode(made) == (
        " to=python<|channel|>commentary code<|message|>1<|call|>"
        "<|start|>python to=assistant<|channel|>commentary<|message|><|end|><|start|>assistant"
    )


@pytest.mark.parametrize(
    ("markup", "name"),
    [
        ("<|channel|>analysis to=python code<|message|>1<|call|>", "python"),
        (" to=python<|channel|>analysis code<|message|>1<|call|>", "python"),
        ("<|channel|>commentary to=python code<|message|>1<|call|>", "python"),
        ("<|channel|>analysis to=python <|constrain|>json<|message|>1<|call|>", "python"),
        ("<|channel|>analysis to=browser.search code<|message|>1<|call|>", "browser.search"),
        (" to=browser.open<|channel|>analysis<|message|>1<|call|>", "browser.open"),
        ("<|channel|>analysis to=functions.browser.find code<|message|>1", "browser.find"),
        ("<|channel|>analysis to=functions.python code<|message|>1<|call|>", "python"),
        ("<|channel|>analysis to=python,<|message|>1<|call|>", "python"),
    ],
)
def test_a_call_is_known_by_its_recipient_on_whatever_channel(
    markup: str, name: str, vocabulary: Vocabulary, ids: Tokenize
) -> None:
    channel: Channel = "commentary" if "commentary" in markup else "analysis"
    start = BuiltInCallStart(0, name, channel)
    assert _parse(markup, vocabulary, ids) == [start, ToolCallArguments(0, "1")]


def test_a_function_of_the_same_name_is_called_by_its_namespace(
    vocabulary: Vocabulary, ids: Tokenize
) -> None:
    tools = frozenset({"python"})
    own = "<|channel|>commentary to=functions.python json<|message|>1<|call|>"
    built_in = "<|channel|>analysis to=python code<|message|>1<|call|>"
    assert _parse(own, vocabulary, ids, tools)[0] == ToolCallStart(0, "python")
    assert _parse(built_in, vocabulary, ids, tools)[0] == BuiltInCallStart(0, "python")


def test_what_was_not_offered_is_reasoning_as_before(vocabulary: Vocabulary, ids: Tokenize) -> None:
    parser = Parser(vocabulary, built_in=frozenset({"python"}))
    tokens = ids("<|channel|>analysis to=browser.search code<|message|>1<|call|>")
    assert parser.feed(tokens) + parser.finish() == [Reasoning("1")]
    assert parser.recoveries == {"unoffered_tool": 1}
    assert not parser.tool_calls


def test_reasoning_calls_and_an_answer_keep_their_order(
    vocabulary: Vocabulary, ids: Tokenize
) -> None:
    markup = (
        "<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant<|channel|>analysis to=python code<|message|>1<|call|>"
        "<|start|>assistant<|channel|>final<|message|>One.<|return|>"
    )
    assert _parse(markup, vocabulary, ids) == [
        Reasoning("Hm."),
        BuiltInCallStart(0, "python"),
        ToolCallArguments(0, "1"),
        Content("One."),
    ]


def _parse(
    markup: str, vocabulary: Vocabulary, ids: Tokenize, tools: frozenset[str] = frozenset()
) -> list[Event]:
    parser = Parser(vocabulary, tools, BOTH)
    return parser.feed(ids(markup)) + parser.finish()
