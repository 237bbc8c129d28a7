"""The rate of the embedded runtime alone: what an engine gives with no server around it.

    python -m benchmarks.runtime_rate ENGINE STREAMS TOKENS PROMPT

Prints a line with the tokens a second for every line on standard input. Runs the same prompt and
sampling as the served half of `benchmarks.serving`, in one process and one thread, as the engine
process does. `RuntimeRate` is the other end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from serving import engine as engines
from serving.harmony.conversation import Conversation, System, User
from serving.harmony.render import render
from serving.harmony.vocabulary import Vocabulary
from serving.job import Sampling
from serving.runtime.contract import Runtime
from serving.runtime.embedded.runtime import EmbeddedRuntime
from serving.runtime.messages import Generate
from serving.runtime.process import ENVIRONMENT


class RuntimeRate:
    """A runtime without a server, in a process of its own. Use it as a context manager."""

    def __init__(self, engine: Path, streams: int, tokens: int, prompt: str) -> None:
        """Starts the process, which measures `streams` equal sequences of `tokens` tokens each."""
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.runtime_rate", str(engine)),
                *(str(streams), str(tokens), prompt),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT | os.environ,
        )

    def measure(self) -> float:
        """Returns tokens a second. Raises RuntimeError when the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(file=self._process.stdin, flush=True)
            return float(self._process.stdout.readline())
        except (OSError, ValueError):
            raise RuntimeError("the runtime's process has ended") from None

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the process."""
        with self._process:
            self._process.kill()


def serve(directory: Path, prompt_text: str, streams: int, tokens: int) -> None:
    """Loads, warms up, and answers lines until there are no more."""
    runtime = EmbeddedRuntime.load(directory)
    vocabulary = Vocabulary.load(directory / engines.RANKS_PATH)
    conversation = Conversation(system=System(), turns=(User(text=prompt_text),))
    prompt = render(conversation, vocabulary)
    run(runtime, prompt, streams, 8, first_id=1)
    for number, _ in zip(count(1), sys.stdin, strict=False):
        started = time.monotonic()
        run(runtime, prompt, streams, tokens, first_id=number * streams + 1)
        print(streams * tokens / (time.monotonic() - started), flush=True)
    runtime.close()


def run(runtime: Runtime, prompt: list[int], streams: int, tokens: int, *, first_id: int) -> None:
    """Runs sequences to their end. Raises RuntimeError when one fails or is short."""
    sampling = Sampling(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    for number in range(streams):
        runtime.submit(Generate(first_id + number, prompt, sampling))
    generated = 0
    while runtime.busy:
        step = runtime.step()
        for output in step.outputs if step is not None else ():
            if output.finish == "error":
                raise RuntimeError(f"a sequence failed: {output.fault}")
            generated += len(output.tokens)
    if generated != streams * tokens:
        raise RuntimeError(f"{generated} tokens came, not {streams * tokens}")


def main() -> None:
    """Does what the command line says."""
    directory, streams, tokens, prompt = sys.argv[1:5]
    serve(Path(directory), prompt, int(streams), int(tokens))


if __name__ == "__main__":
    main()
