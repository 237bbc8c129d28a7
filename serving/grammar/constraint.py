"""What an answer may be held to."""

from __future__ import annotations

from typing import Any

import msgspec


class ToolForm(msgspec.Struct, frozen=True, kw_only=True):
    """A function that may be called; `schema` constrains its arguments, None leaves them free."""

    name: str
    schema: dict[str, Any] | None


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer must be. `tools` and the recipients in `built_in` may be called; `must_call`
    rules the final message out; `limits_tools` says that others were shown to the model, and may
    not be called; `schema` constrains the final message, None leaves it free."""

    tools: tuple[ToolForm, ...] = ()
    built_in: tuple[str, ...] = ()
    must_call: bool = False
    limits_tools: bool = False
    schema: dict[str, Any] | None = None

    @property
    def binds(self) -> bool:
        """False when any answer will do."""
        strict = any(tool.schema is not None for tool in self.tools)
        return self.must_call or self.limits_tools or strict or self.schema is not None
