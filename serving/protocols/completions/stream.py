"""Events as `text_completion` chunks in server-sent events.

This runs for every token of every stream: what is equal in all chunks of a choice is encoded once.
"""

from __future__ import annotations

import msgspec

from serving.errors import ServingError
from serving.events import (
    ChoiceEvent,
    Content,
    Event,
    Finished,
    PromptLogprobs,
    TokenLogprob,
    Usage,
)
from serving.protocols.completions.facts import CompletionFacts, LegacyLogprobs
from serving.protocols.edge.presenters import Streamed
from serving.protocols.edge.server_events import DONE, encode_error

_encode = msgspec.json.Encoder().encode


class CompletionStream(Streamed):
    """Encodes the chunks of one response, in order.

    The last chunk of each choice has the finish reason and no text. `include_usage` as in Chat
    Completions: null in every chunk but one more at the end, which has no choices. An echoed prompt
    is the first chunk of its choice; where it is scored, once its log-probabilities are there.
    """

    def __init__(self, facts: CompletionFacts, *, include_usage: bool) -> None:
        self._facts = facts
        self._include_usage = include_usage
        self._usages: dict[int, Usage] = {}
        self._logprobs = [LegacyLogprobs(facts.vocabulary) for _ in range(facts.choices)]
        self._scored: list[list[TokenLogprob]] = [[] for _ in range(facts.choices)]
        self._end = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._head = b"data: " + _encode(facts.head())[:-1] + b',"choices":'
        self._starts = [
            self._head + b'[{"index":%d,"text":' % choice for choice in range(facts.choices)
        ]

    def begin(self) -> bytes:
        """Returns the chunks with the prompts, where the request asks for them."""
        facts = self._facts
        if facts.scored:
            return b"".join(map(self._scored_prompt, range(facts.choices)))
        echoes = ((choice, facts.echo(choice)) for choice in range(facts.choices))
        return b"".join(self._chunk(choice, Content(text)) for choice, text in echoes if text)

    def encode(self, events: list[ChoiceEvent]) -> bytes:
        """Returns one chunk for each event."""
        if len(events) == 1:
            return self._chunk(*events[0])
        return b"".join([self._chunk(choice, event) for choice, event in events])

    def end(self) -> bytes:
        """Returns what follows the last event of the last choice."""
        if not self._include_usage:
            return DONE
        usage = _encode(self._facts.usage(self._usages))
        return self._head + b'[],"usage":' + usage + b"}\n\n" + DONE

    def fail(self, error: ServingError) -> bytes:
        """Returns the event that ends a stream which has failed; no `[DONE]` follows it."""
        return encode_error(error)

    def _chunk(self, choice: int, event: Event) -> bytes:
        if type(event) is Content:
            if event.logprobs is None:
                return self._text(choice, event.text, b"null")
            logprobs = self._logprobs[choice].take(event.logprobs)
            return self._text(choice, event.text, _encode(logprobs))
        if type(event) is Finished:
            self._usages[choice] = event.usage
            reason = event.reason.encode()
            start = self._starts[choice]
            return start + b'"","logprobs":null,"finish_reason":"%s"}]' % reason + self._end
        if type(event) is PromptLogprobs:
            self._scored[choice] += event.logprobs
            return self._scored_prompt(choice)
        raise TypeError(f"not an event of raw text: {type(event).__name__}")

    def _scored_prompt(self, choice: int) -> bytes:
        """Returns the chunk of an echoed prompt when all of it is scored, else nothing."""
        prompt, scored = self._facts.scored_prompt(choice), self._scored[choice]
        if len(scored) < len(prompt) - 1:
            return b""
        logprobs = self._logprobs[choice].take(scored, prompt[0])
        return self._text(choice, self._facts.echo(choice), _encode(logprobs))

    def _text(self, choice: int, text: str, logprobs: bytes) -> bytes:
        start, content = self._starts[choice], _encode(text)
        return start + content + b',"logprobs":' + logprobs + b',"finish_reason":null}]' + self._end
