"""What somebody said, as clients may write it in every protocol: a text, or a list of parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from pydantic import Discriminator

from serving.protocols.edge.fields import Loose


class RefusalPart(Loose):
    """A refusal that an assistant message holds; text to the model."""

    type: Literal["refusal"]
    refusal: str


class HasText(Protocol):
    """A part that is text."""

    @property
    def text(self) -> str:
        """The text."""
        ...


def plain_text(content: str | Sequence[HasText | RefusalPart]) -> str:
    """Returns the text of a content: its parts one after another."""
    if isinstance(content, str):
        return content
    return "".join(part.refusal if isinstance(part, RefusalPart) else part.text for part in content)


def text_or_list(of_what: str, error_type: str = "content_type") -> Discriminator:
    """Returns what tells a string, tagged `@string`, from a list, tagged `@list`."""
    return Discriminator(
        _tag,
        custom_error_type=error_type,
        custom_error_message=f"must be a string or a list of {of_what}",
    )


def _tag(value: Any) -> str | None:
    return "@string" if isinstance(value, str) else "@list" if isinstance(value, list) else None
