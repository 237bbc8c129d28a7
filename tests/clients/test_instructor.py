"""Instructor: typed answers by a forced call, by a JSON schema, and in a stream."""

from __future__ import annotations

import instructor
import openai
import pytest
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture(params=[instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA])
def client(request: pytest.FixtureRequest, base_url: str) -> instructor.Instructor:
    """The client."""
    return instructor.from_openai(
        openai.OpenAI(base_url=base_url, api_key="none"), mode=request.param
    )


def test_an_answer_has_a_type(client: instructor.Instructor, model: str) -> None:
    person = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Who?"}],
        response_model=Person,
        max_retries=0,
    )
    assert person.model_dump() == {"name": "Ada", "age": 36}


def test_an_answer_with_a_type_grows(client: instructor.Instructor, model: str) -> None:
    grown = list(
        client.chat.completions.create_partial(
            model=model,
            messages=[{"role": "user", "content": "Who?"}],
            response_model=Person,
        )
    )
    assert grown[-1].model_dump() == {"name": "Ada", "age": 36}
