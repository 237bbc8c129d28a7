"""xgrammar's grammar of a JSON schema, less the strings that spell a control token.

TensorRT-LLM gives its xgrammar a vocabulary in which a control token is its name as text, so inside
a JSON string the model may choose any of them. Their names begin with `<|`. Here no string has
these two beside one another: `\\u003c|` says the same. Nothing that JSON writes with a backslash
stands bare, and white space has an end. The EBNF is what 0.1.32 prints (cpp/grammar_printer.cc).
"""

from __future__ import annotations

import re
from typing import Final

from serving.grammar.characters import NEVER_BARE, without

MOST_BLANKS: Final = 16

_LESS: Final = ((0x3C, 0x3C),)
_ESCAPED_LESS: Final = r'"\\u003c"'
_BLANKS: Final = "[ \\n\\t]"
_BLANK_RUN: Final = f"{_BLANKS}*"
_ESCAPES: Final = "basic_escape ::="
_PART: Final = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\](?P<run>\*)?|(?P<call>\w+\()')
_LESS_AT_RISK: Final = re.compile(r'<(?=\||"$)')
_FREE: Final = re.compile(
    r'basic_string_sub ::= \(\("\\""\) \| \((?P<bare>\[[^ ]+\]) basic_string_sub\)'
    r' \| \("\\\\" basic_escape basic_string_sub\)\) (?P<ahead>\(=.*\))'
)


def narrowed(grammar: str) -> str:
    """Returns the grammar with its strings so.

    Raises ValueError, fit for a client, for one that is not as it is known to be written.
    """
    rules = [_rule(line) for line in grammar.splitlines() if line]
    return "\n".join([*rules, f"blanks ::= {_BLANKS}{{0,{MOST_BLANKS}}}", ""])


def _rule(line: str) -> str:
    if line.startswith(_ESCAPES):
        return line
    if not line.startswith("basic_string_sub ::="):
        return _PART.sub(_part, line)
    free = _FREE.fullmatch(line)
    if free is None:
        raise ValueError("the engine's grammar of strings is not known")
    # A `<` may come, and after it anything but a bar.
    bare = without(without(free["bare"], NEVER_BARE), _LESS)
    ahead = free["ahead"].replace(_BLANK_RUN, "blanks")
    escaped = '("\\\\" basic_escape basic_string_sub)'
    less = '("<" basic_string_less)'
    after = f"[^|{bare.removeprefix('[^')}"
    return "\n".join(
        f'{name} ::= (("\\"") | ({one} basic_string_sub) | {escaped} | {less}) {ahead}'
        for name, one in (("basic_string_sub", bare), ("basic_string_less", after))
    )


def _part(found: re.Match[str]) -> str:
    part = found.group()
    if found["call"]:
        raise ValueError("the engine's grammar of a pattern is not known")
    if part.startswith('"'):
        return _LESS_AT_RISK.sub(r"\\\\u003c", part)
    if part == _BLANK_RUN:
        return "blanks"
    run = found["run"] or ""
    written = without(part.removesuffix("*") if run else part, NEVER_BARE)
    narrow = without(written, _LESS)
    return (narrow if narrow == written else f"({narrow} | {_ESCAPED_LESS})") + run
