"""The grammar process: `python -m serving.grammar.process --fd N --ranks FILE --vocab-size N`.

It compiles each grammar that comes from its socket, and answers with why it cannot be used, or an
empty string. The first message says that it is ready. A compiler that does not end is ended from
outside; its memory is bounded by the kernel.
"""

from __future__ import annotations

import argparse
import resource
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from serving.boundary.entry import enter
from serving.boundary.framing import receive, send
from serving.grammar.core import Compiler, GrammarError
from serving.grammar.ranks import read_pieces

MOST_MEMORY_BYTES = 2 << 30
"""Of address space: the vocabulary takes a tenth of it."""
MOST_GRAMMAR_BYTES = 64 << 20
"""Of one compiled grammar, which the engine holds too."""


def verdict(compiler: Compiler, grammar: str) -> str:
    """Returns why a grammar cannot be used, "" when it can."""
    try:
        compiled = compiler.compile(grammar)
    except GrammarError as error:
        return str(error) or "it cannot be compiled"
    except MemoryError:
        return "it takes too much memory"
    if compiled.size_bytes > MOST_GRAMMAR_BYTES:
        return "it is too large once compiled"
    return ""


def serve(end: socket.socket, compiler: Compiler) -> None:
    """Answers one grammar after the other until the other side has closed."""
    with suppress(ConnectionError):
        send(end, "")
        for payload in receive(end):
            send(end, verdict(compiler, msgspec.msgpack.decode(payload, type=str)))


def main(arguments: list[str]) -> None:
    """Runs the process."""
    parser = argparse.ArgumentParser(prog="serving.grammar.process")
    parser.add_argument("--ranks", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, required=True)
    end, options = enter(parser, arguments)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    # tvm-ffi takes torch along where it finds it: seconds and memory for nothing here.
    modules: dict[str, Any] = sys.modules
    modules["torch"] = None
    with end:
        serve(end, Compiler(read_pieces(options.ranks), options.vocab_size))


if __name__ == "__main__":
    main(sys.argv[1:])
