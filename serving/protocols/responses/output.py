"""Events as the output items of a response, one after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from serving.events import (
    BuiltInCallEnded,
    BuiltInCallRunning,
    BuiltInCallStart,
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
from serving.protocols.edge.answers import Json
from serving.protocols.edge.logprobs import logprob_entries
from serving.protocols.responses.answers import ItemObject
from serving.protocols.responses.citations import Pages
from serving.protocols.responses.hosted import HOSTED_KINDS, HostedKind, call_body
from serving.protocols.responses.items import PREFIXES, seal

Kind = Literal["reasoning", "message", "function_call"] | HostedKind
Status = Literal["in_progress", "completed", "incomplete", "failed"]

_ENDS: dict[str, Status] = {"completed": "completed", "failed": "failed", "refused": "incomplete"}


@dataclass(frozen=True, slots=True)
class ItemOptions:
    """What items hold besides their text."""

    vocabulary: Vocabulary
    summary: bool
    """The reasoning is given as its summary too."""
    encrypted: bool
    """Reasoning is given as `encrypted_content` too."""
    outputs: bool = False
    """Calls of the code interpreter are given with their outputs."""
    container_id: str = ""
    """Names where the code of this response runs."""


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
    output: str | None = None
    """What the executor of a hosted tool said, where it is shown."""
    annotations: list[dict[str, object]] = field(default_factory=list)
    """What a message cites, once it is whole."""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text so far: reasoning, what is said, or a call's arguments."""
        return "".join(self.pieces)

    @property
    def hosted(self) -> bool:
        """Whether it is a call of a hosted tool."""
        return self.kind in HOSTED_KINDS

    @property
    def summarised(self) -> bool:
        """Whether the text is given as a summary too."""
        return self.kind == "reasoning" and self.options.summary

    def part(self, text: str) -> dict[str, object]:
        """Returns the content part of a message or of reasoning, holding `text`."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        entries = logprob_entries(self.logprobs, self.options.vocabulary) if text else []
        cited = self.annotations if text else []
        return {"type": "output_text", "text": text, "annotations": cited, "logprobs": entries}

    def begun(self) -> ItemObject:
        """Returns OpenAI's item as it was when it began: a search has its query, others no text."""
        known = self.text if self.kind == "web_search_call" else ""
        return self._body("in_progress", known, [])

    def body(self) -> ItemObject:
        """Returns OpenAI's item as it is now."""
        return self._now(self.status)

    def broken(self) -> ItemObject:
        """Returns the item as it is now, of a response that goes no further."""
        return self._now("incomplete" if self.status == "in_progress" else self.status)

    def _now(self, status: Status) -> ItemObject:
        text = self.text
        return self._body(status, text, [self.part(text)] if self.pieces else [])

    def _body(self, status: Status, text: str, content: list[dict[str, object]]) -> ItemObject:
        # An item has the keys of its type; TypedDict knows only those that all have.
        item: Any = {"id": self.id, "type": self.kind, "status": status}
        item |= self._of_kind(text, content)
        body: ItemObject = item
        return body

    def _of_kind(self, text: str, content: list[dict[str, object]]) -> Json:
        """Returns what this kind of item has besides its id and status."""
        if self.kind == "function_call":
            return {"call_id": self.call_id, "name": self.name, "arguments": text}
        if self.kind == "message":
            return {"role": "assistant", "content": content}
        if self.kind == "code_interpreter_call" or self.kind == "web_search_call":
            options = self.options
            return call_body(self.kind, self.name, text, self.output, options.container_id)
        shown = self.summarised and content
        summary = [{"type": "summary_text", "text": text}] if shown else []
        body: Json = {"summary": summary, "content": content}
        if self.options.encrypted and content:
            body["encrypted_content"] = seal(text)
        return body


class Change(NamedTuple):
    """What an event did to an item."""

    kind: Literal["opened", "grown", "running", "closed"]
    """`grown`: it has more `text`. `running`: the executor of a hosted tool has the call.
    `closed`: it is complete, or as complete as it will be."""
    item: Item
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()


