"""Function tools as the TypeScript that GPT-OSS was trained to read.

The form, oddities included, is that of openai-harmony 0.0.8, and the tests hold it to that. Depth
is bounded, because a schema is the client's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final

from serving.harmony.conversation import FunctionTool

MAX_DEPTH: Final = 64
"""A schema nested deeper than this is `any` from there on."""


def tools_section(tools: Iterable[FunctionTool]) -> str:
    """Returns the section `# Tools` with one namespace, `functions`."""
    return f"# Tools\n\n## functions\n\n{namespace('functions', tools)}"


def namespace(name: str, tools: Iterable[FunctionTool]) -> str:
    """Returns a namespace with the types of its functions."""
    lines = [f"namespace {name} {{\n"]
    for tool in tools:
        kind = "()" if tool.parameters is None else f"(_: {_type(tool.parameters, '', 0)})"
        lines.append(f"{comment(tool.description)}type {tool.name} = {kind} => any;\n")
    lines.append(f"}} // namespace {name}")
    return "\n".join(lines)


def comment(text: str) -> str:
    """Returns the lines of `text` as comments, each with its line end."""
    return "".join(f"// {line}\n" for line in _lines(text))


def compact_json(value: object) -> str:
    """Returns `value` as JSON without spaces, numbers as serde_json writes them.

    A float that is no JSON number (NaN, infinity) is null.
    """
    if isinstance(value, dict):
        members = (f"{_quote(str(key))}:{compact_json(item)}" for key, item in value.items())
        return "{" + ",".join(members) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(compact_json, value)) + "]"
    if isinstance(value, str):
        return _quote(value)
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return str(value) if -(2**63) <= value < 2**64 else _float(float(value))
    if isinstance(value, float):
        return _float(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _float(value: float) -> str:
    """Returns the shortest decimal that reads back as `value`, laid out as Ryu does.

    Plain for exponents from 1e-5 up to 1e16, else like 1e16 or 1.5e-7.
    """
    if not math.isfinite(value):
        return "null"
    if value == 0:
        return "-0.0" if math.copysign(1, value) < 0 else "0.0"
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    mantissa = "".join(map(str, digits))
    point = len(mantissa) + int(exponent)
    minus = "-" if sign else ""
    if 0 < point <= 16:
        whole, fraction = mantissa[:point].ljust(point, "0"), mantissa[point:]
        return f"{minus}{whole}.{fraction or '0'}"
    if -5 < point <= 0:
        return f"{minus}0.{'0' * -point}{mantissa}"
    fraction = f".{mantissa[1:]}" if len(mantissa) > 1 else ""
    return f"{minus}{mantissa[0]}{fraction}e{point - 1}"


def _lines(text: str) -> list[str]:
    """Returns the lines of `text`; only LF and CRLF end one, and the last needs no end."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
        return [line.removesuffix("\r") for line in lines]
    return [line.removesuffix("\r") for line in lines[:-1]] + lines[-1:]


def _get(schema: object, key: str) -> Any:
    """Returns the member `key` of a schema; None when it is absent or the schema is no object."""
    return schema.get(key) if isinstance(schema, dict) else None


def _has(schema: object, key: str) -> bool:
    return isinstance(schema, dict) and key in schema


def _type(schema: object, indent: str, depth: int) -> str:
    """Returns the TypeScript type of a JSON schema; `indent` stands before every further line."""
    if depth > MAX_DEPTH:
        return "any"
    one_of = _get(schema, "oneOf")
    if isinstance(one_of, list):
        return "".join(
            f"\n{indent} | {_variant(variant, indent, depth)}{_comment(variant, quoted_enum=True)}"
            for variant in one_of
        )
    kind = _get(schema, "type")
    if isinstance(kind, list):
        names = ["number" if name == "integer" else name for name in kind if isinstance(name, str)]
        return " | ".join(names) or "any"
    if kind == "object":
        return _object(schema, indent, depth)
    if kind == "string":
        return _string(schema)
    if kind in ("number", "integer"):
        return "number"
    if kind == "boolean":
        return "boolean"
    if kind == "array":
        if not _has(schema, "items"):
            return "Array<any>"
        return f"{_type(_get(schema, 'items'), indent, depth + 1)}[]"
    return "any"


