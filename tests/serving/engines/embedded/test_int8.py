from __future__ import annotations

import torch

from serving.engines.embedded.int8 import dequantise


def test_a_weight_is_its_code_times_its_rows_scale() -> None:
    codes = torch.tensor([[127, -127, 0], [1, 2, -3]], dtype=torch.int8)
    found = dequantise(codes, torch.tensor([0.5, 0.25]))
    assert found.dtype == torch.float32
    assert found.tolist() == [[63.5, -63.5, 0.0], [0.25, 0.5, -0.75]]
