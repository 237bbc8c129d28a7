"""A conversation as Harmony sees it. The renderer turns it into token ids.

All text is data: nothing in it can become a control token.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

ReasoningEffort = Literal["low", "medium", "high"]


class FunctionTool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call. `parameters` is a JSON schema, or None for none."""

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None


BuiltInName = Literal["python", "browser"]


class BuiltInTool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that the model was trained to use while it reasons, as the system message offers it.

    Without a `description` it is described as it was in training.
    """

    name: BuiltInName
    description: str | None = None


class System(msgspec.Struct, frozen=True, kw_only=True):
    """Harmony's system message: facts about the model, not the client's instructions.

    `current_date` is ISO 8601 (2026-01-31) or None to leave the line out: it stands near the
    start of every prompt, so a change of it empties the prefix cache.
    """

    model_identity: str = "You are ChatGPT, a large language model trained by OpenAI."
    knowledge_cutoff: str | None = "2024-06"
    current_date: str | None = None
    reasoning_effort: ReasoningEffort = "medium"
    built_in: tuple[BuiltInTool, ...] = ()


class Developer(msgspec.Struct, frozen=True, kw_only=True):
    """The client's instructions (OpenAI's `system` and `developer` roles), at any place."""

    instructions: str


class User(msgspec.Struct, frozen=True, kw_only=True):
    """What the user said."""

    text: str
    name: str | None = None


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that the model made. `arguments` is the JSON text as it was."""

    name: str
    arguments: str


class Assistant(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of the model as a client replays it.

    With `calls` the content is a preamble (commentary), without it is the final answer.
    """

    reasoning: str | None = None
    content: str | None = None
    calls: tuple[ToolCall, ...] = ()


class ToolResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the function `name` returned, as text."""

    name: str
    text: str


Turn = Developer | User | Assistant | ToolResult


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the prompt is made of.

    A leading run of `Developer` turns and `tools` share the one developer message that Harmony
    puts after the system message; a later `Developer` turn is a developer message in its place.
    """

    system: System
    turns: tuple[Turn, ...]
    tools: tuple[FunctionTool, ...] = ()
    response_formats: dict[str, dict[str, Any]] = {}
    """Name -> JSON schema, for the section `# Response Formats`."""
