"""Rendering and parsing Harmony against openai-harmony, in one process, taking turns.

    python -m benchmarks.harmony

Rendering is timed cold, nothing remembered from one call to the next, and with the memo that the
service has. Parsing is timed one token a feed, as a stream brings them, and all tokens at once.
All times are CPU times of the one thread that works, so that other load on the machine counts less.
"""

from __future__ import annotations

import lzma
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import openai_harmony as library

import model_assets
from benchmarks import report
from serving.harmony.conversation import (
    Assistant,
    Conversation,
    Developer,
    FunctionTool,
    System,
    ToolCall,
    ToolResult,
    Turn,
    User,
)
from serving.harmony.parse import Parser
from serving.harmony.render import render, render_completion
from serving.harmony.vocabulary import Vocabulary

RANKS = Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"
RANKS_VARIABLE = "TIKTOKEN_ENCODINGS_BASE"
"""Where the library looks for its ranks: a directory."""
SIZES = (1_000, 4_000, 16_000)
GOAL_SIZE = 4_000
ANSWER_TOKENS = 4_000
REPETITIONS = 31
WANTED_RENDER = 3.0
WANTED_PARSE_MICROSECONDS = 2.5

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "The city, e.g. Lisbon"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
        "days": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["city"],
}
TOOL = FunctionTool(name="get_weather", description="The weather in a city.", parameters=PARAMETERS)
CALL = ToolCall(name="get_weather", arguments='{"city":"Lisbon","days":[1,2,3]}')
INSTRUCTIONS = "You are a careful assistant. Answer in the language of the question."

Times = dict[str, list[float]]


def main() -> None:
    """Measures, prints and keeps the result. Raises RuntimeError when the two do not agree."""
    machine = report.machine()
    with theirs_loaded() as encoding:
        vocabulary = Vocabulary.load(RANKS, memo_bytes=0)
        rows: list[tuple[str, ...]] = []
        raw: Times = {}
        ratio = 0.0
        for size in SIZES:
            times, tokens = rendering(size, vocabulary, encoding, REPETITIONS)
            rows += render_rows(tokens, times)
            raw |= {f"render {size} {name}": values for name, values in times.items()}
            if size == GOAL_SIZE:
                ratio = median(times["theirs"]) / median(times["cold"])
        times, tokens = parsing(ANSWER_TOKENS, vocabulary, encoding, REPETITIONS)
        rows += parse_rows(tokens, times)
        raw |= {f"parse {name}": values for name, values in times.items()}
        report.publish(
            report.Result(
                name="harmony",
                title="Harmony: rendering and parsing against openai-harmony 0.0.8",
                columns=("work", "here", "openai-harmony", "ratio"),
                rows=tuple(rows),
                goals=(
                    report.Goal(
                        what=f"times faster, {GOAL_SIZE} tokens rendered cold",
                        value=ratio,
                        wanted=WANTED_RENDER,
                    ),
                    report.Goal(
                        what="microseconds a token, parsed one by one",
                        value=1e6 * median(times["each"]) / tokens,
                        wanted=WANTED_PARSE_MICROSECONDS,
                        at_least=False,
                    ),
                ),
                notes=(
                    f"CPU time, medians of {REPETITIONS}, taking turns; the same ids on both sides",
                ),
                raw=raw,
                machine=machine,
                measured=report.now(),
            )
        )


@contextmanager
def theirs_loaded() -> Iterator[library.HarmonyEncoding]:
    """Yields the library's encoding, loaded from our ranks."""
    before = os.environ.pop(RANKS_VARIABLE, None)
    try:
        with tempfile.TemporaryDirectory() as directory, lzma.open(RANKS) as ranks:
            (Path(directory) / "o200k_base.tiktoken").write_bytes(ranks.read())
            os.environ[RANKS_VARIABLE] = directory
            yield library.load_harmony_encoding(str(library.HarmonyEncodingName.HARMONY_GPT_OSS))
    finally:
        os.environ.pop(RANKS_VARIABLE, None)
        if before is not None:
            os.environ[RANKS_VARIABLE] = before


def rendering(
    size: int, vocabulary: Vocabulary, encoding: library.HarmonyEncoding, repetitions: int
) -> tuple[Times, int]:
    """Returns seconds a render by contender, and how many tokens the prompt has."""
    turns = conversation_of(size, vocabulary)
    ours = Conversation(
        system=System(), turns=(Developer(instructions=INSTRUCTIONS), *turns), tools=(TOOL,)
    )
    theirs = library.Conversation.from_messages(list(messages(turns)))
    encoded = theirs.to_json()
    remembering = Vocabulary.load(RANKS)
    expected = encoding.render_conversation_for_completion(theirs, library.Role.ASSISTANT)
    if render(ours, vocabulary) != expected or render(ours, remembering) != expected:
        raise RuntimeError("the two renderers do not agree")
    config = {"auto_drop_analysis": True}
    work: dict[str, Callable[[], object]] = {
        "theirs": lambda: encoding.render_conversation_for_completion(
            theirs, library.Role.ASSISTANT
        ),
        "theirs, from JSON": lambda: encoding._inner.render_conversation_for_completion(
            conversation_json=encoded, next_turn_role="assistant", config=config
        ),
        "cold": lambda: render(ours, vocabulary),
        "remembered": lambda: render(ours, remembering),
    }
    return measure(work, repetitions), len(expected)


