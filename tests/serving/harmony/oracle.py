"""openai-harmony, asked in our words: what it renders and parses is what GPT-OSS was trained on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import openai_harmony as harmony

from serving.harmony.conversation import (
    Assistant,
    Conversation,
    Developer,
    FunctionTool,
    System,
    ToolResult,
    Turn,
    User,
)
from serving.harmony.vocabulary import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    END_OF_TEXT,
    MESSAGE,
    RETURN,
    START,
    Vocabulary,
)

CONTROL = {
    "<|start|>": START,
    "<|end|>": END,
    "<|message|>": MESSAGE,
    "<|channel|>": CHANNEL,
    "<|constrain|>": CONSTRAIN,
    "<|return|>": RETURN,
    "<|call|>": CALL,
    "<|endoftext|>": END_OF_TEXT,
}


class Message(NamedTuple):
    """One message as the library parsed it."""

    channel: str | None
    recipient: str | None
    text: str


class Oracle:
    """The library with the o200k_harmony encoding loaded."""

    def __init__(self) -> None:
        self.encoding = harmony.load_harmony_encoding(
            str(harmony.HarmonyEncodingName.HARMONY_GPT_OSS)
        )

    def render(self, conversation: Conversation, *, drop_analysis: bool = True) -> list[int]:
        """Returns the library's prompt. Response formats are not in its vocabulary."""
        return list(
            self.encoding.render_conversation_for_completion(
                harmony.Conversation.from_messages(_messages(conversation)),
                harmony.Role.ASSISTANT,
                harmony.RenderConversationConfig(auto_drop_analysis=drop_analysis),
            )
        )

    def parse(self, tokens: Sequence[int]) -> list[Message]:
        """Returns the messages of a completion. Raises HarmonyError where the library does."""
        found = self.encoding.parse_messages_from_completion_tokens(tokens, harmony.Role.ASSISTANT)
        return [
            Message(
                message.channel,
                message.recipient,
                "".join(part.text for part in message.content if hasattr(part, "text")),
            )
            for message in found
        ]


def tokenize(markup: str, vocabulary: Vocabulary) -> list[int]:
    """Returns the ids of `markup`, in which `<|start|>` and the like are control tokens."""
    ids: list[int] = []
    for part in re.split(r"(<\|\w+\|>)", markup):
        if part in CONTROL:
            ids.append(CONTROL[part])
        elif part:
            ids.extend(vocabulary.encode(part))
    return ids


def _messages(conversation: Conversation) -> Iterator[harmony.Message]:
    yield _of(harmony.Role.SYSTEM, _system(conversation.system))
    turns = list(conversation.turns)
    leading = []
    while turns and isinstance(first := turns[0], Developer):
        leading.append(first.instructions)
        turns.pop(0)
    if leading or conversation.tools:
        content = harmony.DeveloperContent.new()
        if leading:
            content = content.with_instructions("\n\n".join(leading))
        if conversation.tools:
            content = content.with_function_tools(list(map(_tool, conversation.tools)))
        yield _of(harmony.Role.DEVELOPER, content)
    for turn in turns:
        yield from _turn(turn)


def _turn(turn: Turn) -> Iterator[harmony.Message]:
    if isinstance(turn, Developer):
        content = harmony.DeveloperContent.new().with_instructions(turn.instructions)
        yield _of(harmony.Role.DEVELOPER, content)
    elif isinstance(turn, User):
        author = harmony.Author(role=harmony.Role.USER, name=turn.name)
        yield harmony.Message.from_author_and_content(author, turn.text)
    elif isinstance(turn, ToolResult):
        author = harmony.Author.new(harmony.Role.TOOL, f"functions.{turn.name}")
        message = harmony.Message.from_author_and_content(author, turn.text)
        yield message.with_channel("commentary").with_recipient("assistant")
    else:
        yield from _assistant(turn)


def _assistant(turn: Assistant) -> Iterator[harmony.Message]:
    if turn.reasoning:
        yield _of(harmony.Role.ASSISTANT, turn.reasoning).with_channel("analysis")
    if turn.content:
        channel = "commentary" if turn.calls else "final"
        yield _of(harmony.Role.ASSISTANT, turn.content).with_channel(channel)
    for call in turn.calls:
        message = _of(harmony.Role.ASSISTANT, call.arguments).with_channel("commentary")
        message = message.with_recipient(f"functions.{call.name}")
        yield message.with_content_type("<|constrain|>json")


def _of(role: harmony.Role, content: str | harmony.Content) -> harmony.Message:
    return harmony.Message.from_role_and_content(role, content)


def _system(system: System) -> harmony.SystemContent:
    content = harmony.SystemContent(
        model_identity=system.model_identity,
        reasoning_effort=harmony.ReasoningEffort(system.reasoning_effort.capitalize()),
        conversation_start_date=system.current_date,
        knowledge_cutoff=system.knowledge_cutoff,
    )
    for tool in system.built_in:
        python = tool.name == "python"
        namespace = (
            harmony.ToolNamespaceConfig.python if python else harmony.ToolNamespaceConfig.browser
        )()
        if tool.description is not None:
            namespace.description = tool.description
        content = content.with_tools(namespace)
    return content


def _tool(tool: FunctionTool) -> harmony.ToolDescription:
    return harmony.ToolDescription.new(tool.name, tool.description, tool.parameters)
