"""However a legal stream of outputs is cut and arrives, the events of a choice are the same."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.boundary.messages import Fault, Logprob, Output
from serving.errors import ErrorKind, ServingError
from serving.events import Content, Event, Finished, PromptLogprobs, TokenLogprob
from serving.generation.choice import Choice, merge
from serving.generation.plain import PlainText
from serving.harmony.vocabulary import RETURN, Vocabulary

PROMPT = [3, 5, 13225, 11, 220]
TOP = [(13225, -0.25), (11, -1.5)]
TEXT = [13225, 11, 2375, 220, 128026, 11, 13225, RETURN]


@st.composite
def pieces(draw: st.DrawFn) -> list[Output]:
    """Draws a way to send one sequence: scores of the prompt, tokens, and an end."""
    cuts = sorted(draw(st.sets(st.integers(1, len(TEXT) - 1))))
    borders = [0, *cuts, len(TEXT)]
    spoken = [
        Output(1, TEXT[low:high], logprobs=[Logprob(-float(i), TOP) for i in range(low, high)])
        for low, high in pairwise(borders)
    ]
    parts = draw(st.sampled_from([[], [4], [1, 3], [1, 1, 1, 1], [2, 0, 2]]))
    scores: list[list[Logprob]] = []
    at = 0
    for size in parts:
        scores.append([Logprob(-0.5 * (at + i), TOP) for i in range(size)])
        at += size
    beside = draw(st.booleans())
    if scores and beside:
        last = scores.pop()
        spoken[0] = msgspec.structs.replace(spoken[0], prompt_logprobs=last)
    sent = [
        Output(1, [], prompt_logprobs=each, logprobs=draw(st.sampled_from([None, []])))
        for each in scores
    ] + spoken
    for at in sorted(draw(st.sets(st.integers(1, len(sent)), max_size=2)), reverse=True):
        sent.insert(at, Output(1, [], logprobs=draw(st.sampled_from([None, []]))))
    sent[0] = msgspec.structs.replace(sent[0], cached_tokens=2)
    if draw(st.booleans()):
        return [*sent, Output(1, [], "stop")]
    return [*sent[:-1], msgspec.structs.replace(sent[-1], finish="stop")]


def told(choice: Choice, batches: list[list[Output]]) -> tuple[Any, ...]:
    """Returns text, log-probabilities and end of a choice that got outputs in these batches."""
    events: list[Event] = []
    for batch in batches:
        pairs = [(0, output) for output in batch]
        for _, output in pairs if len(pairs) == 1 else merge(pairs):
            events += choice.feed(output)
    text = "".join(event.text for event in events if isinstance(event, Content))
    entries: list[TokenLogprob] = []
    scored: list[TokenLogprob] = []
    for event in events:
        if isinstance(event, Content):
            assert not scored or len(scored) == 4, "text before the prompt is scored"
            entries += event.logprobs or ()
        elif isinstance(event, PromptLogprobs):
            scored += event.logprobs
    end = events[-1]
    assert isinstance(end, Finished)
    return text, entries, scored, end


@given(sent=pieces(), cuts=st.sets(st.integers(1, 14)))
def test_no_legal_way_to_send_a_sequence_makes_a_difference(
    vocabulary: Vocabulary, sent: list[Output], cuts: set[int]
) -> None:
    def choice() -> Choice:
        return Choice(PlainText(vocabulary), PROMPT, (), logprobs=True)

    borders = [0, *sorted(cut for cut in cuts if cut < len(sent)), len(sent)]
    batches = [sent[low:high] for low, high in pairwise(borders)]
    one_by_one = told(choice(), [[output] for output in sent])
    assert told(choice(), batches) == one_by_one
    assert told(choice(), [sent]) == one_by_one
    text, entries, scored, end = one_by_one
    assert text == vocabulary.decode(TEXT[:-1])
    assert [entry.token for entry in entries] == TEXT[:-1]
    assert [entry.token for entry in scored] in ([], PROMPT[1:])
    assert (end.reason, end.usage.completion_tokens, end.usage.cached_tokens) == ("stop", 8, 2)


@pytest.mark.parametrize(
    "illegal",
    [
        Output(1, [11], "stop"),
        Output(1, [11], "stop", logprobs=[]),
        Output(1, [], "stop", prompt_logprobs=[Logprob(-1.0)] * 5),
        Output(1, [], "error", fault=Fault("internal", "no")),
        Output(1, [], "aborted"),
    ],
)
def test_what_breaks_the_contract_is_an_error_of_the_engine(
    vocabulary: Vocabulary, illegal: Output
) -> None:
    choice = Choice(PlainText(vocabulary), PROMPT, (), logprobs=True)
    with pytest.raises(ServingError) as broken:
        choice.feed(illegal)
    assert broken.value.kind is ErrorKind.ENGINE_REQUEST
