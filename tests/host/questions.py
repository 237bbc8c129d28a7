"""What these tests ask of a service."""

from __future__ import annotations

import httpx

MODEL = "openai/gpt-oss-120b"


def body(text: str, **fields: object) -> dict[str, object]:
    """Returns a chat request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


def ask(url: str, **fields: object) -> None:
    """Has one question answered."""
    answer = httpx.post(f"{url}/v1/chat/completions", json=body("Hello!", **fields), timeout=60)
    assert answer.status_code == 200
