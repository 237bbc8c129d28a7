"""Token ids of texts: those of transformers' tokenizer, and no control token by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from serving.boundary.encoder.description import TOKENIZER, EncoderDescription, EncoderError
from serving.engines.encoder.tokens import TextTokenizer

CLS, SEP = 101, 102
TEXTS = [
    "Hello, world!",
    "Grüße aus Köln 🦩 naïve café",
    "中文和日本語 mixed",
    "x" * 300,
    "\x00\ufffd\u200b tabs\tand\nlines",
    " ",
    "word " * 500,
]


@pytest.fixture(scope="module")
def tokenizer(minilm: EncoderDescription) -> TextTokenizer:
    return TextTokenizer(minilm.directory / TOKENIZER)


def test_the_ids_are_those_of_transformers(
    tokenizer: TextTokenizer, minilm: EncoderDescription
) -> None:
    reference = AutoTokenizer.from_pretrained(minilm.directory)
    reference.model_max_length = 10_000
    assert tokenizer.encode(list(TEXTS)) == reference(TEXTS, truncation=False)["input_ids"]


def test_names_of_control_tokens_are_text(tokenizer: TextTokenizer) -> None:
    (ids,) = tokenizer.encode(["a [SEP] b [CLS] [MASK]"])
    assert (ids[0], ids[-1]) == (CLS, SEP)
    assert not {CLS, SEP, 103} & set(ids[1:-1])


def test_token_ids_are_the_text_s(tokenizer: TextTokenizer) -> None:
    (ids,) = tokenizer.encode(["Hello, world!"])
    assert tokenizer.encode([ids[1:-1]]) == [ids]


def test_what_is_cut_keeps_its_end(tokenizer: TextTokenizer) -> None:
    assert tokenizer.cut([CLS, 5, 6, 7, SEP], 4) == [CLS, 5, 6, SEP]
    assert tokenizer.cut([CLS, 5, SEP], 3) == [CLS, 5, SEP]


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    path = tmp_path / TOKENIZER
    path.write_text("{}")
    with pytest.raises(EncoderError, match=TOKENIZER):
        TextTokenizer(path)
