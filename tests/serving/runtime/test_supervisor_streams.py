from __future__ import annotations

import asyncio

from serving.engine import Limits
from serving.runtime import script as scripts
from serving.runtime.script import Scenario, Script
from tests.serving.runtime.supervised import (
    DETECTION_SECONDS,
    LONG,
    Supervise,
    either,
    read_all,
)


async def test_an_abort_frees_its_place_for_the_next(supervise: Supervise) -> None:
    limits = Limits(max_batch_size=1, max_num_tokens=64, max_seq_len=4096)
    supervisor = await supervise(either(), limits=limits)
    first = supervisor.open([1], [LONG])
    await first.receive()
    second = supervisor.open([2], [LONG])
    stats = await supervisor.stats()
    assert (stats.running, stats.waiting) == (1, 1)
    first.close()
    async with asyncio.timeout(DETECTION_SECONDS):
        assert await second.receive()
    second.close()
    stats = await supervisor.stats()
    assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)


async def test_no_token_is_lost_doubled_or_mixed_among_64_streams(supervise: Supervise) -> None:
    script = Script(
        scenarios=(Scenario(steps=(scripts.Echo(after=(9,)), scripts.Echo(after=(9,)))),)
    )
    supervisor = await supervise(script)
    nonces = [list(range(1000 * index + 1000, 1000 * index + 1200)) for index in range(64)]

    async def run(nonce: list[int]) -> list[int]:
        outputs = await read_all(supervisor.open([9, *nonce], [LONG]))
        assert [one.finish for _, one in outputs][-1] == "stop"
        return [token for _, one in outputs for token in one.tokens]

    answers = await asyncio.gather(*map(run, nonces))
    assert answers == [nonce + nonce for nonce in nonces]


async def test_random_aborts_do_not_disturb_the_others(supervise: Supervise) -> None:
    supervisor = await supervise(Script(scenarios=(Scenario(steps=(scripts.Echo(after=(9,)),)),)))
    nonces = [list(range(1000 * index + 1000, 1000 * index + 1300)) for index in range(60)]

    async def run(index: int, nonce: list[int]) -> list[int]:
        stream = supervisor.open([9, *nonce], [LONG])
        if index % 3 == 0:
            await stream.receive()
            stream.close()
            return nonce
        return [token for _, one in await read_all(stream) for token in one.tokens]

    assert await asyncio.gather(*map(run, range(60), nonces)) == nonces
    assert (await supervisor.stats()).running == 0
