"""A structural tag in the words that TensorRT-LLM's xgrammar has.

The service writes tags for xgrammar 0.2.8, with control tokens by their ids
(serving/grammar/structural_tag.py). TensorRT-LLM 1.4.0rc1, the latest whose requirements
were read, requires 0.1.32, whose formats (python/xgrammar/structural_tag.py of that version) know
neither `token`, `any_tokens`, `star` and `optional` nor a bound on white space; and TensorRT-LLM
gives it a vocabulary in which a control token is its name as text
(_torch/pyexecutor/grammar_matcher.py, tokenizer/tokenizer.py at 08ed3ebc4c27). So here everything
becomes a grammar over text in which neither free text nor a JSON string has `<|`: what is written
between control tokens can neither hold one nor spell one. 0.2.8 takes it, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from serving.engines.trtllm import schemas, strings

Format = dict[str, Any]
SchemaGrammar = Callable[[str], str]
"""The grammar of a JSON schema as TensorRT-LLM's xgrammar makes it."""

CONTROL_NAMES = {
    200_003: "<|constrain|>",
    200_005: "<|channel|>",
    200_006: "<|start|>",
    200_007: "<|end|>",
    200_008: "<|message|>",
}
"""The control tokens within an answer, as the checkpoint's tokenizer.json names them."""

_TEXT = '([^<] | "<"+ [^<|])* "<"*'
"""Any text without `<|`."""


def translate(tag: str, grammar_of: SchemaGrammar) -> str:
    """Returns the tag, as JSON.

    Raises ValueError for a format that the service does not write, and for a schema that
    TensorRT-LLM would not hold.
    """
    written = msgspec.json.decode(tag, type=Format)
    return msgspec.json.encode(
        {**written, "format": _format(written["format"], grammar_of)}
    ).decode()


def _format(form: Format, grammar_of: SchemaGrammar) -> Format:
    """Returns a format of xgrammar 0.1.32."""
    if not _has_schema(form):
        return {"type": "grammar", "grammar": f"root ::= {_rule(form)}\n"}
    kind = form["type"]
    if kind == "json_schema":
        return {"type": "grammar", "grammar": _of_schema(form["json_schema"], grammar_of)}
    if kind == "or":
        return {"type": kind, "elements": [_format(each, grammar_of) for each in form["elements"]]}
    if kind != "sequence":
        raise ValueError(f"a schema within {kind}")
    return {
        "type": kind,
        "elements": [_format(each, grammar_of) for each in _joined(form["elements"])],
    }


def _of_schema(schema: Any, grammar_of: SchemaGrammar) -> str:
    held = msgspec.json.encode(schemas.held(schema)).decode()
    try:
        return strings.narrowed(grammar_of(held))
    except RuntimeError as error:
        raise ValueError("the engine makes no grammar of the schema") from error


def _joined(elements: Sequence[Format]) -> list[Format]:
    """Returns the elements of a sequence with neighbours without a schema made one."""
    found: list[Format] = []
    for each in elements:
        if found and not _has_schema(each) and not _has_schema(found[-1]):
            found[-1] = {"type": "sequence", "elements": [found[-1], each]}
        else:
            found.append(each)
    return found


def _has_schema(form: Format) -> bool:
    inner = [*form.get("elements", ()), *([form["content"]] if "content" in form else ())]
    return form["type"] == "json_schema" or any(_has_schema(each) for each in inner)


def _rule(form: Format) -> str:
    """Returns a format as the right side of a rule of xgrammar's EBNF."""
    match form["type"]:
        case "token":
            return _literal(_name(form["token"]))
        case "const_string":
            return _literal(form["value"])
        case "any_tokens":
            return f"({_TEXT})"
        case "sequence":
            return " ".join(_rule(each) for each in form["elements"])
        case "or":
            return f"({' | '.join(_rule(each) for each in form['elements'])})"
        case "star":
            return f"({_rule(form['content'])})*"
        case "optional":
            return f"({_rule(form['content'])})?"
        case other:
            raise ValueError(f"no grammar for {other}")


def _name(token: int) -> str:
    if token not in CONTROL_NAMES:
        raise ValueError(f"no name for token {token}")
    return CONTROL_NAMES[token]


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
