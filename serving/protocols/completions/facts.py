"""What the chunks and the whole answer of one completion request have in common."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serving.events import TokenLogprob, Usage
from serving.harmony.vocabulary import Vocabulary
from serving.protocols.completions.answers import Head, TextLogprobs
from serving.protocols.edge.logprobs import LEAST_LOGPROB
from serving.protocols.edge.usage import Usage as UsageObject
from serving.protocols.edge.usage import usage_object


@dataclass(frozen=True, slots=True)
class CompletionFacts:
    """The identity of one response.

    Choice `i` is of prompt `i // choices_per_prompt`. `echoes` holds the text of each prompt, and
    is empty when the request did not ask for it; `scored` holds the tokens of each prompt, and is
    empty when the request did not ask for their log-probabilities.
    """

    id: str
    created: int
    model: str
    fingerprint: str
    prompts: int
    choices_per_prompt: int
    echoes: tuple[str, ...]
    scored: tuple[list[int], ...]
    vocabulary: Vocabulary

    @property
    def choices(self) -> int:
        """How many choices there are."""
        return self.prompts * self.choices_per_prompt

    def echo(self, choice: int) -> str:
        """Returns the text that stands before the generated text of a choice."""
        return self.echoes[choice // self.choices_per_prompt] if self.echoes else ""

    def scored_prompt(self, choice: int) -> list[int]:
        """Returns the prompt of a choice when its log-probabilities are wanted, else nothing."""
        return self.scored[choice // self.choices_per_prompt] if self.scored else []

    def head(self) -> Head:
        """Returns the fields before `choices`, of a chunk and of the whole."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def usage(self, usages: Mapping[int, Usage]) -> UsageObject:
        """Returns OpenAI's `usage`, by the usage of every choice: each prompt counts once."""
        width = self.choices_per_prompt
        return usage_object(
            *(
                [usages[i] for i in range(first, first + width)]
                for first in range(0, self.choices, width)
            )
        )


class LegacyLogprobs:
    """The `logprobs` of one choice, piece by piece, in the form of Completions.

    `text_offset` counts characters of the text, an echoed prompt among them. A token that is no
    whole UTF-8 is written as OpenAI does, `bytes:\\xe2\\x80`.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._characters = 0

    def take(self, logprobs: Iterable[TokenLogprob], first: int | None = None) -> TextLogprobs:
        """Returns the lists for the next tokens; the alternatives include the token itself.

        `first`, the first of a prompt, comes before them: it has no probability.
        """
        tokens: list[str] = []
        values: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        offsets: list[int] = []
        if first is not None:
            tokens.append(token_name(self._vocabulary, first))
            values.append(None)
            tops.append(None)
            offsets.append(self._characters)
            self._pass(first)
        for logprob in logprobs:
            value = max(logprob.logprob, LEAST_LOGPROB)
            token = token_name(self._vocabulary, logprob.token)
            top = {
                token_name(self._vocabulary, other): max(v, LEAST_LOGPROB)
                for other, v in logprob.top
            }
            tokens.append(token)
            values.append(value)
            tops.append({**top, token: value})
            offsets.append(self._characters)
            self._pass(logprob.token)
        return {
            "tokens": tokens,
            "token_logprobs": values,
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _pass(self, token: int) -> None:
        self._characters += len(self._utf8.decode(self._vocabulary.token_bytes(token)))


def token_name(vocabulary: Vocabulary, token: int) -> str:
    """Returns the text of a token; of bytes that are no whole UTF-8, their numbers."""
    piece = vocabulary.token_bytes(token)
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
