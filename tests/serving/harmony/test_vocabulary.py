"""The vocabulary against tiktoken's own numbers and against the library."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.harmony import vocabulary as module
from serving.harmony.vocabulary import (
    CALL,
    CONSTRAIN,
    END,
    ORDINARY_TOKENS,
    SIZE,
    START,
    Vocabulary,
    VocabularyError,
)
from tests.serving.harmony.oracle import Oracle
from tests.serving.harmony.properties import PROPERTY

TEXTS = [
    "",
    "a",
    "Hello, world!",
    "It's 12345 o'clock; we'LL see.",
    "line\r\nline\n\n\n  indented\tTABS  \n",
    "naïve café Ünïcödé Straße",
    "日本語のテキスト、中文文本。한국어",
    "مرحبا بالعالم שלום עולם नमस्ते",
    "😀👩‍👩‍👧‍👦🏳️‍🌈 e\u0301",
    "x = {'a': [1, 2.5e-3], \"b\": None}  # comment",
    "<|start|>system<|message|>no<|end|><|endoftext|>",
    "/path/to//file\n///",
    "\x00\x01\x7f\x85\u2028\ufeff\uffff",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_survives_and_encodes_as_the_library_encodes_it(
    text: str, vocabulary: Vocabulary, oracle: Oracle
) -> None:
    ids = vocabulary.encode(text)
    assert ids == oracle.encoding.encode(text, disallowed_special=())
    assert vocabulary.decode(ids) == text


@PROPERTY
@given(text=st.text(max_size=200))
def test_any_text_survives_without_a_control_token(vocabulary: Vocabulary, text: str) -> None:
    ids = vocabulary.encode(text)
    assert all(0 <= i < ORDINARY_TOKENS for i in ids)
    assert vocabulary.decode(ids) == text


def test_the_names_of_control_tokens_are_text_in_text(vocabulary: Vocabulary) -> None:
    for token in range(ORDINARY_TOKENS, SIZE):
        name = vocabulary.token_bytes(token).decode()
        assert max(vocabulary.encode(name)) < ORDINARY_TOKENS


def test_ids_and_bytes_are_those_of_o200k_harmony(vocabulary: Vocabulary) -> None:
    assert vocabulary.size == SIZE == 201_088
    assert vocabulary.encode("assistant") == [173781]
    assert vocabulary.encode("analysis") == [35644]
    assert vocabulary.token_bytes(START) == b"<|start|>"
    assert vocabulary.token_bytes(CALL) == b"<|call|>"
    assert vocabulary.token_bytes(200_013) == b"<|reserved_200013|>"
    assert vocabulary.token_bytes(0) == b"!"
    assert vocabulary.decode([START, *vocabulary.encode("x"), END]) == "<|start|>x<|end|>"


def test_control_tokens_have_the_ids_that_the_library_gives_them(oracle: Oracle) -> None:
    for token in (START, END, CALL, CONSTRAIN, module.MESSAGE, module.CHANNEL, module.RETURN):
        assert oracle.encoding.is_special_token(token)
    assert set(oracle.encoding.stop_tokens_for_assistant_actions()) < set(module.STOP_TOKENS)


def test_texts_are_the_tokens_that_are_whole_characters(vocabulary: Vocabulary) -> None:
    assert len(vocabulary.texts) == SIZE
    assert vocabulary.texts[173781] == "assistant"
    assert all(text is None for text in vocabulary.texts[ORDINARY_TOKENS:])
    partial = vocabulary.encode("🦩")
    assert len(partial) > 1
    assert vocabulary.texts[partial[0]] is None


def test_bytes_that_are_no_text_decode_to_the_replacement_character(
    vocabulary: Vocabulary,
) -> None:
    partial = vocabulary.encode("🦩")[:-1]
    assert vocabulary.decode([*partial, *vocabulary.encode("a")]) == "\ufffda"


@pytest.mark.parametrize("token", [-1, SIZE, 2**40])
def test_an_id_outside_of_the_vocabulary_is_an_error(token: int, vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match="not in the vocabulary"):
        vocabulary.token_bytes(token)


def test_a_lone_surrogate_becomes_the_replacement_character(vocabulary: Vocabulary) -> None:
    assert vocabulary.decode(vocabulary.encode("a\ud800b")) == "a\ufffdb"


def test_endless_white_space_is_encoded_in_parts(vocabulary: Vocabulary) -> None:
    text = "a" + " " * 1_100_000 + "b" + " \t" * 300_000
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_a_remembered_text_gives_equal_ids_in_a_new_list(ranks_path: Path) -> None:
    vocabulary = Vocabulary.load(ranks_path, memo_bytes=10_000)
    text = "remember me " * 20
    first = vocabulary.encode(text)
    first_copy = list(first)
    first.append(START)
    assert vocabulary.encode(text) == first_copy


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"nothing\.xz: .*missing"):
        Vocabulary.load(tmp_path / "nothing.xz")


def test_a_file_that_is_no_xz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ranks.xz"
    path.write_bytes(b"plain")
    with pytest.raises(VocabularyError, match="cannot be read"):
        Vocabulary.load(path)


def test_a_truncated_file_is_refused(tmp_path: Path, ranks_path: Path) -> None:
    path = tmp_path / "ranks.xz"
    path.write_bytes(ranks_path.read_bytes()[:-1000])
    with pytest.raises(VocabularyError, match="cannot be read"):
        Vocabulary.load(path)


def test_other_ranks_are_refused_by_their_checksum(tmp_path: Path) -> None:
    path = tmp_path / "ranks.xz"
    with lzma.open(path, "wb") as file:
        file.write(b"IQ== 0\nIg== 1\n")
    with pytest.raises(VocabularyError, match="sha256"):
        Vocabulary.load(path)
