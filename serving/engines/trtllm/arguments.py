"""From an engine's manifest to the arguments of `tensorrt_llm.LLM`.

The build has written them (`arguments` of engine.json, in TensorRT-LLM's own names); here they get
what is known only on this machine, and are checked against the rest of the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.boundary.engine import CHECKPOINT_DIRECTORY, MANIFEST_NAME, Engine, EngineError
from serving.engines.trtllm import host_memory
from serving.engines.trtllm.host_memory import HostMemory

TOKENIZER_NAME = "tokenizer.json"
"""In the checkpoint. Tokens go in and come out; only guided decoding needs a tokenizer."""

_CODE = "it names code to import, and an engine holds none"

_UNFIT = {
    "num_postprocess_workers": "tokens are decoded by the API process",
    "batched_logits_processor": _CODE,
    "checkpoint_loader": _CODE,
    "custom_tokenizer": _CODE,
    "kv_connector_config": _CODE,
    "post_processor_hook": _CODE,
    "ray_worker_extension_cls": _CODE,
    "trust_remote_code": _CODE,
    "encode_only": "this service generates",
    "mm_encoder_only": "this service generates",
    "mpi_session": "it is an object of a running process",
}
"""Arguments that may only have their default, which is false, zero or none, and why."""


def compose(
    manifest: Engine, directory: Path, environment: Mapping[str, str], memory: HostMemory
) -> dict[str, Any]:
    """Returns the keyword arguments. `environment` goes to the workers, `memory` is the machine's.

    Raises EngineError that names the argument of engine.json and the field it contradicts.
    """
    _check(manifest)
    checkpoint = directory / CHECKPOINT_DIRECTORY
    arguments = dict(manifest.arguments)
    arguments["model"] = str(checkpoint)
    arguments["skip_tokenizer_init"] = not has_tokenizer(directory)
    arguments["env_overrides"] = dict(environment) | dict(arguments.get("env_overrides") or {})
    cache = arguments.get("kv_cache_config") or {}
    if cache.get("host_cache_size"):
        ranks = manifest.mesh.tensor_parallel
        size = host_memory.fit(cache["host_cache_size"], ranks, memory)
        arguments["kv_cache_config"] = cache | {"host_cache_size": size}
    return arguments


def has_tokenizer(directory: Path) -> bool:
    """Tells whether the checkpoint brings a tokenizer that TensorRT-LLM can load."""
    return (directory / CHECKPOINT_DIRECTORY / TOKENIZER_NAME).is_file()


def _check(manifest: Engine) -> None:
    expected = {
        "tensor_parallel_size": ("mesh.tensor_parallel", manifest.mesh.tensor_parallel),
        "moe_expert_parallel_size": ("mesh.expert_parallel", manifest.mesh.expert_parallel),
        "max_batch_size": ("limits.max_batch_size", manifest.limits.max_batch_size),
        "max_num_tokens": ("limits.max_num_tokens", manifest.limits.max_num_tokens),
        "max_seq_len": ("limits.max_seq_len", manifest.limits.max_seq_len),
    }
    for name, (field, value) in expected.items():
        found = manifest.arguments.get(name)
        if found != value:
            raise EngineError(
                f"{MANIFEST_NAME}: arguments.{name} is {found!r}, but {field} is {value}; build "
                "the engine again"
            )
    for name, reason in _UNFIT.items():
        if manifest.arguments.get(name):
            raise EngineError(f"{MANIFEST_NAME}: arguments.{name} cannot be set: {reason}")
    if manifest.arguments.get("orchestrator_type") == "ray":
        raise EngineError(
            f"{MANIFEST_NAME}: arguments.orchestrator_type cannot be ray: it opens ports of its own"
        )
    if (manifest.arguments.get("max_beam_width") or 1) > 1:
        raise EngineError(
            f"{MANIFEST_NAME}: arguments.max_beam_width must be 1: beams do not stream"
        )
