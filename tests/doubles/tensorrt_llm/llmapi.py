"""Follows tensorrt_llm/llmapi: llm.py (`LLM`) and llm_args.py (`TorchLlmArgs`, which forbids what
it does not know). The fields are those of engine_build/profiles/trtllm_fields.json, the parameters
of the calls those of tests/serving/engines/trtllm/calls.json.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from tensorrt_llm import kv_cache
from tensorrt_llm.executor import Engine, GenerationResult, IterationResult
from tensorrt_llm.executor import RequestError as RequestError
from tensorrt_llm.kv_cache import BLOCK_TOKENS
from tensorrt_llm.sampling_params import GuidedDecodingParams, SamplingParams

__all__ = ["LLM", "GuidedDecodingParams", "SamplingParams"]

_FIELDS = Path(__file__).parents[3] / "engine_build" / "profiles" / "trtllm_fields.json"


def torch_llm_args() -> type[BaseModel]:
    """Returns a strict model of the argument names, sub-configurations included."""
    listed = json.loads(_FIELDS.read_text())
    models: dict[str, type[BaseModel]] = {}

    def model(name: str) -> type[BaseModel]:
        if name not in models:
            fields: dict[str, Any] = {}
            for field, spec in listed["classes"][name]["fields"].items():
                kind: Any = model(spec["class"]) | None if "class" in spec else Any
                fields[field] = (kind, ... if spec.get("required") else None)
            extra = ConfigDict(extra="allow" if listed["classes"][name]["open"] else "forbid")
            models[name] = create_model(name, __config__=extra, **fields)
        return models[name]

    return model(listed["root"])


class LLM:
    """As the real one: keyword arguments beyond the first few are `TorchLlmArgs`'s."""

    def __init__(
        self,
        model: str | Path,
        tokenizer: Any = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        named: dict[str, Any] = {
            "model": str(model),
            "skip_tokenizer_init": skip_tokenizer_init,
            "trust_remote_code": trust_remote_code,
            "tensor_parallel_size": tensor_parallel_size,
            "dtype": dtype,
        }
        torch_llm_args()(**named, **kwargs)
        policy = (kwargs.get("scheduler_config") or {}).get("capacity_scheduler_policy")
        v2 = (kwargs.get("kv_cache_config") or {}).get("use_kv_cache_manager_v2") is not False
        if v2 and policy not in (None, "MAX_UTILIZATION"):
            logging.getLogger(__name__).warning(
                "KVCacheV2Scheduler only supports MAX_UTILIZATION for now, got %s", policy
            )
        self.args: dict[str, Any] = named | kwargs
        for key, value in (self.args.get("env_overrides") or {}).items():
            os.environ[key] = str(value)
        fault = os.environ.get("TENSORRT_LLM_DOUBLE_START_ERROR")
        if fault:
            raise RuntimeError(fault)
        self._executor: Engine | None = Engine(
            max_batch_size=self.args.get("max_batch_size") or 2048,
            max_seq_len=self.args.get("max_seq_len") or 131_072,
            reports=bool(self.args.get("enable_iter_perf_stats")),
            cache=kv_cache.of(self.args),
        )

    def generate_async(
        self,
        inputs: list[int],
        sampling_params: SamplingParams | None = None,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        streaming: bool = False,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
        trace_headers: Any = None,
        _postproc_params: Any = None,
        scheduling_params: Any = None,
        conversation_params: Any = None,
        cache_salt: str | None = None,
        priority: float = 0.5,
    ) -> GenerationResult:
        if self._executor is None or self._executor.doing_shutdown:
            raise RuntimeError("LLM is shutting down")
        parameters = SamplingParams() if sampling_params is None else sampling_params
        if not isinstance(parameters, SamplingParams):
            raise TypeError("The sampling_params must be type SamplingParams or None")
        if parameters.end_id is None and self.args["skip_tokenizer_init"]:
            raise ValueError("tokenizer is required to reset end_id if it is None")
        if not streaming:
            raise NotImplementedError("the double only streams")
        if not 0.0 <= priority <= 1.0:
            raise ValueError(f"priority must be a float in [0.0, 1.0], got {priority}")
        most = self.args.get("max_num_tokens") or 8192
        if not self.args.get("enable_chunked_prefill") and len(inputs) > most:
            # As in 1.3.0rc28, which counts the prompt alone; the words are not theirs.
            raise RequestError(f"The prompt has {len(inputs)} tokens, max_num_tokens is {most}")
        return self._executor.submit(inputs, parameters, cache_salt, priority)

    def get_stats_async(self, timeout: float | None = 2) -> IterationResult:
        if self._executor is None:
            raise RuntimeError("LLM is shutting down")
        return self._executor.stats(timeout)

    def get_kv_cache_capacity(self) -> dict[str, int]:
        if self._executor is None or os.environ.get("TENSORRT_LLM_DOUBLE_CAPACITY") == "none":
            return {}
        blocks = self._executor.cache.blocks
        return {
            "maxNumBlocks": blocks,
            "tokensPerBlock": BLOCK_TOKENS,
            "maxNumTokens": blocks * BLOCK_TOKENS,
        }

    def shutdown(self) -> None:
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    def _check_health(self) -> bool:
        return self._executor is not None and self._executor.check_health()
