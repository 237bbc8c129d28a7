"""Events as one `chat.completion` object."""

from __future__ import annotations

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
from serving.protocols.chat.answers import ChatChoice, ChatCompletion, ChatMessage
from serving.protocols.chat.facts import ChatFacts
from serving.protocols.edge.logprobs import ChoiceLogprobs, logprob_entries
from serving.protocols.edge.presenters import Whole
from serving.protocols.edge.usage import usage_object


class ChatAnswer(Whole):
    """Collects the events of one response."""

    def __init__(self, facts: ChatFacts) -> None:
        self._facts = facts
        self._choices = [ChoiceAnswer() for _ in range(facts.choices)]

    def add(self, events: list[ChoiceEvent]) -> None:
        """Takes the next events."""
        for choice, event in events:
            self._choices[choice].add(event)

    def body(self) -> ChatCompletion:
        """Returns the object. Every choice must have finished."""
        facts = self._facts
        body: ChatCompletion = {
            "id": facts.id,
            "object": "chat.completion",
            "created": facts.created,
            "model": facts.model,
            "system_fingerprint": facts.fingerprint,
            "choices": [choice.body(index, facts) for index, choice in enumerate(self._choices)],
            "usage": usage_object(choice.finished.usage for choice in self._choices),
        }
        if facts.service_tier is not None:
            body["service_tier"] = facts.service_tier
        return body


class ChoiceAnswer:
    """One choice, growing. The pieces are joined once."""

    def __init__(self) -> None:
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._calls: list[tuple[str, list[str]]] = []
        self._logprobs: list[TokenLogprob] | None = None
        self._finished: Finished | None = None

    @property
    def finished(self) -> Finished:
        """The last event. Raises ValueError before it has come."""
        if self._finished is None:
            raise ValueError("the choice has not finished")
        return self._finished

    def add(self, event: Event) -> None:
        """Takes the next event."""
        if isinstance(event, Content):
            self._content.append(event.text)
            if event.logprobs is not None:
                self._logprobs = [*(self._logprobs or ()), *event.logprobs]
        elif isinstance(event, Reasoning):
            self._reasoning.append(event.text)
        elif isinstance(event, ToolCallStart):
            self._calls.append((event.name, []))
        elif isinstance(event, ToolCallArguments):
            self._calls[event.index][1].append(event.text)
        elif isinstance(event, Finished):
            self._finished = event

    def body(self, index: int, facts: ChatFacts) -> ChatChoice:
        """Returns OpenAI's choice. `content` is null when the model wrote none."""
        message: ChatMessage = {
            "role": "assistant",
            "content": "".join(self._content) if self._content else None,
            "refusal": None,
        }
        if self._reasoning:
            reasoning = "".join(self._reasoning)
            message["reasoning"] = reasoning
            message["reasoning_content"] = reasoning
        if self._calls:
            message["tool_calls"] = [
                {
                    "id": facts.make_call_id(),
                    "type": "function",
                    "function": {"name": name, "arguments": "".join(arguments)},
                }
                for name, arguments in self._calls
            ]
        logprobs: ChoiceLogprobs | None = None
        if self._logprobs is not None:
            logprobs = {
                "content": logprob_entries(self._logprobs, facts.vocabulary),
                "refusal": None,
            }
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": self.finished.reason,
        }
