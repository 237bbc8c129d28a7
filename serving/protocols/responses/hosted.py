"""Calls of hosted tools as the items of a response."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

Json = dict[str, Any]
HostedKind = Literal["code_interpreter_call", "web_search_call"]

HOSTED_KINDS: Final = ("code_interpreter_call", "web_search_call")


def call_body(
    kind: HostedKind, name: str, text: str, output: str | None, container_id: str
) -> Json:
    """Returns what an item has besides its id and status.

    `name` is the recipient of the call and `text` its body. `output` is what the executor said, or
    None where it is not shown or there is none yet. GPT-OSS and its executor know pages by numbers,
    so the address of a page that is searched is empty, and one that is opened has it only where
    the model wrote it.
    """
    if kind == "code_interpreter_call":
        outputs = None if output is None else [{"type": "logs", "logs": output}]
        return {"code": text, "container_id": container_id, "outputs": outputs}
    return {"action": _action(name, text)}


def _action(name: str, text: str) -> Json:
    arguments = _arguments(text)
    if name == "browser.open":
        page = arguments.get("id")
        return {"type": "open_page", "url": page if isinstance(page, str) else None}
    if name == "browser.find":
        return {"type": "find_in_page", "pattern": _string(arguments.get("pattern")), "url": ""}
    query = _string(arguments.get("query"))
    return {"type": "search", "query": query, "queries": [query]}


def _arguments(text: str) -> Json:
    try:
        value = msgspec.json.decode(text.encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""
