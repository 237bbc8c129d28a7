from __future__ import annotations

import pytest
import torch

from serving.engines.embedded.flash import attend_chunk


@pytest.mark.parametrize(("tokens", "past"), [(1, 0), (7, 0), (1, 40), (33, 70)])
def test_a_chunk_sees_its_past_and_itself_and_the_sink(tokens: int, past: int) -> None:
    random = torch.Generator().manual_seed(tokens)
    queries = torch.randn((6, tokens, 16), generator=random)
    keys, values = (torch.randn((2, past + tokens, 16), generator=random) for _ in range(2))
    sinks = torch.randn(6, generator=random)
    output = attend_chunk(queries, keys, values, sinks)
    for head in range(6):
        for row in range(tokens):
            seen = past + row + 1
            scores = keys[head // 3, :seen] @ queries[head, row]
            shares = torch.cat((scores, sinks[head : head + 1])).softmax(0)[:-1]
            expected = shares @ values[head // 3, :seen]
            torch.testing.assert_close(output[head, row], expected, rtol=1e-4, atol=1e-5)
