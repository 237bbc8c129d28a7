"""The events of a response as server-sent events: each with its name, its type and its number.

This runs for every token of every stream. What is equal in all deltas of an item is encoded once;
a delta costs the JSON encoding of its text and one concatenation.
"""

from __future__ import annotations

import msgspec

from serving.errors import ServingError
from serving.events import ChoiceEvent
from serving.protocols.edge.logprobs import logprob_entries
from serving.protocols.edge.presenters import Streamed
from serving.protocols.responses.object import ResponseObject
from serving.protocols.responses.output import Change, Item

_encode = msgspec.json.Encoder().encode

_DELTAS = {
    "reasoning": "response.reasoning_text.delta",
    "message": "response.output_text.delta",
    "function_call": "response.function_call_arguments.delta",
    "code_interpreter_call": "response.code_interpreter_call_code.delta",
}
_RUNNING = {"code_interpreter_call": "interpreting", "web_search_call": "searching"}
_SUMMARY_DELTA = "response.reasoning_summary_text.delta"


class ResponseStream(Streamed):
    """Encodes one response, in order. Items, parts and texts that were opened are closed."""

    def __init__(self, response: ResponseObject) -> None:
        self._response = response
        self._next = 0
        self._announced = False
        self._heads: dict[str, bytes] = {}

    def queue(self) -> bytes:
        """Returns the events that announce the response before its turn has come."""
        self._announced = True
        body = self._response.running()
        return self._event("response.created", response=body) + self._event(
            "response.queued", response=body
        )

    def begin(self) -> bytes:
        """Returns the events that announce the response, as far as it is not announced."""
        body = self._response.begun()
        begun = self._event("response.created", response=body) if not self._announced else b""
        self._announced = True
        return begun + self._event("response.in_progress", response=body)

    def encode(self, events: list[ChoiceEvent]) -> bytes:
        """Returns what these events become."""
        return self._changes(self._response.output.add(events))

    def end(self) -> bytes:
        """Returns the last event: completed or incomplete."""
        body = self._response.ended()
        return self._event(f"response.{body['status']}", response=body)

    def fail(self, error: ServingError) -> bytes:
        """Returns the end of a response that has failed: what is open closes as incomplete."""
        closing = self._changes(self._response.output.end())
        body = self._response.failed(error)
        return closing + self._event("response.failed", response=body)

    def cancel(self) -> bytes:
        """Returns the end of a response that was called off. No event is named for that."""
        closing = self._changes(self._response.output.end())
        body = self._response.cancelled()
        return closing + self._event("response.incomplete", response=body)

    def _changes(self, changes: list[Change]) -> bytes:
        return b"".join([self._change(change) for change in changes])

    def _change(self, change: Change) -> bytes:
        if change.kind == "grown":
            return self._grown(change) if change.text else b""
        if change.kind == "running":
            return self._running(change.item)
        return self._opened(change.item) if change.kind == "opened" else self._closed(change.item)

    def _opened(self, item: Item) -> bytes:
        sent = self._event("response.output_item.added", output_index=item.index, item=item.begun())
        delta = _DELTAS.get(item.kind)
        self._heads = {delta: self._head(delta, item)} if delta else {}
        if item.kind == "function_call":
            return sent
        if item.hosted:
            return sent + self._call_event(item, "in_progress")
        sent += self._event("response.content_part.added", **_place(item), part=item.part(""))
        if item.summarised:
            self._heads[_SUMMARY_DELTA] = self._head(_SUMMARY_DELTA, item)
            part = {"type": "summary_text", "text": ""}
            sent += self._event(
                "response.reasoning_summary_part.added", **_summary_place(item), part=part
            )
        return sent

    def _grown(self, change: Change) -> bytes:
        text = _encode(change.text)
        item = change.item
        if item.kind == "message":
            entries = logprob_entries(change.logprobs, item.options.vocabulary)
            text += b',"logprobs":' + _encode(entries)
        return b"".join([self._delta(head, text) for head in self._heads.values()])

    def _closed(self, item: Item) -> bytes:
        text = item.text
        if item.kind == "function_call":
            name = "response.function_call_arguments.done"
            sent = self._item_event(name, item, name=item.name, arguments=text)
        elif item.hosted:
            sent = self._call_ended(item)
        else:
            sent = self._text_done(item, text)
        return sent + self._event(
            "response.output_item.done", output_index=item.index, item=item.body()
        )

    def _annotated(self, item: Item) -> bytes:
        name = "response.output_text.annotation.added"
        return b"".join(
            [
                self._event(name, **_place(item), annotation_index=index, annotation=annotation)
                for index, annotation in enumerate(item.annotations)
            ]
        )

    def _running(self, item: Item) -> bytes:
        self._heads = {}
        return self._code_done(item) + self._call_event(item, _RUNNING[item.kind])

    def _call_ended(self, item: Item) -> bytes:
        """Returns what precedes the end of a hosted call's item: a failure has no event here."""
        sent = self._code_done(item) if self._heads else b""
        return sent + (self._call_event(item, "completed") if item.status == "completed" else b"")

    def _code_done(self, item: Item) -> bytes:
        if item.kind != "code_interpreter_call":
            return b""
        name = "response.code_interpreter_call_code.done"
        return self._item_event(name, item, code=item.text)

    def _call_event(self, item: Item, phase: str) -> bytes:
        return self._item_event(f"response.{item.kind}.{phase}", item)

    def _text_done(self, item: Item, text: str) -> bytes:
        part = item.part(text)
        if item.kind == "message":
            name, more = "response.output_text.done", {"logprobs": part["logprobs"]}
        else:
            name, more = "response.reasoning_text.done", {}
        sent = self._annotated(item)
        sent += self._event(name, **_place(item), text=text, **more)
        sent += self._event("response.content_part.done", **_place(item), part=part)
        if item.summarised:
            place = _summary_place(item)
            sent += self._event("response.reasoning_summary_text.done", **place, text=text)
            summary = {"type": "summary_text", "text": text}
            sent += self._event("response.reasoning_summary_part.done", **place, part=summary)
        return sent

    def _item_event(self, event: str, item: Item, /, **fields: object) -> bytes:
        return self._event(event, item_id=item.id, output_index=item.index, **fields)

    def _event(self, name: str, /, **fields: object) -> bytes:
        """Returns one event with the next number."""
        data = _encode({"type": name, "sequence_number": self._number(), **fields})
        return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"

    def _head(self, name: str, item: Item) -> bytes:
        """Returns a delta's event up to the value of `delta`, its number apart."""
        place = _summary_place(item) if name == _SUMMARY_DELTA else _place(item)
        if item.kind in ("function_call", "code_interpreter_call"):
            del place["content_index"]
        data = _encode({"type": name, **place})
        return b"event: " + name.encode() + b"\ndata: " + data[:-1] + b',"delta":'

    def _delta(self, head: bytes, text: bytes) -> bytes:
        return head + text + b',"sequence_number":%d}\n\n' % self._number()

    def _number(self) -> int:
        number = self._next
        self._next += 1
        return number


def _place(item: Item) -> dict[str, object]:
    return {"item_id": item.id, "output_index": item.index, "content_index": 0}


def _summary_place(item: Item) -> dict[str, object]:
    return {"item_id": item.id, "output_index": item.index, "summary_index": 0}
