"""What the request schemas of all protocols share: how fields are typed and refused."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from serving.harmony.conversation import ReasoningEffort

UNSUPPORTED = "unsupported"
"""The type of a validation error for what the specification has and this service has not."""

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

EFFORTS: Final[dict[Effort, ReasoningEffort]] = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
"""The model knows three efforts; the others mean the nearest of them."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]

ParallelCalls = Annotated[
    bool | None,
    Field(description="Accepted; GPT-OSS ends its turn with each call, so there is one a turn."),
]

_T = TypeVar("_T")
Accepted = Annotated[_T | None, Field(description="Accepted; it does not change the answer.")]
"""A field of which only the type is checked."""


class Loose(BaseModel):
    """Part of a message. Other fields are ignored: clients send back what they were given."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Body(Loose):
    """The body of a request. Unknown fields are kept, to count.

    The text under a field is its description in `/openapi.json` and in docs/api.md.
    """

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    denied_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields of other servers that change the answer; ignoring them would mislead."""

    @model_validator(mode="before")
    @classmethod
    def _no_denied_field(cls, value: Any) -> Any:
        names = sorted(cls.denied_fields.intersection(value)) if isinstance(value, dict) else []
        for name in names:
            if value[name] not in (None, False, [], {}):
                raise PydanticCustomError("denied_field", "is not supported", {"field": name})
        return value


class Refusal:
    """The annotation of a field that lets only null through."""

    def __init__(self, hint: str) -> None:
        self._hint = hint

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Returns the check."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: object) -> dict[str, Any]:
        """Returns what the description of the API says of the field."""
        hint = self._hint.removeprefix("is ")
        return {"type": "null", "description": f"Refused: {hint}."}

    def _check(self, value: Any) -> Any:
        if value is not None:
            raise PydanticCustomError(UNSUPPORTED, "{hint}", {"hint": self._hint})
        return value


def refuse(hint: str) -> Refusal:
    """Returns the annotation of a field that is refused, with a hint of what to do instead."""
    return Refusal(hint)
