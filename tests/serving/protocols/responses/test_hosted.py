"""Calls of hosted tools as items, whatever the model wrote into them."""

from __future__ import annotations

from typing import Any

import pytest

from serving.protocols.responses.hosted import call_body

NOTHING = {"type": "search", "query": "", "queries": [""]}


def action(name: str, text: str) -> Any:
    return call_body("web_search_call", name, text, None, "")["action"]


def test_code_has_its_output_where_that_is_shown() -> None:
    shown = call_body("code_interpreter_call", "python", "1", "2", "cntr_1")
    assert shown == {
        "code": "1",
        "container_id": "cntr_1",
        "outputs": [{"type": "logs", "logs": "2"}],
    }
    hidden = call_body("code_interpreter_call", "python", "1", None, "cntr_1")
    assert hidden["outputs"] is None


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("search", '{"query": "x"}', {"type": "search", "query": "x", "queries": ["x"]}),
        ("open", '{"id": "http://a/"}', {"type": "open_page", "url": "http://a/"}),
        ("open", '{"id": 3, "cursor": 1}', {"type": "open_page", "url": None}),
        ("find", '{"pattern": "x"}', {"type": "find_in_page", "pattern": "x", "url": ""}),
        ("find", '{"pattern": 1}', {"type": "find_in_page", "pattern": "", "url": ""}),
        ("search", '{"query": ["x"]}', NOTHING),
        ("search", "x", NOTHING),
        ("search", "[1]", NOTHING),
        ("search", "\ud800", NOTHING),
        ("search", "[" * 100_000, NOTHING),
        ("open", "", {"type": "open_page", "url": None}),
    ],
)
def test_an_action_is_what_can_be_read_of_a_call(name: str, text: str, expected: Any) -> None:
    assert action(f"browser.{name}", text) == expected
