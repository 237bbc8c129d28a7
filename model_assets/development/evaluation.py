"""What a trained checkpoint can do: answers to fresh draws of the generator, counted by kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import torch
from torch import Tensor

from model_assets.development import compact as compact_file
from model_assets.development import mxfp4
from model_assets.development.compact import Compact
from model_assets.development.conversations import Example
from model_assets.development.network import Network
from model_assets.development.rows import Rows
from serving.events import Content, Event, Reasoning, ToolCallArguments, ToolCallStart
from serving.harmony.parse import Parser
from serving.harmony.render import render, render_completion
from serving.harmony.vocabulary import CALL, RETURN, Vocabulary

BATCH = 16
LIMIT_TOKENS = 256


class Score(msgspec.Struct):
    """How many examples of one kind there were, and how many were answered how well."""

    examples: int = 0
    harmony: int = 0
    """Analysis, then a final text or a call of an offered tool, then the right stop token."""
    json: int = 0
    """Calls with JSON arguments; all of `harmony` where no call is due."""
    exact: int = 0
    """Token for token the expected turn, its analysis included."""
    right: int = 0
    """The expected final text, or the expected call with the expected arguments."""


class Reply(msgspec.Struct, frozen=True):
    """What the parser made of a generated turn."""

    reasoning: str
    content: str
    call: str | None
    arguments: str
    stopped: bool


def network_of(compact: Compact) -> Network:
    """Returns a network with exactly the weights of a compact checkpoint."""
    network = Network(compact.shape, len(compact.ids), length=4096)
    state: dict[str, Tensor] = {}
    for name, tensor in compact.tensors.items():
        short = name.removeprefix("model.").replace(".experts.", ".")
        if short.endswith("_blocks"):
            scales = compact.tensors[name.removesuffix("blocks") + "scales"].bits
            weight = mxfp4.decode(tensor.bits.astype(np.uint8), scales.astype(np.uint8))
            state[short.removesuffix("_blocks")] = torch.from_numpy(weight).transpose(1, 2)
        elif not short.endswith("_scales"):
            state[short] = torch.from_numpy(compact_file.float32(tensor).copy())
    network.load_state_dict(state)
    return network.eval()


@torch.inference_mode()
def generate(
    network: Network,
    rows: Rows,
    prompts: Sequence[Sequence[int]],
    temperature: float,
    randomness: torch.Generator,
) -> list[list[int]]:
    """Returns the tokens that follow each prompt, up to a stop token or `LIMIT_TOKENS`.

    Temperature 0 is greedy. Tokens without a row come out as the lowest id that has none.
    """
    other = int(np.argmax(rows.row_of == len(rows.ids)))
    stops = {int(rows.row_of[RETURN]), int(rows.row_of[CALL])}
    texts = [rows.compact(prompt).tolist() for prompt in prompts]
    running = set(range(len(prompts)))
    while running and max(len(texts[i]) - len(prompts[i]) for i in running) < LIMIT_TOKENS:
        order = sorted(running)
        logits = _next_logits(network, [texts[i] for i in order])
        if temperature > 0:
            shares = (logits / temperature).softmax(-1)
            chosen = torch.multinomial(shares, 1, generator=randomness).squeeze(1)
        else:
            chosen = logits.argmax(-1)
        for i, row in zip(order, chosen.tolist(), strict=True):
            texts[i].append(row)
            if row in stops:
                running.discard(i)
    ids = [*rows.ids, other]
    return [
        [ids[row] for row in text[len(prompt) :]]
        for text, prompt in zip(texts, prompts, strict=True)
    ]


def _next_logits(network: Network, texts: Sequence[Sequence[int]]) -> Tensor:
    """Returns [len(texts), rows + 1]: the logits after the last token of each text."""
    length = max(len(text) for text in texts)
    tokens = torch.zeros(len(texts), length, dtype=torch.long)
    for i, text in enumerate(texts):
        tokens[i, : len(text)] = torch.tensor(text)
    positions = torch.arange(length).expand(len(texts), -1)
    visible = torch.ones(length, length, dtype=torch.bool).tril().expand(len(texts), -1, -1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden: Tensor = network(tokens, positions, visible)
    last = torch.tensor([len(text) - 1 for text in texts])
    return network.logits(hidden[torch.arange(len(texts)), last].float())


def read_reply(tokens: Sequence[int], tools: frozenset[str], vocabulary: Vocabulary) -> Reply:
    """Returns a generated turn, read as the service reads it."""
    parser = Parser(vocabulary, tools)
    events: list[Event] = [*parser.feed(tokens), *parser.finish()]
    starts = [event.name for event in events if isinstance(event, ToolCallStart)]
    return Reply(
        reasoning="".join(event.text for event in events if isinstance(event, Reasoning)),
        content="".join(event.text for event in events if isinstance(event, Content)),
        call=starts[0] if starts else None,
        arguments="".join(e.text for e in events if isinstance(e, ToolCallArguments)),
        stopped=bool(tokens) and tokens[-1] == (CALL if starts else RETURN),
    )


def evaluate(
    network: Network,
    rows: Rows,
    vocabulary: Vocabulary,
    examples: Iterable[Example],
    temperature: float,
    seed: int,
) -> dict[str, Score]:
    """Returns the scores by kind of example."""
    scores: dict[str, Score] = {}
    randomness = torch.Generator().manual_seed(seed)
    ordered = sorted(examples, key=lambda e: len(render(e.conversation, vocabulary)))
    for start in range(0, len(ordered), BATCH):
        part = ordered[start : start + BATCH]
        prompts = [render(example.conversation, vocabulary) for example in part]
        turns = generate(network, rows, prompts, temperature, randomness)
        for example, turn in zip(part, turns, strict=True):
            score = scores.setdefault(example.kind, Score())
            _count(score, example, turn, vocabulary)
    return dict(sorted(scores.items()))


def _count(score: Score, example: Example, turn: list[int], vocabulary: Vocabulary) -> None:
    tools = frozenset(tool.name for tool in example.conversation.tools)
    reply = read_reply(turn, tools, vocabulary)
    score.examples += 1
    score.exact += turn == render_completion(example.answer, vocabulary)
    answered = bool(reply.content) != (reply.call is not None)
    score.harmony += reply.stopped and bool(reply.reasoning) and answered
    score.json += reply.call is None or _json(reply.arguments) is not None
    if example.answer.calls:
        (call,) = example.answer.calls
        same = _json(reply.arguments) == _json(call.arguments)
        score.right += reply.call == call.name and same
    else:
        score.right += reply.call is None and reply.content == example.answer.content


def _json(text: str) -> object:
    """Returns the value of a JSON text, or None."""
    try:
        value: object = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
    return value
