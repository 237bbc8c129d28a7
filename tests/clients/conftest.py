"""One service for all clients, in its own process and its own environment."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SERVICE = [str(REPOSITORY / ".venv" / "bin" / "python"), "-m", "tests.clients.service"]
MODEL = "openai/gpt-oss-120b"

# Before any client is imported: none of them shall look for anything outside this machine.
os.environ |= {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OPENAI_API_KEY": "none",
    "ANTHROPIC_API_KEY": "none",
    "NO_PROXY": "127.0.0.1",
}


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """The URL of the service, without `/v1`."""
    with subprocess.Popen(
        SERVICE, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert line.startswith("http"), "the service does not start"
        yield line
        process.stdin.close()


@pytest.fixture(scope="session")
def base_url(url: str) -> str:
    """What most clients call the base URL."""
    return f"{url}/v1"


@pytest.fixture(scope="session")
def model() -> str:
    """The name of the model."""
    return MODEL
