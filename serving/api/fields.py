"""What the request schemas of all protocols share: how fields are typed and refused."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.functional_validators import AfterValidator
from pydantic_core import PydanticCustomError

UNSUPPORTED = "unsupported"
"""The type of a validation error for what the specification has and this service has not."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Loose(BaseModel):
    """Part of a message. Other fields are ignored: clients send back what they were given."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


def refuse(hint: str) -> AfterValidator:
    """Returns a validator that lets only null through, with a hint of what to do instead."""

    def check(value: Any) -> Any:
        if value is not None:
            raise PydanticCustomError(UNSUPPORTED, "{hint}", {"hint": hint})
        return value

    return AfterValidator(check)