def _string(schema: object) -> str:
    choices = _get(schema, "enum")
    if isinstance(choices, list):
        quoted = [f'"{choice}"' for choice in choices if isinstance(choice, str)]
        if quoted:
            return " | ".join(quoted)
    return "string"


def _object(schema: object, indent: str, depth: int) -> str:
    out = []
    description = _get(schema, "description")
    if isinstance(description, str):
        out.append(f"{indent}// {description}\n")
    out.append("{\n")
    properties = _get(schema, "properties")
    if isinstance(properties, dict):
        listed = _get(schema, "required")
        names = listed if isinstance(listed, list) else []
        required = {name for name in names if isinstance(name, str)}
        for name, value in properties.items():
            mark = "" if name in required else "?"
            out.append(_property(f"{name}{mark}", value, indent, depth + 1))
    out.append(f"{indent}}}")
    return "".join(out)


def _property(label: str, value: object, indent: str, depth: int) -> str:
    """Returns the lines of one property: comments, `label: type,`, default."""
    out = []
    title = _get(value, "title")
    if isinstance(title, str):
        out.append(f"{indent}// {title}\n{indent}//\n")
    description = _get(value, "description")
    if isinstance(description, str) and not _has(value, "oneOf"):
        out.append(f"{indent}// {description}\n")
    examples = _get(value, "examples")
    if isinstance(examples, list) and examples:
        out.append(f"{indent}// Examples:\n")
        out.extend(f'{indent}// - "{text}"\n' for text in examples if isinstance(text, str))
    one_of = _get(value, "oneOf")
    if isinstance(one_of, list):
        out.append(_one_of_property(label, value, one_of, indent, depth))
        return "".join(out)
    out.append(f"{indent}{label}: {_nullable(value, _type(value, f'{indent}    ', depth))},")
    if _has(value, "default") and not _has(value, "oneOf"):
        out.append(f" // {_default(value, quoted_enum=False)}")
    out.append("\n")
    return "".join(out)


def _one_of_property(
    label: str, value: object, variants: list[Any], indent: str, depth: int
) -> str:
    """Returns a property that is one of several types, a line each.

    A description that the property shares with its first variant stands at neither: the library
    leaves it out above and does not repeat it behind.
    """
    out = []
    description = _get(value, "description")
    shared = isinstance(description, str) and (
        bool(variants) and _get(variants[0], "description") == description
    )
    above = isinstance(description, str) and not shared
    if above:
        out.append(f"{indent}// {description}\n")
    if _has(value, "default"):
        out.append(f"{indent}// {_default(value, quoted_enum=False)}\n")
    out.append(f"{indent}{label}:\n")
    for i, variant in enumerate(variants):
        silent = (i == 0 and above) or _get(variant, "description") == description
        remark = _comment(variant, quoted_enum=False, described=not silent)
        out.append(f"{indent} | {_variant(variant, indent, depth)}{remark}\n")
    out.append(f"{indent},\n")
    return "".join(out)


def _variant(variant: object, indent: str, depth: int) -> str:
    return _nullable(variant, _type(variant, f"{indent}   ", depth + 1))


def _nullable(schema: object, text: str) -> str:
    if _get(schema, "nullable") is True and "null" not in text:
        return f"{text} | null"
    return text


def _comment(variant: object, *, quoted_enum: bool, described: bool = True) -> str:
    """Returns ` // description default: ...` for one variant, or nothing."""
    parts = []
    description = _get(variant, "description")
    if described and isinstance(description, str):
        parts.append(description)
    if _has(variant, "default"):
        parts.append(_default(variant, quoted_enum=quoted_enum))
    return f" // {' '.join(parts)}" if parts else ""


def _default(schema: object, *, quoted_enum: bool) -> str:
    """Returns `default: ...`; the default of an enum is bare unless `quoted_enum`."""
    value = _get(schema, "default")
    if not isinstance(value, str):
        return f"default: {compact_json(value)}"
    choices = _get(schema, "enum")
    if isinstance(choices, list) and choices:
        # Inside a type the library writes the value as JSON, at a property as it is.
        return f"default: {_quote(value) if quoted_enum else value}"
    return f'default: "{value}"'
