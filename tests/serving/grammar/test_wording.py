"""Strings in other words: the grammar's own walks never leave JSON, nor the schema."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import numpy as np
import pytest

from serving.grammar.constraint import Constraint
from serving.grammar.core import STOP_TOKENS, Compiler, Matcher
from serving.grammar.fitting import misfit
from serving.grammar.structural_tag import structural_tag
from serving.grammar.wording import in_other_words

HARD = b'\x00\x09\x0a\x1f"\\\x7f<|u'
MOST_BYTES = 120


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    """A compiler of texts byte by byte."""
    return Compiler([bytes([byte]) for byte in range(256)], max(STOP_TOKENS) + 1)


def walk(matcher: Matcher, chance: random.Random) -> bytes | None:
    """Returns a text that the grammar allows, of awkward bytes; None for one without an end."""
    text = b""
    while len(text) < 2 * MOST_BYTES:
        mask = np.unpackbits(matcher.allowed().view(np.uint8), bitorder="little")
        allowed = [int(token) for token in np.flatnonzero(mask)]
        # ASCII: what is no UTF-8 does not get as far as JSON.
        choices = [token for token in allowed if token < 128]
        if allowed[-1] >= 256 and (not choices or chance.random() < 0.5):
            return text
        hard = [token for token in choices if token in HARD]
        late = len(text) > MOST_BYTES and ord('"') in choices
        token = (
            ord('"') if late else chance.choice(hard if hard and chance.random() < 0.5 else choices)
        )
        assert matcher.accept(token)
        text += bytes([token])
    return None


STRINGS: list[dict[str, Any]] = [
    {"type": "string", "maxLength": 8},
    {"type": "string", "minLength": 2},
    {"type": "string", "minLength": 2, "maxLength": 300},
    {"type": ["string", "null"], "maxLength": 3},
    *(
        {"type": "string", "pattern": pattern}
        for pattern in ("^x[^a].*$", "^x[^a].{0,300}$", r"^[\s\S]{0,5}$", r"\S\W\D.", r"^\d{3}$")
    ),
    *(
        {"type": "string", "format": name}
        for name in ("email", "json-pointer", "relative-json-pointer")
    ),
    {"type": "object", "propertyNames": {"type": "string", "maxLength": 5}, "maxProperties": 1},
    {"type": "object", "patternProperties": {"^x.{0,3}$": {"type": "integer"}}},
]


@pytest.mark.parametrize("schema", STRINGS, ids=json.dumps)
def test_every_text_that_is_allowed_is_json_that_fits(
    compiler: Compiler, schema: dict[str, Any]
) -> None:
    form = {"type": "json_schema", "json_schema": in_other_words(schema), "max_whitespace_cnt": 2}
    tag = msgspec.json.encode({"type": "structural_tag", "format": form}).decode()
    compiled = compiler.compile(tag)
    chance = random.Random(3)
    texts = [walk(compiled.matcher(), chance) for _ in range(60)]
    wrong = [
        (text, found)
        for text in texts
        # A half of a surrogate pair as an escape: no grammar of xgrammar's tells it from a whole.
        if text is not None and b"\\u" not in text and (found := misfit(text.decode(), schema))
    ]
    assert wrong == []
    assert sum(text is not None for text in texts) > 20


def test_the_tag_has_these_words() -> None:
    tag = structural_tag(Constraint(schema={"type": "string", "maxLength": 5}))
    assert "maxLength" not in (tag or "")
    assert r"{0,5}$" in (tag or "")


def test_what_is_no_schema_stays() -> None:
    plain: dict[str, Any] = {
        "type": "object",
        "properties": {"pattern": {"enum": [{"maxLength": 3}, "."]}, "maxLength": {}},
        "default": {"pattern": "."},
    }
    assert in_other_words(plain) == plain
