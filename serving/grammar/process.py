"""The grammar process: `python -m serving.grammar.process --ranks FILE --vocab-size N`.

It compiles each grammar that comes as a line of JSON on standard input, and answers with a line
that holds why it cannot be used, or an empty string. The first line says that it is ready. A
compiler that does not end is ended from outside, or by the alarm when nobody is left to do so; its
memory is bounded by the kernel.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
from pathlib import Path
from typing import IO, Any

import msgspec

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


def answer(lines: IO[bytes], out: IO[bytes], compiler: Compiler, alarm_seconds: int) -> None:
    """Answers line by line until the input ends."""
    for line in lines:
        signal.alarm(alarm_seconds)
        result = verdict(compiler, msgspec.json.decode(line, type=str))
        signal.alarm(0)
        _write(out, result)


def _write(out: IO[bytes], message: str) -> None:
    out.write(msgspec.json.encode(message) + b"\n")
    out.flush()


def main() -> None:
    """Runs the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, required=True)
    parser.add_argument("--alarm-seconds", type=int, required=True)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    # A signal to the whole group must not end it before the requests that are under way.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # tvm-ffi takes torch along where it finds it: seconds and memory for nothing here.
    modules: dict[str, Any] = sys.modules
    modules["torch"] = None
    compiler = Compiler(read_pieces(arguments.ranks), arguments.vocab_size)
    _write(sys.stdout.buffer, "")
    answer(sys.stdin.buffer, sys.stdout.buffer, compiler, arguments.alarm_seconds)


if __name__ == "__main__":
    main()
