"""Texts to the token ids of an encoder."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from serving.boundary.encoder.description import EncoderError
from serving.boundary.encoder.messages import Input


class TextTokenizer:
    """The tokenizer of an encoder. `tokenizers` does the work, and lets other threads run.

    Names of control tokens in a text, such as `[SEP]`, are text.
    """

    def __init__(self, path: Path) -> None:
        """Reads `tokenizer.json`. Raises EncoderError."""
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no narrower one
            raise EncoderError(f"{path}: {error}") from None
        # The file may hold what suited its author; what is too long here is refused, not cut.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        around = self._tokenizer.encode("").ids
        if len(around) != 2:
            raise EncoderError(f"{path}: a text must stand between two control tokens")
        self._before, self._after = around

    def encode(self, inputs: list[Input]) -> list[list[int]]:
        """Returns the ids of each input, the control tokens around them.

        An input that is token ids already has the same ones put around it.
        """
        texts = [item for item in inputs if isinstance(item, str)]
        encoded = iter(self._tokenizer.encode_batch_fast(texts))
        return [
            next(encoded).ids if isinstance(item, str) else [self._before, *item, self._after]
            for item in inputs
        ]

    def cut(self, tokens: list[int], most: int) -> list[int]:
        """Returns `most` of the ids of an input, its last control token among them."""
        return tokens if len(tokens) <= most else [*tokens[: most - 1], self._after]
