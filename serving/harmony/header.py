"""What the header of a message says: to whom it goes, and so what its body is.

A header is what the model writes between `<|start|>` and `<|message|>`, in sections that control
tokens divide: role, `<|channel|>` name, `<|constrain|>` content type. A recipient (`to=NAME`) may
stand in any of them. Models get headers wrong in a few per cent of turns, so reading one never
fails: it gives the likeliest meaning and the names of what was odd.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum, auto
from typing import Final, NamedTuple

from serving.events import Channel
from serving.harmony.vocabulary import CHANNEL, CONSTRAIN


class Kind(Enum):
    """What the body of a message is to the client."""

    REASONING = auto()
    CONTENT = auto()
    CALL = auto()


class Section(NamedTuple):
    """One part of a header: the control token before it (START for the role) and its text."""

    marker: int
    text: str


class Header(NamedTuple):
    """The meaning of a header.

    `tool` is the name of an offered tool, for `Kind.CALL` alone: a function of the client's, or the
    recipient of a built-in tool; `built_in` is the channel of the latter. `rest` is the text that
    is no part of a header, without leading white space: the body, when `<|message|>` is missing.
    `oddities` names what had to be guessed.
    """

    kind: Kind
    tool: str | None
    rest: str
    oddities: tuple[str, ...]
    built_in: Channel | None = None


_CHANNELS: Final = "analysis|commentary|final"
_ASSISTANT: Final = re.compile(rf"\s*assistant(?:({_CHANNELS})|(?![a-z]))")
_ROLE: Final = re.compile(r"\s*([A-Za-z][\w.\-]*)(?=\s*$|\s+to=)")
_ROLES: Final = frozenset(("user", "system", "developer", "tool"))
_CHANNEL_NAME: Final = re.compile(rf"\s*({_CHANNELS})(?:(?![a-z0-9])|(?=to=))", re.IGNORECASE)
_RECIPIENT: Final = re.compile(r"(?<![^\W_])to=\s*(\S*)")
_NOBODY: Final = frozenset(("", "all", "assistant", "user"))
"""Recipients that are not tools."""
_CONTENT_TYPE: Final = re.compile(r"\s*(?:json|code|text)(?![a-z])")
_NAME: Final = re.compile(r"[\w.\-]*")

# In a header that no <|message|> has ended, text may have begun: only what stands at the beginning
# and cannot be text is taken for a part of the header.
_FIRST_RECIPIENT: Final = re.compile(r"\s*to=\s*([\w.\-]*)")
_JSON_BEFORE_VALUE: Final = re.compile(r"\s*json(?=\s*[{\[])")


def read(
    sections: Sequence[Section],
    tools: frozenset[str],
    built_in: frozenset[str] = frozenset(),
    *,
    role_expected: bool,
    complete: bool,
) -> Header:
    """Returns the meaning of a header whose sections are given, the role first.

    `tools` are the names of the offered functions: `functions.NAME` or `NAME` calls one, on any
    channel. `built_in` are the recipients of the built-in tools that were offered, such as `python`
    and `browser.search`. A message to a tool that was not offered is reasoning on the analysis
    channel, where the built-in tools live, and content elsewhere. `role_expected` is False for the
    header that the prompt has begun: its role is already there. `complete` says whether
    `<|message|>` ended the header; without it, `rest` is kept whole rather than read as a header at
    any price.
    """
    reader = _Reader(tools, built_in, complete)
    for section in sections:
        if section.marker == CHANNEL:
            reader.channel_section(section.text)
        elif section.marker == CONSTRAIN:
            reader.type_section(section.text)
        else:
            reader.role_section(section.text, role_expected)
    return reader.header()


def resolve(recipient: str, tools: frozenset[str]) -> tuple[str | None, bool]:
    """Returns the offered tool that a recipient means, or None, and whether the name was clean.

    A name is cut where it stops being one (`get_x<|channel|>commentary`), and a wrong namespace is
    overlooked (`functions.functions.get_x`).
    """
    for name in (recipient.removeprefix("functions."), recipient):
        if name in tools:
            return name, True
    word = _NAME.match(recipient)
    cut = word.group() if word else ""
    for name in (cut.removeprefix("functions."), cut, cut.rpartition(".")[2]):
        if name in tools:
            return name, False
    return None, True


class _Target(NamedTuple):
    """The offered tool that a recipient means, and whether its name was clean."""

    name: str
    built_in: bool
    clean: bool


class _Reader:
    """Collects what the sections of one header say."""

    def __init__(self, tools: frozenset[str], built_in: frozenset[str], complete: bool) -> None:
        self._tools = tools
        self._built_in = built_in
        self._complete = complete
        self._channel: str | None = None
        self._channel_sections = 0
        self._recipient: str | None = None
        self._rest: list[str] = []
        self._oddities: list[str] = []

    def role_section(self, text: str, role_expected: bool) -> None:
        found = _ASSISTANT.match(text)
        if found:
            # `<|start|>assistantfinal<|message|>`: the channel's name without its token.
            self._channel = found.group(1)
            text = text[found.end() :]
        elif role_expected:
            text = self._without_other_role(text)
        text = self._without_recipient(text)
        found = _CHANNEL_NAME.match(text)
        if found and not text[found.end() :].strip():
            self._channel = self._channel or found.group(1).lower()
            return
        self._leave(text if self._recipient is None else self._without_type(text))

    def channel_section(self, text: str) -> None:
        self._channel_sections += 1
        found = _CHANNEL_NAME.match(text)
        if found:
            self._channel = self._channel or found.group(1).lower()
            text = text[found.end() :]
        self._leave(self._without_type(self._without_recipient(text)))

    def type_section(self, text: str) -> None:
        text = self._without_recipient(text)
        found = _CONTENT_TYPE.match(text)
        self._leave(text[found.end() :] if found else text)

    def header(self) -> Header:
        target = self._target()
        rest = "".join(self._rest).lstrip()
        if not self._channel_sections:
            self._oddities.append("missing_channel")
        elif self._channel is None:
            self._oddities.append("unknown_channel")
        if target is not None:
            channel: Channel = "commentary" if self._channel == "commentary" else "analysis"
            built_in = channel if target.built_in else None
            return Header(Kind.CALL, target.name, rest, tuple(self._oddities), built_in)
        kind = Kind.REASONING if self._channel == "analysis" else Kind.CONTENT
        return Header(kind, None, rest, tuple(self._oddities))

    def _without_other_role(self, text: str) -> str:
        """Takes a role that is not the assistant's off `text`, unless it is a tool to call."""
        found = _ROLE.match(text)
        if not found:
            return text
        role = found.group(1)
        if not self._complete and role not in _ROLES and not role.startswith("functions."):
            return text
        addressed = _RECIPIENT.search(text, found.end())
        if addressed is None and self._meant(role) is not None:
            return text
        if _CHANNEL_NAME.fullmatch(role):
            return text
        self._oddities.append("unexpected_role")
        return text[found.end() :]

    def _without_recipient(self, text: str) -> str:
        """Returns `text` without `to=NAME`, which is kept; the first that names a tool counts."""
        found = _RECIPIENT.search(text) if self._complete else _FIRST_RECIPIENT.match(text)
        if not found:
            return text
        name = found.group(1)
        if name not in _NOBODY:
            if self._recipient is not None:
                self._oddities.append("repeated_recipient")
            if self._recipient is None or self._meant(self._recipient) is None:
                self._recipient = name
        return text[: found.start()] + text[found.end() :]

    def _without_type(self, text: str) -> str:
        """Returns `text` without the content type that it begins with, if it does."""
        found = (_CONTENT_TYPE if self._complete else _JSON_BEFORE_VALUE).match(text)
        return text[found.end() :] if found else text

    def _leave(self, text: str) -> None:
        """Keeps what is left of a section: a bare recipient, or text that is no header."""
        word = text.strip()
        if not word:
            return
        if self._complete and self._recipient is None and self._meant(word) is not None:
            self._recipient = word
            return
        self._rest.append(text)

    def _meant(self, recipient: str) -> _Target | None:
        """Returns the offered tool that a recipient means; a function before a built-in tool's
        name that is not clean."""
        if recipient in self._built_in:
            return _Target(recipient, built_in=True, clean=True)
        tool, clean = resolve(recipient, self._tools)
        if tool is not None:
            return _Target(tool, built_in=False, clean=clean)
        word = _NAME.match(recipient)
        name = word.group().removeprefix("functions.") if word else ""
        return _Target(name, built_in=True, clean=False) if name in self._built_in else None

    def _target(self) -> _Target | None:
        if self._recipient is None:
            return None
        target = self._meant(self._recipient)
        if target is None:
            self._oddities.append("unoffered_tool")
        elif not target.clean:
            self._oddities.append("tool_name")
        return target
