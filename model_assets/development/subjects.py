"""Tools made of a verb and a subject: names and parameters of many kinds."""

from __future__ import annotations

from random import Random
from typing import Any

from model_assets.development.offers import Offer, Schema, Use, named, text, tool
from model_assets.development.results import returned, value_asked
from model_assets.development.words import LANGUAGES, SUBJECTS


def generic(rng: Random) -> Offer:
    """Returns a tool made of a verb and a subject, with one to three parameters."""
    subject = rng.choice(SUBJECTS)
    verb = rng.choice(
        (
            "get",
            "get",
            "fetch",
            "find",
            "check",
            "lookup",
            "show",
            "read",
            "create",
            "update",
            "delete",
            "list",
            "query",
        )
    )
    name = named(rng, verb, subject)
    key = rng.choice(
        (
            "name",
            "id",
            "query",
            "text",
            "symbol",
            "title",
            "country",
            "city",
            "user",
            "topic",
            "item",
            "code",
            "key",
            "value",
            f"{subject.split()[-1]}_id",
            f"{subject.split()[-1]}_name",
        )
    )
    description = rng.choice(
        (
            f"{verb.capitalize()} the {subject}",
            f"{verb.capitalize()} the {subject} of a {key}.",
            f"{verb.capitalize()}s the {subject}.",
            f"The {subject}",
            "",
        )
    )
    properties: Schema = {key: text(rng, f"The {key}", f"The {key} of the {subject}")}
    required = [key]
    extra = rng.choice(
        ("format", "language", "sort", "limit", "days", "level", "mode", None, None, None)
    )
    choices: tuple[str, ...] = ()
    if extra in ("limit", "days"):
        properties[extra] = {"type": "integer"}
    elif extra:
        choices = rng.choice(
            (
                ("json", "xml", "csv"),
                ("short", "long"),
                ("low", "medium", "high"),
                ("asc", "desc"),
                ("red", "green", "blue"),
                LANGUAGES[:4],
            )
        )
        properties[extra] = {"type": "string", "enum": list(choices)}
    needs_extra = bool(choices) and rng.random() < 0.3
    if extra and needs_extra:
        required.append(extra)

    def use(rng: Random) -> Use:
        value = value_asked(rng)
        form = rng.choice(
            (
                f"{verb.capitalize()} the {subject} of {{}}",
                f"{verb.capitalize()} the {subject} for {{}}",
                f"What is the {subject} of {{}}?",
                f"What is the {subject} for {{}}?",
                f"{verb.capitalize()} {subject} {{}}",
                f"Please {verb} the {subject} of {{}}",
                f"I need the {subject} of {{}}",
                f"Show me the {subject} for {{}}",
                f"What's the {subject} of {{}}?",
            )
        )
        ask, arguments = form.format(value), {key: value}
        if extra and rng.random() < 0.35:
            chosen: Any = rng.choice(choices) if choices else rng.randint(1, 30)
            ask = f"{ask.rstrip('?')} with {extra} {chosen}"
            arguments[extra] = chosen
        elif extra and needs_extra:
            arguments[extra] = choices[0]
        return Use(
            ask, f"The user wants the {subject} of {value}.", arguments, *returned(rng, subject)
        )

    return Offer(subject, tool(rng, name, description, properties, required), use)
