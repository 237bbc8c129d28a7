"""Built-in tools beside a chat request: what the model is shown of them, and what it may call."""

from __future__ import annotations

from dataclasses import dataclass, replace

from serving.harmony.built_in import RECIPIENTS, recipients
from serving.harmony.conversation import BuiltInName, BuiltInTool


@dataclass(frozen=True, slots=True)
class BuiltInUse:
    """Which built-in tools a request has, and what its tool choice says of them."""

    tools: tuple[BuiltInTool, ...] = ()
    """Those that the model is shown."""
    callable: frozenset[str] = frozenset()
    """Recipients that it may call."""
    must_call: bool = False
    """It must make a call that it may make, before it answers."""
    alone: bool = False
    """It may call no function."""
    once: bool = False
    """What is not to be called may be called when the call has been made."""

    @property
    def limits(self) -> bool:
        """Whether something that the model is shown may not be called, or something must be."""
        return self.must_call or self.alone or self.callable != recipients(self.tools)

    @property
    def called(self) -> tuple[BuiltInName, ...]:
        """The tools that the model may call at first."""
        return tuple(tool.name for tool in self.tools if RECIPIENTS[tool.name] & self.callable)

    def freed(self) -> BuiltInUse:
        """Returns what holds when the call that had to be made has been made."""
        if self.once:
            return BuiltInUse(self.tools, recipients(self.tools))
        return replace(self, must_call=False)


NO_BUILT_IN = BuiltInUse()