class Output:
    """The output of one response. The last item is open until another begins or all has ended."""

    def __init__(self, options: ItemOptions, make_id: Callable[[], str]) -> None:
        self.items: list[Item] = []
        self.finished: Finished | None = None
        self._options = options
        self._make_id = make_id
        self._open: Item | None = None
        self._said: set[Kind] = set()
        # A call of the browser, whose item begins when what it does is known.
        self._browsing: BuiltInCallStart | None = None
        self._browsing_text: list[str] = []
        self._pages = Pages()

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

    def body(self) -> list[ItemObject]:
        """Returns the items as they are now."""
        return [item.body() for item in self.items]

    def _take(self, event: Event, changes: list[Change]) -> None:
        if isinstance(event, Finished):
            self.finished = event
            self._close("incomplete" if event.reason == "length" else "completed", changes)
        elif isinstance(event, ToolCallStart):
            item = self._begin("function_call", changes, event.name)
            item.call_id = f"call_{self._make_id()}"
        elif isinstance(event, Reasoning | Content):
            kind: Kind = "reasoning" if isinstance(event, Reasoning) else "message"
            logprobs = (isinstance(event, Content) and event.logprobs) or ()
            text, growing = event.text, self._open
            if growing is None or growing.kind != kind:
                if kind in self._said:
                    # The parser parts two messages of a kind; here they are items of their own.
                    text = text.removeprefix(SEPARATOR)
                self._said.add(kind)
                growing = self._begin(kind, changes)
            self._grow(growing, text, logprobs, changes)
        elif isinstance(event, BuiltInCallStart):
            self._call(event, changes)
        elif isinstance(event, BuiltInCallRunning):
            self._run(changes)
        elif isinstance(event, BuiltInCallEnded):
            self._end_call(event, changes)
        elif isinstance(event, ToolCallArguments):
            if self._browsing is not None:
                self._browsing_text.append(event.text)
            elif self._open is not None:
                self._grow(self._open, event.text, (), changes)

    def _call(self, start: BuiltInCallStart, changes: list[Change]) -> None:
        if start.name == "python":
            self._begin("code_interpreter_call", changes, start.name)
        else:
            self._close("completed", changes)
            self._browsing = start

    def _run(self, changes: list[Change]) -> None:
        if self._browsing is not None:
            name, text = self._browsing.name, "".join(self._browsing_text)
            self._begin("web_search_call", changes, name, text)
        if self._open is not None:
            changes.append(Change("running", self._open))

    def _end_call(self, end: BuiltInCallEnded, changes: list[Change]) -> None:
        if self._open is not None:
            if self._open.kind == "web_search_call":
                self._pages.learn(end.output)
            self._open.output = end.output if self._options.outputs else None
            self._close(_ENDS[end.outcome], changes, ended=True)
        self._browsing = None
        self._browsing_text.clear()
        # The parser of what comes now is a new one: it parts nothing from what was said before.
        self._said.clear()

    def _begin(self, kind: Kind, changes: list[Change], name: str = "", text: str = "") -> Item:
        self._close("completed", changes)
        item = Item(kind, f"{PREFIXES[kind]}_{self._make_id()}", len(self.items), self._options)
        item.name = name
        item.pieces += [text] if text else []
        self.items.append(item)
        self._open = item
        changes.append(Change("opened", item))
        return item

    def _grow(
        self,
        item: Item,
        text: str,
        logprobs: tuple[TokenLogprob, ...],
        changes: list[Change],
    ) -> None:
        item.pieces.append(text)
        item.logprobs += logprobs
        changes.append(Change("grown", item, text, logprobs))

    def _close(self, status: Status, changes: list[Change], *, ended: bool = False) -> None:
        """Closes what is open. A call of a hosted tool that has not `ended` was never made."""
        self._browsing = None
        self._browsing_text.clear()
        if self._open is not None:
            if self._open.kind == "message":
                self._open.annotations = self._pages.cited(self._open.text)
            self._open.status = "incomplete" if self._open.hosted and not ended else status
            changes.append(Change("closed", self._open))
            self._open = None
