"""Constrained sequences on untrained weights: noise that still has to fit the schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.boundary.messages import Fault, Generate, Output
from serving.boundary.sampling import Sampling
from serving.engines.embedded.runtime import EmbeddedRuntime
from serving.events import Content, Event, ToolCallArguments, ToolCallStart
from serving.grammar.constraint import Constraint, ToolForm
from serving.grammar.structural_tag import structural_tag
from serving.harmony.parse import Parser
from serving.harmony.vocabulary import CHANNEL, MESSAGE, START, STOP_TOKENS, Vocabulary

FinishAll = Callable[[EmbeddedRuntime], dict[int, Any]]
Make = Callable[..., EmbeddedRuntime]

ORDER = {
    "type": "object",
    "properties": {
        "size": {"enum": ["small", "large"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 99},
        "gift": {"type": "boolean"},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 3},
    },
    "required": ["size", "count", "gift", "tags"],
    "additionalProperties": False,
}
PROMPT = [START, 5, 6, 7, START]


def answer_only() -> str:
    """Returns a tag without reasoning before it: noise would reason until its tokens are gone."""
    tag = json.loads(structural_tag(Constraint(schema=ORDER)) or "")
    tag["format"]["elements"].pop(0)
    return json.dumps(tag)


def call_only() -> str:
    """Returns a tag of a call of one tool, again without what may come before."""
    forced = Constraint(tools=(ToolForm(name="order", schema=ORDER),), must_call=True)
    tag = json.loads(structural_tag(forced) or "")
    tag["format"]["elements"].pop(0)
    return json.dumps(tag)


def request(number: int, grammar: str | None, *, new: int = 400, **sampling: Any) -> Generate:
    sampling = {"temperature": 1.0, "seed": number, "stop_token_ids": STOP_TOKENS, **sampling}
    return Generate(number, PROMPT, Sampling(max_tokens=new, grammar=grammar, **sampling))


def events_of(tokens: list[int], vocabulary: Vocabulary) -> list[Event]:
    parser = Parser(vocabulary, frozenset({"order"}))
    return [*parser.feed(tokens), *parser.finish()]


def is_order(text: str) -> bool:
    order = json.loads(text)
    return (
        set(order) == {"size", "count", "gift", "tags"}
        and order["size"] in ("small", "large")
        and type(order["count"]) is int
        and 1 <= order["count"] <= 99
        and type(order["gift"]) is bool
        and len(order["tags"]) <= 3
        and set(order["tags"]) <= {"a", "b", "c"}
    )


@pytest.fixture
def runtime(make_runtime: Make, shape: Any, ranks: Path) -> Iterator[EmbeddedRuntime]:
    """A random model with the whole vocabulary, and room for a few sequences only."""
    made = make_runtime(shape(vocab=Vocabulary.size, layers=1), ranks=ranks, cache_tokens=1024)
    yield made
    made.close()


def test_noise_fits_the_schema_beside_free_noise(
    runtime: EmbeddedRuntime, finish_all: FinishAll, vocabulary: Vocabulary
) -> None:
    assert "grammar" in runtime.ready().capabilities
    for number in range(6):
        grammar = (answer_only(), call_only(), None)[number % 3]
        new = 40 if grammar is None else 400
        temperature = (1.0, 0.0)[number % 2]
        runtime.submit(request(number, grammar, new=new, temperature=temperature, logprobs=1))
    results = finish_all(runtime)
    for number in range(6):
        result = results[number]
        if number % 3 == 2:
            assert len(result.tokens) == 40 or result.tokens[-1] in STOP_TOKENS
            continue
        assert result.finish == "stop", number
        assert result.tokens[-1] in STOP_TOKENS
        events = events_of(result.tokens, vocabulary)
        if number % 3 == 0:
            assert is_order("".join(e.text for e in events if isinstance(e, Content)))
        else:
            assert [e.name for e in events if isinstance(e, ToolCallStart)] == ["order"]
            arguments = (e.text for e in events if isinstance(e, ToolCallArguments))
            assert is_order("".join(arguments))


def test_a_preempted_sequence_goes_on_as_if_it_had_not_been(
    make_runtime: Make, shape: Any, ranks: Path, finish_all: FinishAll
) -> None:
    chosen = shape(vocab=Vocabulary.size, layers=1)
    found: list[dict[int, Any]] = []
    for cache_tokens in (8192, 112):
        runtime = make_runtime(chosen, ranks=ranks, cache_tokens=cache_tokens, longest=112)
        for number in range(3):
            runtime.submit(request(number, answer_only(), new=100))
        found.append(finish_all(runtime))
        assert (runtime.stats().preemptions_total > 0) is (cache_tokens == 112)
        runtime.close()
    roomy, tight = found
    assert {n: r.tokens for n, r in roomy.items()} == {n: r.tokens for n, r in tight.items()}


def test_free_sequences_go_on_while_a_grammar_is_compiled(runtime: EmbeddedRuntime) -> None:
    runtime.submit(request(1, None, new=1000, ignore_eos=True))
    runtime.submit(request(2, answer_only()))
    assert runtime.stats().waiting == 2
    first: list[Output] = []
    seen = 0
    while not first:
        step = runtime.step()
        outputs = step.outputs if step else []
        first = [output for output in outputs if output.id == 2]
        seen += sum(output.id == 1 for output in outputs)
    assert seen > 0
    assert first[0].tokens == [CHANNEL]
    assert runtime.stats().waiting == 0


@pytest.mark.parametrize(
    ("grammar", "sampling", "word"),
    [
        ("{}", {}, "grammar cannot be used"),
        (answer_only(), {"ignore_eos": True}, "ignore_eos"),
        (answer_only(), {"min_tokens": 3}, "min_tokens"),
        (answer_only(), {"stop_token_ids": (1,)}, "must stop"),
    ],
)
def test_what_cannot_be_followed_is_refused_alone(
    runtime: EmbeddedRuntime,
    finish_all: FinishAll,
    grammar: str,
    sampling: dict[str, Any],
    word: str,
) -> None:
    runtime.submit(request(1, grammar, **sampling))
    runtime.submit(request(2, None, new=3, ignore_eos=True))
    results = finish_all(runtime)
    fault = results[1].fault
    assert isinstance(fault, Fault)
    assert fault.kind == "invalid"
    assert word in fault.message
    assert len(results[2].tokens) == 3


def test_a_sequence_is_aborted_before_its_grammar_is_there(runtime: EmbeddedRuntime) -> None:
    runtime.submit(request(1, answer_only()))
    before = runtime.busy
    runtime.abort(1)
    assert (before, runtime.busy) == (True, False)
    assert runtime.step() is None
    assert runtime.stats().waiting == 0


def test_without_a_vocabulary_it_cannot_and_says_so(
    make_runtime: Make, finish_all: FinishAll
) -> None:
    runtime = make_runtime()
    assert "grammar" not in runtime.ready().capabilities
    runtime.submit(Generate(1, [1, 2], Sampling(max_tokens=3, grammar=answer_only())))
    assert "cannot constrain" in finish_all(runtime)[1].fault.message


def test_the_logprobs_are_those_of_the_model_not_of_the_grammar(
    runtime: EmbeddedRuntime, finish_all: FinishAll
) -> None:
    runtime.submit(request(1, answer_only(), logprobs=0))
    runtime.submit(request(2, None, new=1, logprobs=0, logit_bias={CHANNEL: 100.0}))
    results = finish_all(runtime)
    assert results[1].tokens[0] == results[2].tokens[0] == CHANNEL
    assert results[1].logprobs[0] == pytest.approx(results[2].logprobs[0], abs=1e-4)
    assert MESSAGE in results[1].tokens
