"""What headers mean, well-formed and not."""

from __future__ import annotations

import pytest

from serving.harmony.header import Header, Kind, Section, read, resolve
from serving.harmony.vocabulary import CHANNEL, CONSTRAIN, START

TOOLS = frozenset(("get_weather", "search", "python", "browser.open"))
MARKERS = {"role": START, "channel": CHANNEL, "type": CONSTRAIN}


def header(*sections: tuple[str, str], first: bool = True, complete: bool = True) -> Header:
    parts = [Section(MARKERS[name], text) for name, text in sections]
    return read(parts, TOOLS, role_expected=not first, complete=complete)


def test_each_channel_has_its_kind() -> None:
    for channel, kind in (
        ("analysis", Kind.REASONING),
        ("commentary", Kind.CONTENT),
        ("final", Kind.CONTENT),
    ):
        assert header(("role", ""), ("channel", channel)) == Header(kind, None, "", ())


@pytest.mark.parametrize(
    "sections",
    [
        [("role", " to=functions.get_weather"), ("channel", "commentary "), ("type", "json")],
        [("role", ""), ("channel", "commentary to=functions.get_weather "), ("type", "json")],
        [("role", ""), ("channel", "commentary"), ("type", "json to=functions.get_weather")],
        [("role", " to=functions.get_weather"), ("channel", "commentary json")],
        [("role", " to=functions.get_weather"), ("channel", "analysis code")],
        [("role", " to=functions.get_weather"), ("channel", "final")],
        [("role", " to=get_weather"), ("channel", "commentary")],
        [("role", ""), ("channel", "commentaryto=functions.get_weather")],
        [("role", ""), ("channel", "commentary functions.get_weather ")],
        [("role", " functions.get_weather"), ("channel", "commentary")],
        [("role", " to=functions.get_weather json"), ("channel", "commentary")],
        [("role", " to= functions.get_weather"), ("channel", "commentary")],
    ],
)
def test_a_recipient_is_found_wherever_it_stands(sections: list[tuple[str, str]]) -> None:
    assert header(*sections) == Header(Kind.CALL, "get_weather", "", ())


def test_a_recipient_that_is_said_twice_is_one_call() -> None:
    found = header(
        ("role", " to=functions.get_weather"), ("channel", "commentary to=functions.get_weather")
    )
    assert found == Header(Kind.CALL, "get_weather", "", ("repeated_recipient",))


def test_of_two_recipients_the_offered_one_counts() -> None:
    found = header(("role", " to=nothing"), ("channel", "commentary to=functions.search"))
    assert (found.kind, found.tool) == (Kind.CALL, "search")


@pytest.mark.parametrize("nobody", ["assistant", "user", "all", ""])
def test_a_message_to_nobody_is_no_call(nobody: str) -> None:
    found = header(("role", f" to={nobody}"), ("channel", "final"))
    assert found == Header(Kind.CONTENT, None, "", ())


@pytest.mark.parametrize("channel", ["final", "commentary", "analysis"])
def test_a_constraint_is_no_recipient(channel: str) -> None:
    found = header(("role", ""), ("channel", f"{channel} "), ("type", "json"))
    assert found.kind is (Kind.REASONING if channel == "analysis" else Kind.CONTENT)
    assert found.oddities == ()


def test_a_tool_that_was_not_offered_is_shown_where_its_channel_is_shown() -> None:
    hidden = header(("role", " to=browser.search_all"), ("channel", "analysis"))
    assert hidden == Header(Kind.REASONING, None, "", ("unoffered_tool",))
    shown = header(("role", " to=functions.delete_all"), ("channel", "commentary"))
    assert shown == Header(Kind.CONTENT, None, "", ("unoffered_tool",))


def test_a_header_may_lack_its_channel_token() -> None:
    for text, kind in (("assistantfinal", Kind.CONTENT), ("assistant analysis", Kind.REASONING)):
        found = header(("role", text), first=False)
        assert found == Header(kind, None, "", ("missing_channel",))
    assert header(("role", "")) == Header(Kind.CONTENT, None, "", ("missing_channel",))


