"""The bytes of the ordinary tokens, for the engine process and the grammar process.

Neither encodes text, so neither needs the encoder of `serving.harmony.vocabulary`.
"""

from __future__ import annotations

import binascii
import lzma
from pathlib import Path


def read_pieces(path: Path) -> list[bytes]:
    """Returns the bytes of token 0, 1, 2 and so on from a ranks file in tiktoken's format, as xz.

    The engine directory's own check has seen the file's hash. Raises OSError, lzma.LZMAError.
    """
    with lzma.open(path) as file:
        return [binascii.a2b_base64(piece) for piece in file.read().split()[::2]]
