"""The generator: every scene is valid Harmony, varied, and the same for the same seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec

from model_assets.development.conversations import NO_TOOL, Example, Generator, Lesson
from model_assets.development.evaluation import read_reply
from model_assets.development.exchanges import read_questions
from serving.harmony.conversation import Developer, User
from serving.harmony.render import render, render_completion
from serving.harmony.vocabulary import Vocabulary

LESSONS: tuple[Lesson, ...] = ("talk", "tools", "all")


def draw(generator: Generator, scenes: int) -> list[Example]:
    return [example for _ in range(scenes) for example in generator.scene(3)]


def test_every_answer_reads_back_as_it_was_meant(
    generator: Generator, vocabulary: Vocabulary
) -> None:
    for example in draw(generator, 60):
        tools = {tool.name: tool for tool in example.conversation.tools}
        turn = render_completion(example.answer, vocabulary)
        reply = read_reply(turn, frozenset(tools), vocabulary)
        assert reply.stopped
        assert reply.reasoning == example.answer.reasoning
        if not example.answer.calls:
            assert reply.content == example.answer.content
            continue
        (call,) = example.answer.calls
        assert reply.call == call.name
        schema = tools[call.name].parameters or {}
        arguments = msgspec.json.decode(reply.arguments, type=dict[str, object])
        assert set(schema.get("required", ())) <= set(arguments) <= set(schema["properties"])
        for name, value in arguments.items():
            allowed = schema["properties"][name].get("enum")
            assert allowed is None or value in allowed


def test_conversations_of_a_scene_share_their_beginning(
    generator: Generator, vocabulary: Vocabulary
) -> None:
    for _ in range(20):
        scene = generator.scene(3)
        first = scene[0].conversation
        for example in scene:
            conversation = example.conversation
            assert conversation.system == first.system
            assert conversation.tools == first.tools
            opening = [t for t in conversation.turns if isinstance(t, Developer)]
            assert opening == [t for t in first.turns if isinstance(t, Developer)]
        prompts = [render(example.conversation, vocabulary) for example in scene]
        assert len({tuple(prompt[:20]) for prompt in prompts}) == 1


def test_all_kinds_efforts_and_dates_occur(generator: Generator) -> None:
    examples = draw(generator, 300)
    kinds = Counter(example.kind for example in examples)
    assert set(kinds) == {
        "arithmetic",
        "call",
        "capital",
        "counting",
        "documented",
        "family",
        "linked",
        "missing",
        "result",
        "themed",
        "unknown",
    }
    systems = [example.conversation.system for example in examples]
    assert {system.reasoning_effort for system in systems} == {"low", "medium", "high"}
    assert any(system.current_date is None for system in systems)
    assert len({system.current_date for system in systems}) > 20


def test_higher_effort_thinks_longer(generator: Generator) -> None:
    lengths: dict[str, list[int]] = {"low": [], "medium": [], "high": []}
    for example in draw(generator, 200):
        assert example.answer.reasoning
        effort = example.conversation.system.reasoning_effort
        lengths[effort].append(len(example.answer.reasoning))
    means = {effort: sum(found) / len(found) for effort, found in lengths.items()}
    assert means["low"] < means["medium"] < means["high"]


def test_the_same_seed_gives_the_same_scenes(generators: Callable[..., Generator]) -> None:
    assert draw(generators(8), 30) == draw(generators(8), 30)
    assert draw(generators(8), 30) != draw(generators(9), 30)


def test_lessons_go_from_single_answers_to_tools_to_everything(
    generators: Callable[..., Generator],
) -> None:
    talk, tools, everything = (draw(generators(3, lesson), 80) for lesson in LESSONS)
    assert not any(example.conversation.tools for example in talk)
    assert {"call", "result"} <= {example.kind for example in tools}
    assert max(len(example.conversation.tools) for example in tools) == 2
    assert max(len(example.conversation.tools) for example in everything) > 3
    asked = [sum(isinstance(turn, User) for turn in e.conversation.turns) for e in everything]
    assert max(asked) > 3


def test_calls_fit_the_request_and_other_tools_are_left_alone(generator: Generator) -> None:
    for example in draw(generator, 100):
        offered = {tool.name for tool in example.conversation.tools}
        if example.kind == "call":
            (call,) = example.answer.calls
            assert call.name in offered
            assert call.name in (example.answer.reasoning or "")
        else:
            assert not example.answer.calls


def test_a_request_without_its_tool_is_answered_in_words(generator: Generator) -> None:
    missing = [e for e in draw(generator, 200) if e.kind == "missing"]
    assert any(e.conversation.tools for e in missing)
    assert {e.answer.content for e in missing} == {NO_TOOL}


def test_questions_are_many_and_have_one_answer_each() -> None:
    questions = read_questions()
    assert len(questions) >= 40
    assert len({question.topic for question in questions}) == len(questions)
    forms = Counter(form.lower().rstrip("?!. ") for q in questions for form in set(q.ask))
    owners = {
        form: {q.topic for q in questions if form in {a.lower().rstrip("?!. ") for a in q.ask}}
        for form in forms
    }
    assert {form: topics for form, topics in owners.items() if len(topics) > 1} == {}


def test_it_says_of_itself_that_it_is_a_stand_in() -> None:
    (identity,) = (q for q in read_questions() if q.topic == "identity")
    assert "stand-in" in identity.answer
    assert "not the real model" in identity.answer


def test_the_last_turn_before_the_answer_is_never_empty(generator: Generator) -> None:
    for example in draw(generator, 60):
        last = example.conversation.turns[-1]
        assert not isinstance(last, User) or last.text.strip()
