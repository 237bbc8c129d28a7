"""Character classes as regular expressions and EBNF write them: `[^"\\x00-\\x1f]`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

Ranges = tuple[tuple[int, int], ...]
"""First and last code points, ascending and apart."""

NEVER_BARE: Final[Ranges] = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C))
"""What stands in no JSON string as itself: control characters, quote and backslash."""

_LAST: Final = 0x10FFFF
_DIGITS: Final[Ranges] = ((0x30, 0x39),)
_WORDS: Final[Ranges] = (*_DIGITS, (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_BLANKS: Final[Ranges] = ((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0))
_NAMED: Final = {"d": _DIGITS, "w": _WORDS, "s": _BLANKS}
_LETTERS: Final = {"0": 0, "n": 10, "r": 13, "t": 9, "f": 12, "v": 11, "b": 8}
_HEXADECIMAL: Final = {"x": 2, "u": 4, "U": 8}


def without(written: str, barred: Ranges) -> str:
    """Returns a class, as written with its brackets, less the barred characters.

    One that would be empty, or has none of them, comes back as it was.
    """
    negated = written.startswith("[^")
    body = written[2 if negated else 1 : -1]
    ranges = tuple(_ranges(body))
    if negated:
        missing = _less(barred, ranges)
        # In front, where no dash of the body can join them.
        dash = "\\" if body.startswith("-") else ""
        return f"[^{_spelled(missing)}{dash}{body}]"
    left = _less(ranges, barred)
    return f"[{_spelled(left)}]" if left and left != _less(ranges, ()) else written


def _ranges(body: str) -> Iterator[tuple[int, int]]:
    """Yields the ranges of a class's body, in no order."""
    at = 0
    while at < len(body):
        named = _NAMED.get(body[at + 1 : at + 2].lower()) if body[at] == "\\" else None
        if named is not None:
            yield from named if body[at + 1].islower() else _less(((0, _LAST),), named)
            at += 2
            continue
        first, at = _character(body, at)
        last = first
        if body[at : at + 1] == "-" and at + 1 < len(body):
            last, at = _character(body, at + 1)
        yield first, last


def _character(body: str, at: int) -> tuple[int, int]:
    """Returns the character at a place, which may be escaped, and the place behind it."""
    if body[at] != "\\" or at + 1 == len(body):
        return ord(body[at]), at + 1
    letter, at = body[at + 1], at + 2
    if letter in _HEXADECIMAL:
        end = at + _HEXADECIMAL[letter]
        return int(body[at:end], 16), end
    return _LETTERS.get(letter, ord(letter)), at


def _less(ranges: Iterable[tuple[int, int]], barred: Ranges) -> Ranges:
    """Returns the ranges in order and apart, less the barred ones."""
    kept: list[tuple[int, int]] = []
    for low, last in sorted(ranges):
        first = max(low, kept[-1][1] + 1) if kept else low
        for start, end in barred:
            if first < start <= last:
                kept.append((first, start - 1))
            if start <= last and end >= first:
                first = end + 1
        if first <= last:
            kept.append((first, last))
    return tuple(kept)


def _spelled(ranges: Ranges) -> str:
    return "".join(
        _character_text(first) + (f"-{_character_text(last)}" if last > first else "")
        for first, last in ranges
    )


def _character_text(point: int) -> str:
    if point < 0x20 or 0x7F <= point < 0xA0:
        return f"\\x{point:02x}"
    return f"\\{chr(point)}" if chr(point) in '\\"]^-[' else chr(point)
