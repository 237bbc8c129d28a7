"""xgrammar's compiler and matcher, without its Python package.

The package imports torch, transformers and triton, none of which its C++ core needs; the core is
reached through tvm-ffi, by the names under which it registers its classes. Written for xgrammar
0.2.8 (`python/xgrammar/tvm_ffi_binding`); masks are laid out as xgrammar documents them: token t is
bit t % 32 of word t // 32.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.grammar import library as installed

STOP_TOKENS = (200_002, 200_012, 199_999)
"""What may follow once a grammar is complete: `<|return|>`, `<|call|>`, `<|endoftext|>`."""

Mask = NDArray[np.int32]

_NAMESPACE = "xgrammar.tvm_ffi_binding."
_RAW_BYTES = 0
"""xgrammar's VocabType.RAW: a token is its bytes."""
_UNLIMITED = -1
_PLACE = re.compile(r"^\[[\d:]+\] \S+: (?:Check failed: [^:]*: )?")


class GrammarError(Exception):
    """A grammar that cannot be compiled or does not fit; the message is public."""


class Compiler:
    """Compiles structural tags for one vocabulary. Calls leave the interpreter to other threads."""

    def __init__(self, pieces: Sequence[bytes], vocab_size: int) -> None:
        """Takes the bytes of each ordinary token; what follows up to `vocab_size` is control.

        Raises GrammarError without a core that this module knows.
        """
        library = installed.find()
        if library is None:
            raise GrammarError("xgrammar is not installed")
        self._classes = _Classes(library)
        # Control tokens take part by their ids alone: no text, and no JSON string, can hold the
        # byte 255, so none of them is ever allowed as text.
        control = [b"\xff%d" % token for token in range(len(pieces), vocab_size)]
        stops = [token for token in STOP_TOKENS if token < vocab_size]
        vocabulary = [*pieces[:vocab_size], *control]
        info = self._classes.of("TokenizerInfo")(vocabulary, _RAW_BYTES, vocab_size, stops, False)
        self._compiler = self._classes.of("GrammarCompiler")(info, 1, False, _UNLIMITED)
        self._words = -(-vocab_size // 32)

    def compile(self, grammar: str) -> Compiled:
        """Returns a structural tag, compiled. Raises GrammarError with the reason."""
        try:
            made = self._compiler.compile_structural_tag(grammar)
        except (RuntimeError, ValueError, TypeError) as error:
            raise GrammarError(_reason(error)) from None
        return Compiled(made, self._classes, self._words)


class Compiled:
    """A compiled grammar; any number of sequences may follow it, each with its own matcher."""

    def __init__(self, made: Any, classes: _Classes, words: int) -> None:
        self._made = made
        self._classes = classes
        self._words = words

    @property
    def size_bytes(self) -> int:
        """Its memory, about."""
        return int(self._made.memory_size_bytes())

    def matcher(self) -> Matcher:
        """Returns a matcher at the start."""
        matcher = self._classes.of("GrammarMatcher")(self._made, None, False, _UNLIMITED, None)
        return Matcher(matcher, np.empty((1, self._words), dtype=np.int32))


class Matcher:
    """Follows one sequence. Its state depends on the accepted tokens alone."""

    def __init__(self, matcher: Any, mask: Mask) -> None:
        self._matcher = matcher
        self._rows = mask
        self._mask: Mask = mask[0]

    def allowed(self) -> Mask:
        """Returns the mask of the tokens that may come next, in memory that the next call reuses.

        Only stop tokens are allowed at the end of the grammar. Raises GrammarError after one.
        """
        try:
            self._matcher.fill_next_token_bitmask(self._rows, 0, False)
        except RuntimeError as error:
            raise GrammarError(_reason(error)) from None
        return self._mask

    def accept(self, token: int) -> bool:
        """Moves on by a token; False, and unmoved, when the grammar does not allow it."""
        return bool(self._matcher.accept_token(token, False))


class _Classes:
    """The classes that the core has registered, made callable once."""

    def __init__(self, library: Path) -> None:
        installed.prefer(sys.path)
        import tvm_ffi

        self._register = tvm_ffi.register_object
        self._object: type[Any] = tvm_ffi.Object
        self._known: dict[str, Any] = {}
        try:
            self._module = tvm_ffi.load_module(str(library))
            for name in ("TokenizerInfo", "GrammarCompiler", "CompiledGrammar", "GrammarMatcher"):
                self._known[name] = self._register(_NAMESPACE + name)(
                    type(name, (self._object,), {})
                )
        except (RuntimeError, ValueError, OSError) as error:
            raise GrammarError(f"xgrammar's core cannot be used: {error}") from error

    def of(self, name: str) -> Any:
        return self._known[name]


def _reason(error: Exception) -> str:
    """Returns the first line of the core's message without the place in its source."""
    first = str(error).strip().split("\n", 1)[0]
    return _PLACE.sub("", first)[:300].rstrip(".")
