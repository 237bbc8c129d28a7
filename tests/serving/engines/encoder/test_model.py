"""The forward pass beside transformers' BERT: the packaged encoder, and small random ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertConfig, BertModel

from serving.boundary.encoder.description import (
    TOKENIZER,
    Architecture,
    EncoderDescription,
    EncoderError,
    Pooling,
)
from serving.engines.encoder.model import SentenceEncoder, shorten
from serving.engines.encoder.tokens import TextTokenizer

TEXTS = [
    "A man is eating food.",
    "The man eats.",
    "Grüße 🦩",
    "x",
    "A longer passage about the history of clocks, in several clauses, of no consequence. " * 9,
]


@torch.inference_mode()
def reference(model: Any, ids: list[int], pooling: Pooling) -> Tensor:
    """Returns transformers' vector of one text alone, in float32."""
    hidden: Tensor = model(torch.tensor([ids])).last_hidden_state[0]
    return F.normalize(hidden[0] if pooling == "cls" else hidden.mean(dim=0), dim=0)


@pytest.fixture(scope="module")
def ids(minilm: EncoderDescription) -> list[list[int]]:
    return TextTokenizer(minilm.directory / TOKENIZER).encode(list(TEXTS))


@pytest.fixture(scope="module")
def expected(minilm: EncoderDescription, ids: list[list[int]]) -> Tensor:
    """transformers' vectors of the texts."""
    model: Any = BertModel.from_pretrained(minilm.directory, add_pooling_layer=False)
    model.eval()
    return torch.stack([reference(model, tokens, "mean") for tokens in ids])


@pytest.mark.parametrize(
    ("dtype", "least"), [(torch.float32, 0.999999), (torch.bfloat16, 0.9999), (None, 0.9999)]
)
def test_vectors_are_those_of_transformers(
    minilm: EncoderDescription,
    ids: list[list[int]],
    expected: Tensor,
    dtype: torch.dtype | None,
    least: float,
) -> None:
    vectors = SentenceEncoder.load(minilm, dtype).encode(ids)
    assert vectors.shape == (len(TEXTS), minilm.dimensions)
    assert vectors.dtype == torch.float32
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(len(TEXTS)), atol=1e-5)
    assert F.cosine_similarity(vectors, expected).min() > least


def test_what_means_the_same_is_near(minilm: EncoderDescription, ids: list[list[int]]) -> None:
    eats, eating, *others = SentenceEncoder.load(minilm).encode(ids)
    assert all(eats @ eating > 0.7 > 0.3 > eats @ other for other in others)


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_pooling_by_the_first_token(tmp_path: Path, prefix: str) -> None:
    shape: Any = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "max_position_embeddings": 20,
        "type_vocab_size": 2,
        "vocab_size": 30,
    }
    torch.manual_seed(0)
    model: Any = BertModel(BertConfig(**shape, initializer_range=0.3), add_pooling_layer=False)
    model.eval()
    weights = {prefix + name: value for name, value in model.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors")
    description = EncoderDescription(
        directory=tmp_path,
        architecture=Architecture(model_type="bert", **shape),
        max_tokens=20,
        pooling="cls",
        normalizes=True,
    )
    batch = [[1, 5, 2], [1, 7, 8, 9, 20, 11, 2], list(range(20))]
    expected = torch.stack([reference(model, tokens, "cls") for tokens in batch])
    vectors = SentenceEncoder.load(description, torch.float32).encode(batch)
    assert torch.allclose(vectors, expected, atol=1e-5)


def test_a_tensor_that_is_missing_is_named(minilm: EncoderDescription) -> None:
    with pytest.raises(EncoderError, match=r"embeddings\.word_embeddings\.weight"):
        SentenceEncoder(minilm, {}, torch.float32)


def test_a_shorter_vector_has_length_one_again() -> None:
    vectors = torch.tensor([[3.0, 4.0, 12.0]])
    assert torch.allclose(shorten(vectors, 2), torch.tensor([[0.6, 0.8]]))
    assert shorten(vectors, 3) is vectors
