"""A tool that a scene offers, and what its parts are made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from serving.harmony.conversation import FunctionTool

Schema = dict[str, Any]


class Use(msgspec.Struct, frozen=True):
    """A request that needs a tool: the arguments to give, what it returns, what to say then."""

    ask: str
    gist: str
    arguments: dict[str, Any]
    result: str
    answer: str


class Offer(msgspec.Struct, frozen=True):
    """A tool and a source of requests for it. `subject` tells offers of one kind apart."""

    subject: str
    tool: FunctionTool
    use: Callable[[Random], Use]


def arguments_text(arguments: dict[str, Any]) -> str:
    """Returns the arguments as the model writes them: JSON without spaces."""
    return json.dumps(arguments, separators=(",", ":"), ensure_ascii=False)


def tool(
    rng: Random, name: str, description: str, properties: Schema, required: list[str]
) -> FunctionTool:
    """Returns a function tool; optional parts of its schema come and go."""
    parameters: Schema = {"type": "object", "properties": properties}
    if required and rng.random() < 0.9:
        parameters["required"] = required
    if rng.random() < 0.3:
        parameters["additionalProperties"] = False
    return FunctionTool(name=name, description=description, parameters=parameters)


def text(rng: Random, *descriptions: str) -> Schema:
    """Returns the schema of a string, with one of the descriptions or none."""
    if not descriptions or rng.random() < 0.3:
        return {"type": "string"}
    return {"type": "string", "description": rng.choice(descriptions)}


def named(rng: Random, verb: str, noun: str) -> str:
    """Returns a function's name in one of the usual spellings."""
    parts = [verb, *noun.split()]
    if rng.random() < 0.7:
        return "_".join(parts)
    return parts[0] + "".join(part.capitalize() for part in parts[1:])