def test_an_unknown_channel_is_content() -> None:
    found = header(("role", ""), ("channel", "comment"))
    assert found == Header(Kind.CONTENT, None, "comment", ("unknown_channel",))


def test_a_channel_with_something_behind_it_is_that_channel() -> None:
    found = header(("role", ""), ("channel", "commentary??? hello"))
    assert (found.kind, found.rest) == (Kind.CONTENT, "??? hello")
    assert header(("role", ""), ("channel", "Analysis.")).kind is Kind.REASONING


def test_the_first_of_two_channels_counts() -> None:
    found = header(("role", ""), ("channel", "analysis"), ("channel", "final"))
    assert found.kind is Kind.REASONING


@pytest.mark.parametrize("role", ["user", "system", "tool", "functions.other", "bogus"])
def test_another_role_is_noted(role: str) -> None:
    found = header(("role", role), ("channel", "final"), first=False)
    assert found == Header(Kind.CONTENT, None, "", ("unexpected_role",))


def test_a_result_that_the_model_made_up_is_no_call() -> None:
    found = header(
        ("role", "functions.search to=assistant"), ("channel", "commentary"), first=False
    )
    assert found == Header(Kind.CONTENT, None, "", ("unexpected_role",))


def test_a_tool_in_the_place_of_the_role_is_called() -> None:
    found = header(("role", "functions.search"), ("channel", "commentary"), first=False)
    assert (found.kind, found.tool) == (Kind.CALL, "search")


@pytest.mark.parametrize(
    ("sections", "kind", "rest"),
    [
        ([("role", " Hello there, all.\n")], Kind.CONTENT, "Hello there, all.\n"),
        ([("role", "search")], Kind.CONTENT, "search"),
        ([("role", "Set to=search and go")], Kind.CONTENT, "Set to=search and go"),
        ([("role", "assistantanalysis Hm.")], Kind.REASONING, "Hm."),
        ([("role", ""), ("channel", "analysis I think")], Kind.REASONING, "I think"),
        ([("role", ""), ("channel", "final text is here")], Kind.CONTENT, "text is here"),
        ([("role", ""), ("channel", "final json [1]")], Kind.CONTENT, "[1]"),
        ([("role", ""), ("channel", "final "), ("type", 'json{"a":1}')], Kind.CONTENT, '{"a":1}'),
        ([("role", ""), ("channel", "Hello there")], Kind.CONTENT, "Hello there"),
        ([("role", " to=functions.search{}"), ("channel", "commentary")], Kind.CALL, "{}"),
        (
            [("role", ""), ("channel", 'commentary to=functions.search {"q":"to=x"}')],
            Kind.CALL,
            '{"q":"to=x"}',
        ),
    ],
)
def test_text_in_a_header_that_did_not_end_is_kept(
    sections: list[tuple[str, str]], kind: Kind, rest: str
) -> None:
    found = header(*sections, complete=False)
    assert (found.kind, found.rest) == (kind, rest)


@pytest.mark.parametrize(("text", "rest"), [("Hello", "Hello"), ("user", ""), ("functions.x", "")])
def test_only_a_role_is_taken_for_one_in_a_header_that_did_not_end(text: str, rest: str) -> None:
    assert header(("role", text), first=False, complete=False).rest == rest


@pytest.mark.parametrize(
    ("recipient", "tool", "clean"),
    [
        ("functions.search", "search", True),
        ("search", "search", True),
        ("browser.open", "browser.open", True),
        ("functions.browser.open", "browser.open", True),
        ("functions.python", "python", True),
        ("functions.search<|channel|>commentary", "search", False),
        ("functions.search<|constrain|>json", "search", False),
        ("functions.search:", "search", False),
        ("functions.functions.search", "search", False),
        ("tools.search", "search", False),
        ("functions.Search", None, True),
        ("functions.", None, True),
        ("", None, True),
        ("<|channel|>", None, True),
        ("functions.searching", None, True),
    ],
)
def test_a_recipient_means_an_offered_tool_or_none(
    recipient: str, tool: str | None, clean: bool
) -> None:
    assert resolve(recipient, TOOLS) == (tool, clean)
