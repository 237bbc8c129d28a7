"""The production runtime: TensorRT-LLM's PyTorch backend behind `serving.boundary.contract`.

No machine without a GPU can run it. It is written against TensorRT-LLM's public source, and each
module says at which revision it was read; tests run it against a contract double in
tests/doubles/tensorrt_llm that has the signatures, defaults and failures of those revisions.
"""

from serving.engines.trtllm.runtime import TrtllmRuntime

__all__ = ["TrtllmRuntime"]
