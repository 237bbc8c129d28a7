"""A contract double of TensorRT-LLM: what the runtime uses of it, and nothing else.

Signatures, defaults, validation and failures follow the public source; each module says which
file and revision. There is no model: a request's first prompt token says after how many tokens the
model stops, and its second one which fault happens to it (see `executor.FAULTS`).

It is never on the path of the product: tests put tests/doubles there, or PYTHONPATH for a process.
"""

import os

from tensorrt_llm.llmapi import LLM
from tensorrt_llm.sampling_params import SamplingParams

__version__ = os.environ.get("TENSORRT_LLM_DOUBLE_VERSION", "1.4.0rc4")

__all__ = ["LLM", "SamplingParams", "__version__"]
