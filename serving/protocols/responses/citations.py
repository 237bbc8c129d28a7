"""What a message cites: marks such as `【3†L8-L9】`, as the annotations of OpenAI's specification.

The model was trained to cite pages by the numbers under which the browser shows them. Each display
begins with its number, the page's title and its address: `[3] Title (https://a/b)`; that is how the
browser of openai/gpt-oss writes it. A page without an address, such as a list of results, is not
cited, nor is one that the browser has not shown.
"""

from __future__ import annotations

import re
from typing import Any, Final

_DISPLAY: Final = re.compile(
    r"\[(\d{1,6})\] ?([^\n]{0,1000}?) ?\((https?://[^\n]{1,2000})\)(?:\n|$)"
)
_MARK: Final = re.compile(r"【(\d{1,6})†[^】\n]{1,200}】")
_SEARCH: Final = re.compile(r"/find\?pattern=.*$")
"""What the browser puts behind the address of a page in which it has searched."""


class Pages:
    """The pages that the browser has shown in one response."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[str, str]] = {}

    def learn(self, output: str) -> None:
        """Takes what the browser said of one call."""
        if found := _DISPLAY.match(output):
            number, title, address = found.groups()
            self._shown[number] = title, _SEARCH.sub("", address)

    def cited(self, text: str) -> list[dict[str, Any]]:
        """Returns the citations in a message, in order. The marks stay in it; `end_index` is the
        first character behind one."""
        if not self._shown:
            return []
        citations = []
        for mark in _MARK.finditer(text):
            if page := self._shown.get(mark.group(1)):
                title, address = page
                citations.append(
                    {
                        "type": "url_citation",
                        "start_index": mark.start(),
                        "end_index": mark.end(),
                        "title": title,
                        "url": address,
                    }
                )
        return citations
