"""Events as the output items of a response, one after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from serving.api.chat.facts import logprob_entries
from serving.api.responses.items import seal
from serving.events import (
    ChoiceEvent,
    Content,
    Event,
    Finished,
    Reasoning,
    TokenLogprob,
    ToolCallArguments,
    ToolCallStart,
)
from serving.harmony.parse import SEPARATOR
from serving.harmony.vocabulary import Vocabulary

Kind = Literal["reasoning", "message", "function_call"]
Status = Literal["in_progress", "completed", "incomplete"]

_PREFIXES: dict[Kind, str] = {"reasoning": "rs", "message": "msg", "function_call": "fc"}


@dataclass(frozen=True, slots=True)
class ItemOptions:
    """What items hold besides their text."""

    vocabulary: Vocabulary
    summary: bool
    """The reasoning is given as its summary too."""
    encrypted: bool
    """Reasoning is given as `encrypted_content` too."""


@dataclass(slots=True)
class Item:
    """One output item, growing. `index` is its place in the output."""

    kind: Kind
    id: str
    index: int
    options: ItemOptions
    call_id: str = ""
    name: str = ""
    status: Status = "in_progress"
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text so far: reasoning, what is said, or a call's arguments."""
        return "".join(self.pieces)

    @property
    def summarised(self) -> bool:
        """Whether the text is given as a summary too."""
        return self.kind == "reasoning" and self.options.summary

    def part(self, text: str) -> dict[str, object]:
        """Returns the content part of a message or of reasoning, holding `text`."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        entries = logprob_entries(self.logprobs, self.options.vocabulary) if text else []
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": entries}

    def begun(self) -> dict[str, object]:
        """Returns OpenAI's item as it was when it began: without text."""
        return self._body("in_progress", "", [])

    def body(self) -> dict[str, object]:
        """Returns OpenAI's item as it is now."""
        text = self.text
        return self._body(self.status, text, [self.part(text)] if self.pieces else [])

    def _body(
        self, status: Status, text: str, content: list[dict[str, object]]
    ) -> dict[str, object]:
        body: dict[str, object] = {"id": self.id, "type": self.kind, "status": status}
        if self.kind == "function_call":
            return {**body, "call_id": self.call_id, "name": self.name, "arguments": text}
        if self.kind == "message":
            return {**body, "role": "assistant", "content": content}
        shown = self.summarised and content
        body["summary"] = [{"type": "summary_text", "text": text}] if shown else []
        body["content"] = content
        if self.options.encrypted and content:
            body["encrypted_content"] = seal(text)
        return body


@dataclass(frozen=True, slots=True)
class Opened:
    """An item has begun."""

    item: Item


@dataclass(frozen=True, slots=True)
class Grown:
    """An item has more text."""

    item: Item
    text: str
    logprobs: tuple[TokenLogprob, ...] | None


@dataclass(frozen=True, slots=True)
class Closed:
    """An item is complete, or as complete as it will be."""

    item: Item


Change = Opened | Grown | Closed


class Output:
    """The output of one response. The last item is open until another begins or all has ended."""

    def __init__(self, options: ItemOptions, make_id: Callable[[], str]) -> None:
        self.items: list[Item] = []
        self.finished: Finished | None = None
        self._options = options
        self._make_id = make_id
        self._open: Item | None = None
        self._said: set[Kind] = set()

    def add(self, events: list[ChoiceEvent]) -> list[Change]:
        """Takes the next events and returns what they change."""
        changes: list[Change] = []
        for _, event in events:
            self._take(event, changes)
        return changes

    def end(self) -> list[Change]:
        """Returns the changes of an end in the midst of the output."""
        changes: list[Change] = []
        self._close("incomplete", changes)
        return changes

    def body(self) -> list[dict[str, object]]:
        """Returns the items as they are now."""
        return [item.body() for item in self.items]

    def _take(self, event: Event, changes: list[Change]) -> None:
        if isinstance(event, Finished):
            self.finished = event
            self._close("incomplete" if event.reason == "length" else "completed", changes)
        elif isinstance(event, ToolCallStart):
            item = self._begin("function_call", changes)
            item.call_id = f"call_{self._make_id()}"
            item.name = event.name
        elif isinstance(event, Reasoning | Content):
            kind: Kind = "reasoning" if isinstance(event, Reasoning) else "message"
            logprobs = event.logprobs if isinstance(event, Content) else None
            text, growing = event.text, self._open
            if growing is None or growing.kind != kind:
                if kind in self._said:
                    # The parser parts two messages of a kind; here they are items of their own.
                    text = text.removeprefix(SEPARATOR)
                self._said.add(kind)
                growing = self._begin(kind, changes)
            self._grow(growing, text, logprobs, changes)
        elif isinstance(event, ToolCallArguments) and self._open is not None:
            self._grow(self._open, event.text, None, changes)

    def _begin(self, kind: Kind, changes: list[Change]) -> Item:
        self._close("completed", changes)
        item = Item(kind, f"{_PREFIXES[kind]}_{self._make_id()}", len(self.items), self._options)
        self.items.append(item)
        self._open = item
        changes.append(Opened(item))
        return item

    def _grow(
        self,
        item: Item,
        text: str,
        logprobs: tuple[TokenLogprob, ...] | None,
        changes: list[Change],
    ) -> None:
        item.pieces.append(text)
        item.logprobs += logprobs or ()
        changes.append(Grown(item, text, logprobs))

    def _close(self, status: Status, changes: list[Change]) -> None:
        if self._open is not None:
            self._open.status = status
            changes.append(Closed(self._open))
            self._open = None
