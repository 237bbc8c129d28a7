from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.boundary.messages import (
    Abort,
    Fatal,
    Fault,
    FromEngine,
    Generate,
    GetStats,
    Logprob,
    Output,
    Ready,
    Shutdown,
    Stats,
    Step,
    ToEngine,
)
from serving.boundary.sampling import Sampling

TO_ENGINE: list[ToEngine] = [
    Generate(1, [1, 2, 201_087], Sampling(max_tokens=5, seed=2**62, logit_bias={7: -1.5})),
    Generate(2, [0], Sampling(max_tokens=1, stop_token_ids=(200_002,), grammar="{}"), 0.25, "salt"),
    Abort(7),
    GetStats(),
    Shutdown(),
]
FROM_ENGINE: list[FromEngine] = [
    Step([]),
    Step(
        [
            Output(1, [5, 6], "stop", 32, [Logprob(-0.5, [(5, -0.5)]), Logprob(-1.0)]),
            Output(2, [], "error", fault=Fault("out_of_memory", "no room")),
        ]
    ),
    Ready("replay", "1", 64, 8192, 131_072, 32, 4096, "cpu", 0.5, ("logprobs",)),
    Stats(running=3, steps_total=2**40),
    Stats(running=3, suspended=(2, 3)),
    Fatal(70, "gone"),
]


@pytest.mark.parametrize("message", TO_ENGINE, ids=lambda message: type(message).__name__)
def test_messages_to_the_engine_survive_the_journey(message: ToEngine) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=ToEngine) == message


@pytest.mark.parametrize("message", FROM_ENGINE, ids=lambda message: type(message).__name__)
def test_messages_from_the_engine_survive_the_journey(message: FromEngine) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=FromEngine) == message


@given(st.binary(max_size=200))
def test_noise_is_a_decoding_error_or_a_message_and_nothing_else(noise: bytes) -> None:
    try:
        message = msgspec.msgpack.decode(noise, type=FromEngine)
    except msgspec.MsgspecError:
        return
    assert isinstance(message, Step | Ready | Stats | Fatal)


def test_an_output_costs_few_bytes() -> None:
    """At 32,000 tokens per second the boundary then carries half a megabyte per second."""
    outputs = [Output(index, [199_000]) for index in range(64)]
    assert len(msgspec.msgpack.encode(Step(outputs))) <= 64 * 16
