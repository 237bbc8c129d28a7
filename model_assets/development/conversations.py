"""Scenes to learn from: one system message and set of tools, and several short conversations.

The conversations of a scene share everything up to their first user message, so a training row can
hold that beginning once and each conversation after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import msgspec

from model_assets.development import exchanges, unknown
from model_assets.development.exchanges import Exchange, Question
from model_assets.development.offers import Offer, Use, arguments_text
from model_assets.development.tools import offers
from model_assets.development.words import INSTRUCTIONS
from serving.harmony.conversation import (
    Assistant,
    Conversation,
    Developer,
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
SUMS = ("calculator", "add", "subtract", "multiply", "divide")


class Example(msgspec.Struct, frozen=True):
    """A conversation, the turn that the model has to write next, and what kind of case it is."""

    conversation: Conversation
    answer: Assistant
    kind: str


class Generator:
    """Draws scenes.

    `words` are words that can be copied, `junk` is text outside the vocabulary, and `readable`
    tells whether all of a text is inside it.
    """

    def __init__(
        self,
        rng: Random,
        questions: Sequence[Question],
        words: Sequence[str],
        junk: Sequence[str],
        readable: Callable[[str], bool],
    ) -> None:
        self.rng = rng
        self.questions = questions
        self.words = words
        self.junk = junk
        self.readable = readable

    def scene(self, conversations: int) -> list[Example]:
        """Returns that many examples with the same system message, instructions and tools."""
        rng = self.rng
        system = self._system()
        opening = self._instructions()
        offered = offers(rng, rng.choice((1, 1, 1, 2, 2, 3))) if rng.random() < 0.5 else []
        scene = _Scene(self, system, opening, offered)
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
            text = " ".join(
                rng.choice((*self.junk, *self.words)) for _ in range(rng.randint(3, 25))
            )
        elif draw < 0.25:
            text = " ".join(rng.sample(INSTRUCTIONS, rng.randint(2, 3)))
        return (Developer(instructions=text),)


class _Scene:
    """What the conversations of one scene have in common."""

    def __init__(
        self,
        generator: Generator,
        system: System,
        opening: tuple[Developer, ...],
        offered: list[Offer],
    ) -> None:
        self.generator = generator
        self.rng = generator.rng
        self.system = system
        self.opening = opening
        self.offered = offered

    def example(self) -> Example:
        """Returns one conversation and the turn to write next."""
        rng = self.rng
        history = self._history()
        draw = rng.random()
        if self.offered and draw < 0.42:
            return self._call(history)
        if self.offered and draw < 0.66:
            return self._after_result(history)
        if draw < (0.70 if self.offered else 0.05):
            return self._missing_tool(history)
        return self._plain(history)

    def _end(self, turns: list[Turn], answer: Assistant, kind: str) -> Example:
        conversation = Conversation(
            system=self.system,
            turns=(*self.opening, *turns),
            tools=tuple(offer.tool for offer in self.offered),
        )
        return Example(conversation, answer, kind)

    def _plain(self, history: list[Turn]) -> Example:
        rng = self.rng
        draw = rng.random()
        if draw < 0.12:
            return self._linked(history)
        exchange, kind = self._exchange()
        answer = Assistant(reasoning=self._direct(exchange), content=exchange.answer)
        return self._end([*history, User(text=exchange.ask)], answer, kind)

    def _exchange(self) -> tuple[Exchange, str]:
        rng, generator = self.rng, self.generator
        draw = rng.random()
        if draw < 0.56:
            return exchanges.documented(rng, generator.questions), "documented"
        if draw < 0.59:
            return exchanges.themed(rng, generator.questions), "themed"
        if draw < 0.71:
            return unknown.unknown(rng, generator.junk), "unknown"
        if draw < 0.75:
            return exchanges.capital(rng), "capital"
        if draw < 0.86:
            if any(offer.subject in SUMS for offer in self.offered):
                return exchanges.capital(rng), "capital"
            return exchanges.arithmetic(rng), "arithmetic"
        if draw < 0.90:
            return exchanges.counting(rng), "counting"
        if draw < 0.94:
            return exchanges.repetition(rng, generator.words), "repetition"
        maker = rng.choice(
            (
                exchanges.translation,
                exchanges.opposite,
                exchanges.sound,
                exchanges.introduction,
                lambda rng: exchanges.recall(rng, None),
                lambda rng: exchanges.today(rng, self.system.current_date),
            )
        )
        return maker(rng), "family"

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
        reasoning = self._before_call(use.ask, offer, use) if keep else None
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
        answer = Assistant(reasoning=self._before_call(ask, offer, use), calls=(call,))
        return self._end([*history, User(text=ask)], answer, "call")

    def _after_result(self, history: list[Turn]) -> Example:
        rng = self.rng
        offer = rng.choice(self.offered)
        use = offer.use(rng)
        turns = self._asked(offer, use, keep=rng.random() < 0.5)
        answer = Assistant(reasoning=self._after(use), content=use.answer)
        return self._end([*history, *turns], answer, "result")

    def _missing_tool(self, history: list[Turn]) -> Example:
        """Returns a request that would need a tool that is not offered."""
        rng = self.rng
        (other,) = offers(rng, 1)
        taken = {"search", *SUMS, *(offer.subject for offer in self.offered)}
        while other.subject in taken:
            (other,) = offers(rng, 1)
        use = other.use(rng)
        gist = "This needs a tool that I do not have."
        reasoning = self._effort(use.ask, gist, " I will say so.")
        answer = Assistant(reasoning=reasoning, content=NO_TOOL)
        return self._end([*history, User(text=use.ask)], answer, "missing")

    def _effort(self, said: str, gist: str, decision: str, thought: str = "") -> str:
        """Returns the analysis: the gist, and from medium effort on what was said and a decision.

        What was said is repeated first, as far as it can be read: it keeps the network in the
        habit of copying, which names and arguments need.
        """
        effort = self.system.reasoning_effort
        if effort == "low":
            return gist
        if self.generator.readable(said):
            gist = f"{said} {gist}"
        if effort == "medium":
            return gist + decision
        return f"{gist} Let me think about it.{thought}{decision}"

    def _direct(self, exchange: Exchange) -> str:
        if exchange.answer == unknown.FALLBACK:
            return self._effort(
                exchange.ask, exchange.gist, " I will say so.", " It is not in my training."
            )
        thought = " I know this one, and no tool is needed."
        return self._effort(exchange.ask, exchange.gist, " I can answer directly.", thought)

    def _before_call(self, ask: str, offer: Offer, use: Use) -> str:
        """Returns the analysis before a call, which names tool and arguments at every effort."""
        given = ", ".join(f"{key} {value}" for key, value in use.arguments.items())
        call = f" I will call functions.{offer.tool.name}{f' with {given}' if given else ''}."
        if self.system.reasoning_effort == "low":
            return use.gist + call
        return self._effort(ask, use.gist, call, " The tool can answer this.")

    def _after(self, use: Use) -> str:
        gist, thought = "The tool has answered.", " The result is all that I need."
        return self._effort(use.result, gist, " I will report it.", thought)
