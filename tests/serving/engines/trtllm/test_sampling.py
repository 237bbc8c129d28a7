from __future__ import annotations

import pytest
import torch

from serving.boundary.sampling import Sampling
from serving.engines.trtllm import sampling, tags
from serving.engines.trtllm.library import Library
from serving.engines.trtllm.sampling import Rules
from serving.grammar.constraint import Constraint
from serving.grammar.structural_tag import ANY_OBJECT, structural_tag

RULES = Rules(vocab_size=1000, guided=True)
TAG = structural_tag(Constraint(schema=ANY_OBJECT)) or ""


def test_every_parameter_is_mapped(library: Library) -> None:
    composed = sampling.compose(
        Sampling(
            max_tokens=99,
            temperature=0.7,
            top_p=0.9,
            top_k=40,
            min_p=0.05,
            seed=-1,
            repetition_penalty=1.1,
            presence_penalty=0.2,
            frequency_penalty=0.3,
            logit_bias={3: -100.0, 999: 5.0},
            logprobs=4,
            stop_token_ids=(7, 8),
            grammar=TAG,
        ),
        library,
        RULES,
    )
    assert composed.max_tokens == 99
    assert (composed.temperature, composed.top_p, composed.top_k) == (0.7, 0.9, 40)
    assert composed.min_p == 0.05
    assert composed.seed == 2**64 - 1  # TensorRT-LLM's seed is unsigned.
    assert composed.repetition_penalty == 1.1
    assert (composed.presence_penalty, composed.frequency_penalty) == (0.2, 0.3)
    assert composed.embedding_bias.dtype == torch.float32
    assert composed.embedding_bias.shape == (1000,)
    assert composed.embedding_bias[3] == -100.0
    assert composed.embedding_bias[999] == 5.0
    assert composed.embedding_bias.count_nonzero() == 2
    assert composed.logprobs == 4
    assert composed.stop_token_ids == [7, 8]
    assert composed.guided_decoding.structural_tag == tags.translate(TAG, library.schema_grammar)
    assert composed.detokenize is False


def test_the_stop_token_stays_in_the_output_and_no_tokenizer_is_asked(library: Library) -> None:
    composed = sampling.compose(Sampling(max_tokens=1, stop_token_ids=(7,)), library, RULES)
    assert composed.include_stop_str_in_output is True
    assert composed.end_id == -1
    assert composed.pad_id == 199_999


def test_neutral_values_leave_their_work_out(library: Library) -> None:
    composed = sampling.compose(Sampling(max_tokens=1), library, RULES)
    for name in ("min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"):
        assert getattr(composed, name) is None, name
    assert composed.embedding_bias is None
    assert composed.guided_decoding is None
    # All three None would mean greedy, not the model's own distribution.
    assert (composed.temperature, composed.top_p, composed.top_k) == (1.0, 1.0, 0)


def test_min_tokens_holds_back_the_one_stop_token(library: Library) -> None:
    asked = Sampling(max_tokens=9, min_tokens=3, stop_token_ids=(7,))
    assert sampling.refusal(asked, RULES) == ""
    composed = sampling.compose(asked, library, RULES)
    assert (composed.min_tokens, composed.end_id) == (3, 7)


def test_a_grammar_needs_guided_decoding() -> None:
    asked = Sampling(max_tokens=1, grammar="{}")
    refusal = sampling.refusal(asked, Rules(vocab_size=10, guided=False))
    assert refusal == "This engine was built without guided decoding."


def test_the_double_refuses_what_the_real_one_refuses(library: Library) -> None:
    with pytest.raises(ValueError, match="require temperature >= 0"):
        sampling.compose(Sampling(max_tokens=1, temperature=-1.0), library, RULES)
    with pytest.raises(ValueError, match="require temperature >= 0"):
        sampling.compose(Sampling(max_tokens=1, temperature=float("nan")), library, RULES)
