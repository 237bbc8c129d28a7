"""The rate of the embedded runtime alone: what an engine gives with no server around it.

    python -m benchmarks.runtime_rate ENGINE STREAMS TOKENS PROMPT

Prints one line of JSON. Runs the same prompt and sampling as the served half of
`benchmarks.serving`, in one process and one thread, as the engine process does.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from serving import engine as engines
from serving.harmony.conversation import Conversation, System, User
from serving.harmony.render import render
from serving.harmony.vocabulary import Vocabulary
from serving.job import Sampling
from serving.runtime.contract import Runtime
from serving.runtime.embedded.runtime import EmbeddedRuntime
from serving.runtime.messages import Generate


def measure(directory: Path, prompt_text: str, streams: int, tokens: int) -> float:
    """Returns the tokens a second of `streams` equal sequences of `tokens` tokens each."""
    runtime = EmbeddedRuntime.load(directory)
    vocabulary = Vocabulary.load(directory / engines.RANKS_PATH)
    conversation = Conversation(system=System(), turns=(User(text=prompt_text),))
    prompt = render(conversation, vocabulary)
    run(runtime, prompt, streams, 8, first_id=1)
    started = time.monotonic()
    run(runtime, prompt, streams, tokens, first_id=streams + 1)
    seconds = time.monotonic() - started
    runtime.close()
    return streams * tokens / seconds


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
    """Measures what the command line names and prints the rate."""
    directory, streams, tokens, prompt = sys.argv[1:5]
    rate = measure(Path(directory), prompt, int(streams), int(tokens))
    print(json.dumps({"tokens_per_second": rate}))


if __name__ == "__main__":
    main()