def parsing(
    size: int, vocabulary: Vocabulary, encoding: library.HarmonyEncoding, repetitions: int
) -> tuple[Times, int]:
    """Returns seconds a completion by contender, and how many tokens it has."""
    thought = text_of(size // 4, vocabulary)
    answer = text_of(size, vocabulary)
    tokens = render_completion(Assistant(reasoning=thought, content=answer), vocabulary)

    def each() -> None:
        parser = Parser(vocabulary)
        for token in tokens:
            parser.feed([token])
        parser.finish()

    def at_once() -> None:
        parser = Parser(vocabulary)
        parser.feed(tokens)
        parser.finish()

    def theirs_each() -> None:
        parser = library.StreamableParser(encoding, library.Role.ASSISTANT)
        for token in tokens:
            parser.process(token)
            _ = parser.current_channel, parser.current_recipient, parser.last_content_delta
        parser.process_eos()

    work: dict[str, Callable[[], object]] = {
        "each": each,
        "at once": at_once,
        "theirs, each": theirs_each,
        "theirs, at once": lambda: encoding.parse_messages_from_completion_tokens(
            tokens, library.Role.ASSISTANT
        ),
    }
    return measure(work, repetitions), len(tokens)


def measure(work: dict[str, Callable[[], object]], repetitions: int) -> Times:
    """Returns the CPU seconds of each repetition of each piece of work, done in turns."""
    times: Times = {name: [] for name in work}
    for _ in range(repetitions):
        for name, run in work.items():
            started = time.thread_time()
            run()
            times[name].append(time.thread_time() - started)
    return times


def render_rows(tokens: int, times: Times) -> list[tuple[str, ...]]:
    """Returns the table's rows of one prompt, in milliseconds."""
    theirs = median(times["theirs"])
    peers = {"cold": theirs, "remembered": theirs}
    rows = [
        _row(f"render {tokens} tokens, {name} (ms)", 1e3 * median(times[name]), 1e3 * peer)
        for name, peer in peers.items()
    ]
    encoded = median(times["theirs, from JSON"])
    name = f"render {tokens} tokens, cold; theirs without its Python part (ms)"
    rows.append(_row(name, 1e3 * median(times["cold"]), 1e3 * encoded))
    return rows


def parse_rows(tokens: int, times: Times) -> list[tuple[str, ...]]:
    """Returns the table's rows of a completion, in microseconds a token."""
    scale = 1e6 / tokens
    return [
        _row(
            f"parse {tokens} tokens {name} (µs a token)",
            scale * median(times[ours]),
            scale * median(times[theirs]),
        )
        for name, ours, theirs in (
            ("one by one", "each", "theirs, each"),
            ("at once", "at once", "theirs, at once"),
        )
    ]


def _row(work: str, ours: float, theirs: float) -> tuple[str, ...]:
    return work, f"{ours:.3g}", f"{theirs:.3g}", f"{theirs / ours:.1f}"


def text_of(tokens: int, vocabulary: Vocabulary) -> str:
    """Returns about `tokens` tokens of prose and code: this repository's own modules."""
    source = "\n".join(
        path.read_text() for path in sorted(Path(__file__).parent.parent.glob("serving/**/*.py"))
    )
    return vocabulary.decode(vocabulary.encode(source[: 8 * tokens])[:tokens])


def conversation_of(tokens: int, vocabulary: Vocabulary) -> tuple[Turn, ...]:
    """Returns turns of about 100 and 200 tokens, every fourth answer by a tool, `tokens` in all."""
    turns: list[Turn] = []
    text = text_of(tokens, vocabulary)
    # About four characters a token.
    pieces = [text[i : i + 1200] for i in range(0, len(text), 1200)]
    for i, piece in enumerate(pieces):
        turns.append(User(text=piece[:400]))
        if i % 4 == 3:
            turns.append(Assistant(calls=(CALL,)))
            turns.append(ToolResult(name=TOOL.name, text=piece[400:800]))
            turns.append(Assistant(content=piece[800:]))
        else:
            turns.append(Assistant(content=piece[400:]))
    turns.append(User(text="Go on."))
    return tuple(turns)


def messages(turns: tuple[Turn, ...]) -> Iterator[library.Message]:
    """Yields the same conversation as the library's messages."""
    of = library.Message.from_role_and_content
    yield of(library.Role.SYSTEM, library.SystemContent.new())
    described = library.ToolDescription.new(TOOL.name, TOOL.description, TOOL.parameters)
    developer = library.DeveloperContent.new().with_instructions(INSTRUCTIONS)
    yield of(library.Role.DEVELOPER, developer.with_function_tools([described]))
    for turn in turns:
        if isinstance(turn, User):
            yield of(library.Role.USER, turn.text)
        elif isinstance(turn, ToolResult):
            author = library.Author.new(library.Role.TOOL, f"functions.{turn.name}")
            message = library.Message.from_author_and_content(author, turn.text)
            yield message.with_channel("commentary").with_recipient("assistant")
        elif isinstance(turn, Assistant):
            for call in turn.calls:
                message = of(library.Role.ASSISTANT, call.arguments).with_channel("commentary")
                message = message.with_recipient(f"functions.{call.name}")
                yield message.with_content_type("<|constrain|>json")
            if turn.content:
                yield of(library.Role.ASSISTANT, turn.content).with_channel("final")


if __name__ == "__main__":
    main()
