"""The grammars of constrained sequences: compiled beside the engine loop, followed within it."""

from __future__ import annotations

import hashlib
import lzma
from collections import OrderedDict
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from serving.grammar.core import Compiled, Compiler, GrammarError, Mask, Matcher
from serving.grammar.ranks import read_pieces

MOST_KEPT = 64
"""Compiled grammars that are kept for the next request with the same one."""
MOST_KEPT_BYTES = 256 << 20


class Grammars:
    """Compiles on a thread of its own, which the compiler leaves the interpreter to; a sequence
    joins the batch once its grammar is there. All methods are for the thread of the loop."""

    def __init__(self, ranks: Path, vocab_size: int) -> None:
        self._workshop = _Workshop(ranks, vocab_size)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._compiling: dict[int, Future[Compiled]] = {}
        self._matchers: dict[int, Matcher] = {}

    @property
    def compiling(self) -> int:
        """How many sequences wait for their grammar."""
        return len(self._compiling)

    def begin(self, sequence_id: int, grammar: str) -> None:
        """Starts to compile the grammar of a sequence."""
        self._compiling[sequence_id] = self._thread.submit(self._workshop.compiled, grammar)

    def compiled(self, wait_seconds: float) -> list[tuple[int, str]]:
        """Returns (sequence, why it failed or "") of those done; waits for one at most so long."""
        if wait_seconds > 0:
            wait(self._compiling.values(), wait_seconds, FIRST_COMPLETED)
        done = [item for item in self._compiling.items() if item[1].done()]
        return [(sequence_id, self._take(sequence_id, future)) for sequence_id, future in done]

    def allowed(self, sequence_id: int) -> Mask:
        """Returns the mask of the sequence's next token; the next call for it changes it in place.

        Raises GrammarError.
        """
        return self._matchers[sequence_id].allowed()

    def follows(self, sequence_id: int) -> bool:
        """Returns whether the sequence is constrained."""
        return sequence_id in self._matchers

    def advance(self, sequence_id: int, token: int) -> bool:
        """Moves a sequence on; False when the token does not fit its grammar."""
        return self._matchers[sequence_id].accept(token)

    def forget(self, sequence_id: int) -> bool:
        """Forgets a sequence; True when its grammar had not been compiled. Any id will do."""
        self._matchers.pop(sequence_id, None)
        future = self._compiling.pop(sequence_id, None)
        if future is not None:
            future.cancel()
        return future is not None

    def close(self) -> None:
        """Ends the thread when it is done with what it compiles now."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _take(self, sequence_id: int, future: Future[Compiled]) -> str:
        del self._compiling[sequence_id]
        try:
            self._matchers[sequence_id] = future.result().matcher()
        except GrammarError as error:
            return str(error)
        return ""


class _Workshop:
    """The compiler and what it has made. For one thread."""

    def __init__(self, ranks: Path, vocab_size: int) -> None:
        self._ranks = ranks
        self._vocab_size = vocab_size
        self._compiler: Compiler | None = None
        self._made: OrderedDict[bytes, Compiled] = OrderedDict()

    def compiled(self, grammar: str) -> Compiled:
        """Returns a grammar, compiled. Raises GrammarError."""
        key = hashlib.sha256(grammar.encode()).digest()
        made = self._made.pop(key, None) or self._make().compile(grammar)
        self._made[key] = made
        self._trim()
        return made

    def _make(self) -> Compiler:
        """Returns the compiler; the first grammar pays for it, some half a second."""
        if self._compiler is None:
            try:
                pieces = read_pieces(self._ranks)
            except (OSError, lzma.LZMAError, ValueError) as error:
                raise GrammarError("the vocabulary cannot be read") from error
            self._compiler = Compiler(pieces, self._vocab_size)
        return self._compiler

    def _trim(self) -> None:
        size_bytes = sum(made.size_bytes for made in self._made.values())
        while len(self._made) > 1 and (len(self._made) > MOST_KEPT or size_bytes > MOST_KEPT_BYTES):
            _, oldest = self._made.popitem(last=False)
            size_bytes -= oldest.size_bytes
