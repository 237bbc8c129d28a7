"""What may happen to a request, and TensorRT-LLM's words for it."""

from __future__ import annotations

FAULTS = {
    "request": 150_001,
    "exhausted": 150_002,
    "nccl": 150_003,
    "worker_killed": 150_004,
    "fatal": 150_005,
    "hang_detected": 150_006,
    "blocks_the_loop": 150_007,
    "died_of_memory": 150_008,
    "no_finish": 150_009,
    "logprobs_missing": 150_010,
    "refused": 150_011,
    "guided": 150_012,
    "guided_internally": 150_013,
    "guided_by_words": 150_014,
    "refused_by_words": 150_015,
}
"""The second token of a prompt: the fault that happens when the request has two tokens."""

TEXTS = {
    "request": "Failed to process the request",
    "exhausted": "CUDA out of memory. Tried to allocate 40.00 MiB. GPU 0 has a total capacity of "
    "79.10 GiB of which 20.62 MiB is free.",
    "nccl": "[TensorRT-LLM][ERROR] Assertion failed: Failed, NCCL error "
    "../tensorrt_llm/runtime/ncclCommunicator.cpp:90 'unhandled cuda error'",
    "worker_killed": "MPI worker rank 1 (pid 4242) exited unexpectedly",
    "fatal": "CUDA error: an illegal memory access was encountered",
    "hang_detected": "Hang detected on rank 1 in PyExecutor.",
    "died_of_memory": "CUDA out of memory. Tried to allocate 2.00 GiB.",
    "guided": "Guided decoding error: the grammar of request 7 has no valid next token.",
    "guided_internally": "Guided decoding error: internal error in build: slot 3 is gone",
    # A client's schema, quoted.
    "guided_by_words": "Guided decoding error: unknown keyword 'NCCL error: CUDA out of memory'",
}
