"""The o200k_harmony vocabulary: text <-> token ids, and the control tokens of Harmony.

Ids 0..199997 are byte strings, ranked; 199998..201087 are control tokens, which no text encodes to.
The ranks come from a file in tiktoken's format (a line a token: base64 of its bytes, rank),
compressed with xz.
"""

from __future__ import annotations

import binascii
import hashlib
import lzma
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import tiktoken

from serving.harmony.memo import Memo

RANKS_SHA256: Final = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
SIZE: Final = 201_088
ORDINARY_TOKENS: Final = 199_998
"""Ids below this are text; ids from here up to SIZE are control tokens."""

START_OF_TEXT: Final = 199_998
END_OF_TEXT: Final = 199_999
RETURN: Final = 200_002
CONSTRAIN: Final = 200_003
CHANNEL: Final = 200_005
START: Final = 200_006
END: Final = 200_007
MESSAGE: Final = 200_008
CALL: Final = 200_012
END_OF_PROMPT: Final = 200_018

STOP_TOKENS: Final = (RETURN, CALL, END_OF_TEXT)
"""The tokens that end a turn of the model. `<|end|>` is not one: it only ends a message."""

CONTROL_NAMES: Final = {
    START_OF_TEXT: "<|startoftext|>",
    END_OF_TEXT: "<|endoftext|>",
    RETURN: "<|return|>",
    CONSTRAIN: "<|constrain|>",
    CHANNEL: "<|channel|>",
    START: "<|start|>",
    END: "<|end|>",
    MESSAGE: "<|message|>",
    CALL: "<|call|>",
    END_OF_PROMPT: "<|endofprompt|>",
}

# How o200k cuts text into pieces before it merges bytes (tiktoken, `o200k_base`): words that end in
# lower case, words that begin in upper case, digits, punctuation, line ends; then white space, all
# but the last character of it where a word follows. The group leaves the meaning as it is: within
# it nothing looks ahead, so the engine matches it as one expression, a fifth faster.
_CONTRACTION: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_VISIBLE: Final = "|".join(
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
    )
)
_PIECES: Final = rf"(?:{_VISIBLE})|\s+(?!\S)|\s+"

_BLANK_RUN: Final = re.compile(r"\s+")
_MAX_BLANK_RUN: Final = 500_000
"""Characters of white space that the encoder is given at once. It overflows its own stack, and
panics, at a million."""


class VocabularyError(Exception):
    """A ranks file that is missing or is not o200k_base. The message names the file."""


class Vocabulary:
    """Text to token ids and back. Make one with `Vocabulary.load`; it may be shared by threads."""

    size: Final = SIZE

    def __init__(self, ranks: dict[bytes, int], memo_bytes: int) -> None:
        """Takes over `ranks` (bytes -> id, in the order of ids) and empties it.

        `memo_bytes` bounds what `encode` remembers of texts that it has seen.
        """
        # No special tokens are given to the encoder, so that none can come out of it.
        self._encoding = tiktoken.Encoding(
            "o200k_harmony", pat_str=_PIECES, mergeable_ranks=ranks, special_tokens={}
        )
        self.texts: list[str | None] = [_whole_text(piece) for piece in ranks]
        """id -> its text, or None for a control token and for bytes that are no whole UTF-8."""
        self.texts.extend([None] * (SIZE - len(ranks)))
        # The encoder has its own copy; the wrapper would keep 25 MB of ours alive.
        ranks.clear()
        self._memo = Memo(memo_bytes)
        self._phrases: dict[str, tuple[int, ...]] = {}

    @classmethod
    def load(cls, path: Path, *, memo_bytes: int = 32 << 20) -> Vocabulary:
        """Returns the vocabulary whose ranks are in the xz file `path`.

        Raises VocabularyError for a file that is missing, damaged, or not o200k_base.
        """
        return cls(_read_ranks(path), memo_bytes)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of `text`, all below ORDINARY_TOKENS: `<|end|>` in a text is text.

        A lone surrogate becomes U+FFFD. The ids of long texts are remembered, so that the turns of
        a conversation that comes back are not encoded again. White space longer than half a
        million characters is encoded in parts.
        """
        ids = self._memo.get(text)
        if ids is None:
            if len(text) <= _MAX_BLANK_RUN:
                ids = self._encoding.encode_ordinary(text)
            else:
                ids = [i for part in _cut(text) for i in self._encoding.encode_ordinary(part)]
            self._memo.put(text, ids)
        return ids

    def phrase(self, text: str) -> tuple[int, ...]:
        """Returns `encode(text)`, kept for ever: for the fixed words of the format alone."""
        ids = self._phrases.get(text)
        if ids is None:
            ids = self._phrases[text] = tuple(self._encoding.encode_ordinary(text))
        return ids

    def token_bytes(self, token: int) -> bytes:
        """Returns the bytes of a token; of a control token, its name, as in `<|start|>`.

        Raises ValueError for an id outside of the vocabulary.
        """
        if 0 <= token < ORDINARY_TOKENS:
            return self._encoding.decode_single_token_bytes(token)
        if ORDINARY_TOKENS <= token < SIZE:
            return CONTROL_NAMES.get(token, f"<|reserved_{token}|>").encode()
        raise ValueError(f"token {token} is not in the vocabulary of {SIZE}")

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of `tokens`: control tokens by name, bytes that are no UTF-8 as U+FFFD.

        Raises ValueError for an id outside of the vocabulary.
        """
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", "replace")


def _cut(text: str) -> Iterator[str]:
    """Yields the parts of `text`, none with more than _MAX_BLANK_RUN of white space in a row."""
    done = 0
    for run in _BLANK_RUN.finditer(text):
        while run.end() - max(run.start(), done) > _MAX_BLANK_RUN:
            cut = max(run.start(), done) + _MAX_BLANK_RUN
            yield text[done:cut]
            done = cut
    yield text[done:]


def _read_ranks(path: Path) -> dict[bytes, int]:
    """Returns bytes -> id, in the order of ids."""
    try:
        with lzma.open(path) as file:
            raw = file.read()
    except FileNotFoundError:
        raise VocabularyError(f"{path}: the vocabulary's ranks are missing") from None
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise VocabularyError(f"{path}: cannot be read: {error}") from None
    found = hashlib.sha256(raw).hexdigest()
    if found != RANKS_SHA256:
        raise VocabularyError(
            f"{path}: sha256 of the decompressed ranks is {found}, o200k_base has {RANKS_SHA256}"
        )
    # The checksum guarantees the form: pairs of base64 and rank, ranks from 0 without a gap.
    return _number(map(binascii.a2b_base64, raw.split()[::2]))


def _number(pieces: Iterable[bytes]) -> dict[bytes, int]:
    return {piece: rank for rank, piece in enumerate(pieces)}


def _whole_text(piece: bytes) -> str | None:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return None
