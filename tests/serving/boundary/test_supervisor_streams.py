from __future__ import annotations

import asyncio
import time
from contextlib import nullcontext

import pytest

from serving.boundary.engine import Limits
from serving.engines.replay import script as scripts
from serving.engines.replay.script import Scenario, Script
from serving.errors import ServingError
from serving.generation.watch import Watch
from tests.serving.boundary.supervised import (
    DETECTION_SECONDS,
    KILL,
    LONG,
    WATCHFUL,
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


@pytest.mark.parametrize(
    ("pause", "stalls"),
    [(scripts.Suspend(seconds=2.0), False), (scripts.Delay(seconds=2.0), True)],
)
async def test_an_engine_says_which_sequence_it_has_set_aside(
    supervise: Supervise, pause: scripts.ScriptStep, *, stalls: bool
) -> None:
    begin, end = scripts.Tokens(ids=(7,)), scripts.Tokens(ids=(8,))
    supervisor = await supervise(either(begin, pause, end), policy=WATCHFUL)
    other = supervisor.open([1], [LONG])
    stream = supervisor.open([KILL], [LONG])
    watch = Watch(
        time.monotonic,
        due=time.monotonic() + DETECTION_SECONDS * 10,
        first_token_seconds=DETECTION_SECONDS * 5,
        stall_seconds=0.7,
    )
    tokens: list[int] = []
    with pytest.raises(ServingError, match="no token for") if stalls else nullcontext():
        while arrived := await watch.receive(stream):
            tokens += (token for _, one in arrived for token in one.tokens)
            assert not other.suspended
    assert tokens == ([7] if stalls else [7, 8])
    watch.close()
    stream.close()
    other.close()


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
