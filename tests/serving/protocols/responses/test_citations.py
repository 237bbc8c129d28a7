"""Which marks of a message cite which page."""

from __future__ import annotations

import pytest

from serving.protocols.responses.citations import Pages


def pages(*outputs: str) -> Pages:
    shown = Pages()
    for output in outputs:
        shown.learn(output)
    return shown


def cited(shown: Pages, text: str) -> list[tuple[str, str, str]]:
    return [
        (text[found["start_index"] : found["end_index"]], found["title"], found["url"])
        for found in shown.cited(text)
    ]


def test_marks_are_found_where_they_stand() -> None:
    shown = pages("[0] One (https://a/)\n**x**", "[12] Two (more) (http://b/c(d))\nL0: text")
    text = "🙂 First【0†L1-L2】 and【12†L3】【12†L4】."
    assert cited(shown, text) == [
        ("【0†L1-L2】", "One", "https://a/"),
        ("【12†L3】", "Two (more)", "http://b/c(d)"),
        ("【12†L4】", "Two (more)", "http://b/c(d)"),
    ]


def test_a_search_in_a_page_is_a_citation_of_the_page() -> None:
    shown = pages("[1] Find results for text: `x` in `One` (https://a/b/find?pattern=x y)\n")
    assert cited(shown, "【1†L2】")[0][2] == "https://a/b"


@pytest.mark.parametrize(
    "output",
    [
        "[0] Search results\n**viewing**\n(https://a/)",
        "[0] Page ()",
        "[0] Page (file:///etc/passwd)",
        "[0] Page (javascript:alert)",
        " [0] Page (https://a/)",
        "Error: the tool did not answer",
        "",
    ],
)
def test_a_page_without_an_address_is_not_cited(output: str) -> None:
    assert pages(output).cited("【0†L1】") == []


@pytest.mark.parametrize(
    "text", ["【0】", "【0†】", "【†L1】", "[0†L1]", "【1†L1】", "【0†L1", "0†L1】"]
)
def test_what_is_no_mark_of_a_page_that_was_shown_is_text(text: str) -> None:
    assert pages("[0] Page (https://a/)").cited(text) == []


def test_a_page_that_is_shown_again_under_its_number_counts_as_it_was_last() -> None:
    shown = pages("[0] One (https://a/)", "[0] Two (https://b/)")
    assert cited(shown, "【0†L1】") == [("【0†L1】", "Two", "https://b/")]


def test_long_lines_without_an_address_cost_little() -> None:
    assert pages("[0] " + "(https://" * 200_000).cited("【0†L1】" * 1000) == []
