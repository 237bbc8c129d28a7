"""Tools that a scene offers: one variant each of some kinds, and requests for them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from random import Random
from typing import Any, Final

import msgspec

from model_assets.development.catalogue import Catalogue, Drawn, Kind, Option, Value, lines
from model_assets.development.rows import LARGEST_NUMBER
from serving.harmony.conversation import FunctionTool

Schema = dict[str, Any]
ERROR_SHARE: Final = 0.05
UNREADABLE_SHARE: Final = 0.05
LARGE: Final = re.compile("<(value|price)>")
"""Slots that in life hold numbers of any size, of which the stand-in knows small ones."""
MOST: Final = 99_999
ERROR_ANSWER: Final = "The tool reported an error, so I have no answer for you."
UNREADABLE_ANSWER: Final = (
    "The tool has answered, but I am too small to read its result. Please look at it yourself."
)


class Use(msgspec.Struct, frozen=True):
    """A request that needs a tool: the arguments to give, what it returns, what to say then."""

    ask: str
    gist: str
    arguments: dict[str, Any]
    result: str
    answer: str


class Offer:
    """One variant of a kind of tool, and a source of requests for it."""

    def __init__(self, rng: Random, catalogue: Catalogue, kind: Kind, junk: Sequence[str]) -> None:
        self.catalogue, self.kind, self.junk = catalogue, kind, junk
        self.form = rng.choice(kind.forms)
        self.option, self.key = _option(rng, kind)
        self.needs_option = self.option is not None and rng.random() < 0.2
        self.tool = self._tool(rng)

    def use(self, rng: Random) -> Use:
        """Returns a request for this tool with all that follows."""
        drawn = self.catalogue.draw(rng, self.kind, self.junk)
        arguments = {key: drawn.value(template) for key, template in self.form.items()}
        ask = drawn.fill(rng.choice(lines(self.kind.asks)))
        if self.option:
            table = self.catalogue.tables[self.option.table]
            said, given = rng.choice(tuple(table.items()))
            if rng.random() < 0.35:
                ask = _with(ask, self.option.said.replace(f"<{self.option.table}>", said))
                arguments[self.key] = given
            elif self.needs_option:
                arguments[self.key] = next(iter(table.values()))
        result, answer = self._outcome(rng, drawn)
        return Use(ask, drawn.fill(self.kind.gist), arguments, result, answer)

    def _outcome(self, rng: Random, drawn: Drawn) -> tuple[str, str]:
        draw = rng.random()
        if draw < ERROR_SHARE:
            words = junk_text(rng, self.junk, 4)
            form = rng.choice(('{"error": "%s"}', "Error: %s", "error: %s", "Error executing: %s"))
            return form % words, ERROR_ANSWER
        if draw < ERROR_SHARE + UNREADABLE_SHARE:
            return junk_text(rng, self.junk, 12), UNREADABLE_ANSWER
        result, answer = rng.choice(lines(self.kind.results)).split(" => ")
        if draw < ERROR_SHARE + 2 * UNREADABLE_SHARE and LARGE.search(result):
            result = LARGE.sub(str(rng.randint(LARGEST_NUMBER + 1, MOST)), result)
            answer = UNREADABLE_ANSWER
        if rng.random() < 0.3:
            result = result.replace('": ', '":').replace('", "', '","').replace('>, "', '>,"')
        return drawn.fill(result), drawn.fill(answer)

    def _tool(self, rng: Random) -> FunctionTool:
        drawn = self.catalogue.draw(rng, self.kind, self.junk)
        number = rng.choice(("number", "integer"))
        properties: Schema = {}
        for key, template in self.form.items():
            value = drawn.value(template)
            properties[key] = self._parameter(rng, key, value, number)
        required = list(properties)
        if self.option:
            rows = list(self.catalogue.tables[self.option.table].values())
            schema = self._parameter(rng, self.key, rows[0], number)
            if self.option.enum:
                schema["enum"] = rows
            properties[self.key] = schema
            if self.needs_option:
                required.append(self.key)
        description = rng.choice(lines(self.kind.descriptions))
        return _function(
            rng,
            rng.choice(self.kind.names),
            _described(rng, description, self.junk, 14),
            properties,
            required,
        )

    def _parameter(self, rng: Random, key: str, value: Value, number: str) -> Schema:
        schema: Schema = {"type": "string" if isinstance(value, str) else number}
        note = _described(rng, rng.choice(self.kind.notes.get(key, ("",))), self.junk, 8)
        if note:
            schema["description"] = note
        return schema


def offers(rng: Random, catalogue: Catalogue, count: int, junk: Sequence[str]) -> list[Offer]:
    """Returns `count` tools that do not answer the same requests, with different names."""
    chosen: list[Offer] = []
    weights = [kind.weight for kind in catalogue.kinds]
    while len(chosen) < count:
        (kind,) = rng.choices(catalogue.kinds, weights)
        offer = Offer(rng, catalogue, kind, junk)
        if not any(_clash(offer, other) for other in chosen):
            chosen.append(offer)
    return chosen


def foreign(rng: Random, junk: Sequence[str]) -> FunctionTool:
    """Returns a tool made of words that the stand-in cannot read. It is never called."""
    name = "_".join(rng.choice(junk) for _ in range(rng.randint(1, 3)))
    properties: Schema = {
        rng.choice(junk): {
            "type": rng.choice(("string", "integer", "boolean")),
            "description": junk_text(rng, junk, 8),
        }
        for _ in range(rng.randint(0, 3))
    }
    return _function(rng, name, junk_text(rng, junk, 12), properties, list(properties))


def arguments_text(arguments: dict[str, Any]) -> str:
    """Returns the arguments as the model writes them: JSON without spaces."""
    return json.dumps(arguments, separators=(",", ":"), ensure_ascii=False)


def junk_text(rng: Random, junk: Sequence[str], most: int) -> str:
    """Returns up to `most` words that the stand-in cannot read."""
    return " ".join(rng.choice(junk) for _ in range(rng.randint(1, most)))


def _option(rng: Random, kind: Kind) -> tuple[Option | None, str]:
    if not kind.options or rng.random() < 0.5:
        return None, ""
    option = rng.choice(kind.options)
    return option, rng.choice(option.keys)


def _clash(one: Offer, other: Offer) -> bool:
    a, b = one.kind, other.kind
    same = a.subject == b.subject or one.tool.name == other.tool.name
    return same or a.subject in b.excludes or b.subject in a.excludes


def _with(ask: str, said: str) -> str:
    """Returns the request with more said before its last mark."""
    body = ask.rstrip("?.")
    return body + said + ask[len(body) :]


def _described(rng: Random, text: str, junk: Sequence[str], most: int) -> str:
    """Returns the description, or none, or another that cannot be read."""
    draw = rng.random()
    if draw < 0.2:
        return ""
    if draw < 0.4:
        return junk_text(rng, junk, most)
    return text if draw < 0.9 else f"{text} {junk_text(rng, junk, most)}".strip()


def _function(
    rng: Random, name: str, description: str, properties: Schema, required: list[str]
) -> FunctionTool:
    parameters: Schema = {"type": "object", "properties": properties}
    if required and rng.random() < 0.95:
        parameters["required"] = required
    if rng.random() < 0.3:
        parameters["additionalProperties"] = False
    return FunctionTool(name=name, description=description, parameters=parameters)
