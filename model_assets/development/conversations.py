"""Scenes to learn from: one system message and set of tools, and several short conversations.

The conversations of a scene share everything up to their first user message, so a training row can
hold that beginning once and each conversation after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final, Literal

import msgspec

from model_assets.development import exchanges, unknown
from model_assets.development.catalogue import Catalogue, lines
from model_assets.development.exchanges import Exchange, Question
from model_assets.development.offers import Offer, Use, arguments_text, foreign, junk_text, offers
from model_assets.development.words import INSTRUCTIONS
from serving.harmony.conversation import (
    Assistant,
    Conversation,
    Developer,
    FunctionTool,
    ReasoningEffort,
    System,
    ToolCall,
    ToolResult,
    Turn,
    User,
)

NO_TOOL = (
    "I have no tool for that here. Give me a function that can do it, and I will call it for you."
)
SUMS: Final = frozenset({"calculator", "add", "subtract", "multiply", "divide"})
KNOWN_WITHOUT: Final = SUMS | {"translate", "definition", "search"}
"""Subjects of which some requests are answered without a tool."""


Lesson = Literal["talk", "tools", "all"]
"""What scenes hold. `talk`: single questions and answers. `tools`: also one or two tools."""


class Example(msgspec.Struct, frozen=True):
    """A conversation, the turn that the model has to write next, and what kind of case it is."""

    conversation: Conversation
    answer: Assistant
    kind: str


class Generator:
    """Draws scenes. `junk` are words outside the vocabulary."""

    def __init__(
        self,
        rng: Random,
        questions: Sequence[Question],
        catalogue: Catalogue,
        junk: Sequence[str],
        lesson: Lesson = "all",
    ) -> None:
        self.rng = rng
        self.questions = questions
        self.catalogue = catalogue
        self.junk = junk
        self.lesson = lesson
        self.known = [ask for question in questions for ask in question.ask]
        self.known += [ask for kind in catalogue.kinds for ask in lines(kind.asks)]

    def scene(self, conversations: int) -> list[Example]:
        """Returns that many examples with the same system message, instructions and tools."""
        rng = self.rng
        scene = _Scene(self, self._system(), self._instructions())
        if self.lesson != "talk" and rng.random() < 0.66:
            count = rng.choice((1, 1, 1, 2, 2, 3, 4) if self.lesson == "all" else (1, 1, 2))
            scene.offered = offers(rng, self.catalogue, count, self.junk)
        scene.tools = [offer.tool for offer in scene.offered]
        if self.lesson == "all" and rng.random() < 0.1:
            scene.tools.insert(rng.randint(0, len(scene.tools)), foreign(rng, self.junk))
        if not scene.offered and rng.random() < 0.45:
            return [scene.sum() for _ in range(conversations)]
        return [scene.example() for _ in range(conversations)]

    def _system(self) -> System:
        rng = self.rng
        date = None
        if rng.random() < 0.5:
            date = f"{rng.randint(2024, 2028)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
        effort: ReasoningEffort = rng.choice(("low", "medium", "medium", "medium", "high"))
        identity = System().model_identity
        if rng.random() < 0.03:
            identity = "You are a helpful assistant."
        cutoff = None if rng.random() < 0.03 else System().knowledge_cutoff
        return System(
            model_identity=identity,
            knowledge_cutoff=cutoff,
            current_date=date,
            reasoning_effort=effort,
        )

    def _instructions(self) -> tuple[Developer, ...]:
        rng = self.rng
        if rng.random() < 0.5:
            return ()
        text = rng.choice(INSTRUCTIONS)
        draw = rng.random()
        if draw < 0.1:
            text = junk_text(rng, self.junk, 25)
        elif draw < 0.25:
            text = " ".join(rng.sample(INSTRUCTIONS, rng.randint(2, 3)))
        return (Developer(instructions=text),)


class _Scene:
    """What the conversations of one scene have in common."""

    def __init__(
        self, generator: Generator, system: System, opening: tuple[Developer, ...]
    ) -> None:
        self.generator = generator
        self.rng = generator.rng
        self.system = system
        self.opening = opening
        self.offered: list[Offer] = []
        self.tools: list[FunctionTool] = []

    def example(self) -> Example:
        """Returns one conversation and the turn to write next."""
        rng = self.rng
        history = self._history()
        draw = rng.random()
        if self.offered and draw < 0.46:
            return self._call(history)
        if self.offered and draw < 0.66:
            return self._after_result(history)
        missing = 0.0 if self.generator.lesson == "talk" else 0.73 if self.offered else 0.07
        if draw < missing:
            return self._missing_tool(history)
        return self._plain(history)

    def sum(self) -> Example:
        """Returns a small sum."""
        return self._answered([], exchanges.arithmetic(self.rng), "arithmetic")

    def _end(self, turns: list[Turn], answer: Assistant, kind: str) -> Example:
        conversation = Conversation(
            system=self.system,
            turns=(*self.opening, *turns),
            tools=tuple(self.tools),
        )
        return Example(conversation, answer, kind)

    def _plain(self, history: list[Turn]) -> Example:
        rng = self.rng
        draw = rng.random()
        if draw < 0.12:
            return self._linked(history)
        return self._answered(history, *self._exchange())

    def _answered(self, history: list[Turn], exchange: Exchange, kind: str) -> Example:
        answer = Assistant(reasoning=self._direct(exchange), content=exchange.answer)
        return self._end([*history, User(text=exchange.ask)], answer, kind)

    def _exchange(self) -> tuple[Exchange, str]:
        rng, generator = self.rng, self.generator
        subjects = {offer.kind.subject for offer in self.offered}
        draw = rng.random()
        unknown_share = 0.26 if self.tools else 0.14
        if draw < unknown_share:
            return unknown.unknown(rng, generator.junk, generator.known), "unknown"
        draw = (draw - unknown_share) / (1 - unknown_share)
        if draw < 0.64:
            return exchanges.documented(rng, generator.questions), "documented"
        if draw < 0.67:
            return exchanges.themed(rng, generator.questions), "themed"
        if draw < 0.82 and not subjects & SUMS:
            return exchanges.arithmetic(rng), "arithmetic"
        if draw < 0.88:
            return exchanges.capital(rng), "capital"
        if draw < 0.93:
            return exchanges.counting(rng), "counting"
        makers: list[Callable[[Random], Exchange]] = [
            exchanges.opposite,
            exchanges.sound,
            exchanges.introduction,
            lambda rng: exchanges.recall(rng, None),
            lambda rng: exchanges.today(rng, self.system.current_date),
        ]
        if "translate" not in subjects:
            makers.append(exchanges.translation)
        return rng.choice(makers)(rng), "family"

    def _linked(self, history: list[Turn]) -> Example:
        """Returns a question that needs the turn before it."""
        rng = self.rng
        if rng.random() < 0.5:
            first, second = exchanges.capital(rng), exchanges.capital_again(rng)
            between: list[Turn] = []
        else:
            first = exchanges.introduction(rng)
            name = first.gist.removeprefix("The user is called ").rstrip(".")
            second = exchanges.recall(rng, name)
            between = self._history() if rng.random() < 0.3 else []
        turns = [*history, User(text=first.ask), Assistant(content=first.answer), *between]
        answer = Assistant(reasoning=self._direct(second), content=second.answer)
        return self._end([*turns, User(text=second.ask)], answer, "linked")

    def _history(self) -> list[Turn]:
        """Returns finished turns from earlier in the conversation, mostly none."""
        rng = self.rng
        if self.generator.lesson != "all":
            return []
        count = rng.choices((0, 1, 2, 3, 5), (64, 20, 9, 4, 2))[0]
        turns: list[Turn] = []
        for _ in range(count):
            if self.offered and rng.random() < 0.3:
                offer = rng.choice(self.offered)
                turns.extend(self._used(offer, offer.use(rng), keep=False))
                continue
            exchange = exchanges.documented(rng, self.generator.questions)
            if rng.random() < 0.3:
                exchange = exchanges.capital(rng)
            turns += [User(text=exchange.ask), Assistant(content=exchange.answer)]
        return turns

    def _used(self, offer: Offer, use: Use, *, keep: bool) -> list[Turn]:
        """Returns a whole use of a tool; the reasoning before the call stays if `keep`."""
        asked = self._asked(offer, use, keep=keep)
        return [*asked, Assistant(content=use.answer)]

    def _asked(self, offer: Offer, use: Use, *, keep: bool) -> list[Turn]:
        call = ToolCall(name=offer.tool.name, arguments=arguments_text(use.arguments))
        reasoning = self._before_call(offer, use) if keep else None
        return [
            User(text=use.ask),
            Assistant(reasoning=reasoning, calls=(call,)),
            ToolResult(name=offer.tool.name, text=use.result),
        ]

    def _call(self, history: list[Turn]) -> Example:
        rng = self.rng
        offer = rng.choice(self.offered)
        use = offer.use(rng)
        call = ToolCall(name=offer.tool.name, arguments=arguments_text(use.arguments))
        ask = exchanges.vary(rng, use.ask)
        answer = Assistant(reasoning=self._before_call(offer, use), calls=(call,))
        return self._end([*history, User(text=ask)], answer, "call")

    def _after_result(self, history: list[Turn]) -> Example:
        rng = self.rng
        offer = rng.choice(self.offered)
        use = offer.use(rng)
        turns = self._asked(offer, use, keep=rng.random() < 0.5)
        answer = Assistant(reasoning=self._after(), content=use.answer)
        return self._end([*history, *turns], answer, "result")

    def _missing_tool(self, history: list[Turn]) -> Example:
        """Returns a request that would need a tool that is not offered."""
        rng, generator = self.rng, self.generator
        taken = {*KNOWN_WITHOUT, *(offer.kind.subject for offer in self.offered)}
        while True:
            (other,) = offers(rng, generator.catalogue, 1, generator.junk)
            if other.kind.subject not in taken:
                break
        use = other.use(rng)
        gist = f"{use.gist} I have no tool for this."
        answer = Assistant(reasoning=self._thought(gist, " I will say so."), content=NO_TOOL)
        ask = exchanges.vary(rng, use.ask)
        return self._end([*history, User(text=ask)], answer, "missing")

    def _thought(self, gist: str, decision: str) -> str:
        """Returns the analysis: the gist, and the more around it the higher the effort is."""
        effort = self.system.reasoning_effort
        if effort == "low":
            return gist
        if effort == "medium":
            return gist + decision
        return f"Let me think about it. {gist} That is clear.{decision}"

    def _direct(self, exchange: Exchange) -> str:
        if exchange.answer == unknown.FALLBACK:
            return self._thought(exchange.gist, " I will say so.")
        return self._thought(exchange.gist, " I can answer directly.")

    def _before_call(self, offer: Offer, use: Use) -> str:
        """Returns the analysis before a call, which names the tool at every effort."""
        return self._thought(f"{use.gist} I will call {offer.tool.name}.", "")

    def _after(self) -> str:
        return self._thought("The tool has answered.", " I will report it.")
