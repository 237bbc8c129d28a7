"""Character classes less some characters, by the word of Python's regular expressions."""

from __future__ import annotations

import re

import pytest

from serving.grammar.characters import NEVER_BARE, without

CHARACTERS = [*map(chr, range(0x250)), "中", "\U0010ffff"]
BARE = {chr(point) for first, last in NEVER_BARE for point in range(first, last + 1)}


def members(written: str) -> set[str]:
    pattern = re.compile(written, re.ASCII)
    return {character for character in CHARACTERS if pattern.fullmatch(character)}


@pytest.mark.parametrize(
    "written",
    [
        *(
            "[^a]",
            "[^-a]",
            "[^a-]",
            r"[^\"\\\r\n]",
            r"[^\]]",
            r"[^\x00-\x1f]",
            r"[^\d]",
            r"[^\s\S]",
        ),
        *("[ -~]", r"[\0-\U0010ffff]", r"[\s\S]", r"[\W]", r"[\D-]", r"[\t\n a]", r"[!-/:-@\[-`]"),
        *(r"[^\s\S]", "[a-z]", "[-a]", r"[\^x]", r"[\u0022-\u0041]", "[ä-ÿ]"),
    ],
)
def test_the_barred_are_gone_and_all_others_stay(written: str) -> None:
    known = members(written.replace(r"\s", r"\t-\r \xa0"))
    assert members(without(written, NEVER_BARE)) == known - BARE


@pytest.mark.parametrize("written", ["[a-z]", '["]', r"[\x00-\x1f]", "[+-]", r"[^\0-\x1f\"\\]"])
def test_what_has_none_of_them_or_nothing_else_is_left(written: str) -> None:
    assert without(written, NEVER_BARE) == written
