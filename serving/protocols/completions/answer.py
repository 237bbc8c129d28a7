"""Events as one `text_completion` object."""

from __future__ import annotations

from serving.events import ChoiceEvent, Content, Finished, PromptLogprobs, TokenLogprob
from serving.protocols.completions.answers import TextChoice, TextCompletion
from serving.protocols.completions.facts import CompletionFacts, LegacyLogprobs
from serving.protocols.edge.presenters import Whole


class CompletionAnswer(Whole):
    """Collects the events of one response."""

    def __init__(self, facts: CompletionFacts) -> None:
        self._facts = facts
        self._texts: list[list[str]] = [[facts.echo(choice)] for choice in range(facts.choices)]
        self._logprobs: dict[int, list[TokenLogprob]] = {}
        """Of the prompt, where they are wanted, and of the answer."""
        self._finished: dict[int, Finished] = {}

    def add(self, events: list[ChoiceEvent]) -> None:
        """Takes the next events."""
        for choice, event in events:
            if isinstance(event, Content):
                self._texts[choice].append(event.text)
                if event.logprobs is not None:
                    self._logprobs.setdefault(choice, []).extend(event.logprobs)
            elif isinstance(event, PromptLogprobs):
                self._logprobs.setdefault(choice, []).extend(event.logprobs)
            elif isinstance(event, Finished):
                self._finished[choice] = event

    def body(self) -> TextCompletion:
        """Returns the object. Every choice must have finished."""
        facts = self._facts
        return {
            **facts.head(),
            "choices": [self._choice(choice) for choice in range(facts.choices)],
            "usage": facts.usage({i: end.usage for i, end in self._finished.items()}),
        }

    def _choice(self, choice: int) -> TextChoice:
        prompt = self._facts.scored_prompt(choice)
        logprobs = self._logprobs.get(choice, [] if prompt else None)
        return {
            "index": choice,
            "text": "".join(self._texts[choice]),
            "logprobs": None
            if logprobs is None
            else LegacyLogprobs(self._facts.vocabulary).take(logprobs, *prompt[:1]),
            "finish_reason": self._finished[choice].reason,
        }
