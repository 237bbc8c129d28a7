"""From a `Sampling` to TensorRT-LLM's `SamplingParams`, one to one, or a reason why it cannot be.

Fields and defaults are those of NVIDIA's reference of 1.3.0rc29; features/sampling of 1.4.0rc4
lists penalties, bias, min_p and log-probabilities of its only sampler. What they do was read in
tensorrt_llm/sampling_params.py at 138362f44f01 and executor/result.py of 1.3.0rc29:

* All of temperature, top_p and top_k None means greedy, so each is always given.
* `stop_token_ids` end a sequence, and are cut from its output unless `include_stop_str_in_output`.
* With `end_id` None a tokenizer is asked for it, and the stop tokens of generation_config.json are
  added. -1 is none; it is what TensorRT-LLM itself uses for `ignore_eos`.
* `min_tokens` keeps back `end_id` alone, never `stop_token_ids`.
* `embedding_bias` goes to a C++ constructor as it is, which takes a torch.Tensor and no array
  (executor/base_worker.py at 000bd1a6c323).
* `logprobs` K gives the K likeliest and the sampled token, before temperature (`RAW`).
* Penalties work in the default sampler since pull request 16485 (July 2026). With one-model
  speculation they need `enable_penalty` (pull request 17701), and `min_p` is refused by
  SpecSampler.validate_request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.boundary.sampling import Sampling
from serving.engines.trtllm import tags
from serving.engines.trtllm.library import Library

PAD_ID = 199_999
"""<|endoftext|>: `pad_token_id` of GPT-OSS's config.json."""

MAX_LOGPROBS = 100
"""MAX_TOP_LOGPROBS."""

_NO_END = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What this engine's arguments leave possible."""

    vocab_size: int
    guided: bool
    """xgrammar is on, and has a tokenizer."""
    speculative: bool = False
    speculative_penalties: bool = False

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What `Ready` tells the API process."""
        possible = {
            "logprobs": not self.speculative,
            "logit_bias": not self.speculative,
            "penalties": not self.speculative or self.speculative_penalties,
            "min_p": not self.speculative,
            "grammar": self.guided,
        }
        return tuple(name for name, holds in possible.items() if holds)


def rules(arguments: Mapping[str, Any], *, vocab_size: int, tokenizer: bool) -> Rules:
    """Returns the rules for LLM arguments."""
    speculation = arguments.get("speculative_config") or {}
    return Rules(
        vocab_size=vocab_size,
        guided=tokenizer and arguments.get("guided_decoding_backend") == "xgrammar",
        speculative=bool(speculation),
        speculative_penalties=bool(speculation.get("enable_penalty")),
    )


def refusal(sampling: Sampling, rules: Rules) -> str:
    """Returns why a request cannot be sampled so by this engine, "" when it can."""
    if sampling.max_tokens < 1:
        return "max_tokens must be at least 1."
    if sampling.logprobs is not None and not 0 <= sampling.logprobs <= MAX_LOGPROBS:
        return f"logprobs must be from 0 to {MAX_LOGPROBS}."
    if any(not 0 <= token < rules.vocab_size for token in sampling.logit_bias):
        return f"logit_bias has a token outside the vocabulary of {rules.vocab_size}."
    if sampling.min_tokens > 0 and not sampling.ignore_eos and len(sampling.stop_token_ids) > 1:
        return (
            "min_tokens cannot be combined with several stop tokens: this engine keeps back only "
            "one of them."
        )
    if sampling.grammar is not None and not rules.guided:
        return "This engine was built without guided decoding."
    return _speculative_refusal(sampling, rules) if rules.speculative else ""


def _speculative_refusal(sampling: Sampling, rules: Rules) -> str:
    asked = [
        name
        for name, used in (
            ("min_p", sampling.min_p > 0),
            ("logit_bias", bool(sampling.logit_bias)),
            ("logprobs", sampling.logprobs is not None),
            ("a penalty", _penalised(sampling) and not rules.speculative_penalties),
        )
        if used
    ]
    if not asked:
        return ""
    return (
        f"{' and '.join(asked)} cannot be combined with speculative decoding, which this engine "
        "uses."
    )


def _penalised(sampling: Sampling) -> bool:
    return (
        sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
    )


def compose(sampling: Sampling, library: Library, rules: Rules) -> Any:
    """Returns the `SamplingParams` of a sampling that `refusal` lets pass.

    Raises ValueError when TensorRT-LLM does not take it.
    """
    stops = [] if sampling.ignore_eos else list(sampling.stop_token_ids)
    guarded = sampling.min_tokens > 0 and bool(stops)
    return library.sampling_params(
        max_tokens=sampling.max_tokens,
        end_id=stops[0] if guarded else _NO_END,
        pad_id=PAD_ID,
        stop_token_ids=stops or None,
        include_stop_str_in_output=True,
        ignore_eos=sampling.ignore_eos,
        min_tokens=sampling.min_tokens or None,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p or None,
        seed=None if sampling.seed is None else sampling.seed % 2**64,
        # None leaves a penalty out, and with it the work of counting tokens.
        repetition_penalty=_unless(sampling.repetition_penalty, 1.0),
        presence_penalty=_unless(sampling.presence_penalty, 0.0),
        frequency_penalty=_unless(sampling.frequency_penalty, 0.0),
        embedding_bias=_bias(sampling.logit_bias, rules.vocab_size, library),
        logprobs=sampling.logprobs,
        guided_decoding=_guide(sampling.grammar, library),
        detokenize=False,
        add_special_tokens=False,
    )


def _unless(value: float, neutral: float) -> float | None:
    return None if value == neutral else value


def _bias(logit_bias: Mapping[int, float], vocab_size: int, library: Library) -> Any:
    """Returns the bias of every token, a float32 torch.Tensor [vocab_size]; None for none."""
    if not logit_bias:
        return None
    bias = np.zeros(vocab_size, dtype=np.float32)
    bias[list(logit_bias)] = list(logit_bias.values())
    return library.tensor(bias)


def _guide(grammar: str | None, library: Library) -> Any:
    if grammar is None:
        return None
    return library.guided_decoding_params(
        structural_tag=tags.translate(grammar, library.schema_grammar)
    )
