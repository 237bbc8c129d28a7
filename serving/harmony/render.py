"""A conversation as the token ids of a Harmony prompt.

Parity with openai-harmony 0.0.8 token for token, except where the rules of the format ask for more:
the reasoning of finished turns is dropped even while a later turn is in progress. Every text is
encoded on its own and control tokens are put between as ids, so no text can forge one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from serving.harmony.built_in import built_in_section
from serving.harmony.conversation import (
    Assistant,
    Conversation,
    Developer,
    System,
    ToolCall,
    ToolResult,
    Turn,
    User,
)
from serving.harmony.schema import compact_json, tools_section
from serving.harmony.vocabulary import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    MESSAGE,
    RETURN,
    START,
    Vocabulary,
)

_CHANNELS: Final = (
    "# Valid channels: analysis, commentary, final. Channel must be included for every message."
)
_TOOL_CHANNEL: Final = "\nCalls to these tools must go to the commentary channel: 'functions'."


def render(conversation: Conversation, vocabulary: Vocabulary) -> list[int]:
    """Returns the whole prompt, from the system message to `<|start|>assistant`.

    Reasoning before the last final answer is left out; later reasoning, of a turn in progress,
    stays. An assistant turn gives, in the order in which the model writes: analysis, preamble, tool
    calls; or analysis, final answer. Empty texts give no message, an empty tool result gives one.
    """
    writer = _Writer(vocabulary)
    writer.message("system", _system_text(conversation.system, bool(conversation.tools)))
    leading, turns = _split_leading(conversation.turns)
    developer = _developer_text(conversation, leading)
    if developer:
        writer.message("developer", developer)
    finished = _finished_turns(turns)
    for i, turn in enumerate(turns):
        writer.turn(turn, keep_reasoning=i >= finished)
    writer.open_message("assistant")
    return writer.ids


def render_completion(assistant: Assistant, vocabulary: Vocabulary) -> list[int]:
    """Returns what the model generates for one turn, after the prompt's `<|start|>assistant`.

    The last id is `<|call|>` after a tool call, else `<|return|>`. Raises ValueError for a turn
    that the model cannot end so: no content and no call, or several calls.
    """
    if len(assistant.calls) > 1:
        raise ValueError("a turn of the model ends with its first tool call")
    if not assistant.calls and not assistant.content:
        raise ValueError("a turn of the model ends with a tool call or a final answer")
    writer = _Writer(vocabulary)
    writer.turn(assistant, keep_reasoning=True)
    prompted = 1 + len(vocabulary.phrase("assistant"))
    end = CALL if assistant.calls else RETURN
    return [*writer.ids[prompted:-1], end]


def _split_leading(turns: Sequence[Turn]) -> tuple[list[str], Sequence[Turn]]:
    """Returns the instructions of the leading developer turns, and the turns after them."""
    leading: list[str] = []
    for i, turn in enumerate(turns):
        if not isinstance(turn, Developer):
            return leading, turns[i:]
        if turn.instructions:
            leading.append(turn.instructions)
    return leading, ()


def _finished_turns(turns: Sequence[Turn]) -> int:
    """Returns how many turns there are up to and with the last final answer."""
    for i in range(len(turns) - 1, -1, -1):
        turn = turns[i]
        if isinstance(turn, Assistant) and turn.content and not turn.calls:
            return i + 1
    return 0


def _system_text(system: System, has_tools: bool) -> str:
    facts = [system.model_identity]
    if system.knowledge_cutoff is not None:
        facts.append(f"Knowledge cutoff: {system.knowledge_cutoff}")
    if system.current_date is not None:
        facts.append(f"Current date: {system.current_date}")
    sections = ["\n".join(facts), f"Reasoning: {system.reasoning_effort}"]
    if system.built_in:
        sections.append(built_in_section(system.built_in))
    sections.append(_CHANNELS + (_TOOL_CHANNEL if has_tools else ""))
    return "\n\n".join(sections)


def _instructions(text: str) -> str:
    return f"# Instructions\n\n{text}"


def _developer_text(conversation: Conversation, leading: list[str]) -> str:
    """Returns the first developer message: instructions, tools, response formats; or nothing."""
    sections = []
    if leading:
        sections.append(_instructions("\n\n".join(leading)))
    if conversation.tools:
        sections.append(tools_section(conversation.tools))
    if conversation.response_formats:
        sections.append("# Response Formats")
        sections.extend(
            f"## {name}\n\n{compact_json(schema)}"
            for name, schema in conversation.response_formats.items()
        )
    return "\n\n".join(sections)


class _Writer:
    """Appends messages to a list of token ids."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.ids: list[int] = []
        self._encode = vocabulary.encode
        self._phrase = vocabulary.phrase

    def open_message(self, role: str) -> None:
        self.ids.append(START)
        self.ids.extend(self._phrase(role))

    def message(self, role: str, text: str, channel: str | None = None) -> None:
        """Appends a message whose role, and channel, are words of the format."""
        self.open_message(role)
        if channel is not None:
            self.ids.append(CHANNEL)
            self.ids.extend(self._phrase(channel))
        self._body(text)

    def turn(self, turn: Turn, *, keep_reasoning: bool) -> None:
        """Appends the messages of one turn."""
        if isinstance(turn, User):
            self._user(turn)
        elif isinstance(turn, Assistant):
            for channel, text in _assistant_texts(turn, keep_reasoning):
                self.message("assistant", text, channel)
            for call in turn.calls:
                self._call(call)
        elif isinstance(turn, ToolResult):
            self._result(turn)
        elif turn.instructions:
            self.message("developer", _instructions(turn.instructions))

    def _body(self, text: str, end: int = END) -> None:
        self.ids.append(MESSAGE)
        self.ids.extend(self._encode(text))
        self.ids.append(end)

    def _user(self, turn: User) -> None:
        self.open_message("user")
        if turn.name is not None:
            self.ids.extend(self._encode(f":{turn.name}"))
        self._body(turn.text)

    def _call(self, call: ToolCall) -> None:
        self.open_message("assistant")
        self.ids.extend(self._encode(f" to=functions.{call.name}"))
        self.ids.append(CHANNEL)
        self.ids.extend(self._phrase("commentary"))
        self.ids.extend(self._phrase(" "))
        self.ids.append(CONSTRAIN)
        self.ids.extend(self._phrase("json"))
        self._body(call.arguments, CALL)

    def _result(self, turn: ToolResult) -> None:
        self.ids.append(START)
        self.ids.extend(self._encode(f"functions.{turn.name}"))
        self.ids.extend(self._phrase(" to=assistant"))
        self.ids.append(CHANNEL)
        self.ids.extend(self._phrase("commentary"))
        self._body(turn.text)


def _assistant_texts(turn: Assistant, keep_reasoning: bool) -> Iterator[tuple[str, str]]:
    """Yields (channel, text) of the messages before the calls."""
    if turn.reasoning and keep_reasoning:
        yield "analysis", turn.reasoning
    if turn.content:
        yield ("commentary" if turn.calls else "final"), turn.content
