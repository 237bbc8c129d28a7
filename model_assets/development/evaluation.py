"""What a trained checkpoint can do: answers to fresh draws of the generator, counted by kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model_assets.development import compact as compact_file
from model_assets.development import mxfp4
from model_assets.development.compact import Compact
from model_assets.development.conversations import Example
from model_assets.development.network import Network, Past
from model_assets.development.rows import Rows
from serving.events import Content, Event, Reasoning, ToolCallArguments, ToolCallStart
from serving.harmony.parse import Parser
from serving.harmony.render import render, render_completion
from serving.harmony.vocabulary import CALL, RETURN, Vocabulary

BATCH = 32
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
    ids = np.array([*rows.ids, other])
    stops = torch.tensor([rows.row_of[RETURN], rows.row_of[CALL]])
    tokens, visible, next_position = _side_by_side([rows.compact(p) for p in prompts])
    count = len(prompts)
    past = Past(torch.zeros(count, 0, dtype=torch.long), [])
    steps = [_choose(_prompt_logits(network, tokens, next_position, past), temperature, randomness)]
    ended = torch.isin(steps[-1], stops)
    while not ended.all() and len(steps) < LIMIT_TOKENS:
        visible = F.pad(visible, (0, 1), value=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = network(steps[-1][:, None], next_position[:, None], visible[:, None], past)
        steps.append(_choose(network.logits(hidden[:, 0].float()), temperature, randomness))
        ended |= torch.isin(steps[-1], stops)
        next_position = next_position + 1
    written = torch.stack(steps, dim=1)
    return [ids[_until_stop(row, stops)].tolist() for row in written]


def _side_by_side(prompts: Sequence[NDArray[np.int64]]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns tokens [B, T] padded on the right, which are real [B, T], and lengths [B]."""
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    tokens = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = torch.from_numpy(prompt)
    return tokens, torch.arange(tokens.shape[1]) < lengths[:, None], lengths


def _prompt_logits(network: Network, tokens: Tensor, lengths: Tensor, past: Past) -> Tensor:
    """Returns [B, rows + 1]: the logits after the last real token of each row."""
    count, length = tokens.shape
    causal = torch.ones(length, length, dtype=torch.bool).tril().expand(count, -1, -1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = network(tokens, torch.arange(length).expand(count, -1), causal, past)
    return network.logits(hidden[torch.arange(count), lengths - 1].float())


def _choose(logits: Tensor, temperature: float, randomness: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    shares = (logits / temperature).softmax(-1)
    return torch.multinomial(shares, 1, generator=randomness).squeeze(1)


def _until_stop(row: Tensor, stops: Tensor) -> list[int]:
    """Returns the tokens up to and with the first stop token, or all."""
    found = torch.isin(row, stops).nonzero()
    last = int(found[0]) + 1 if len(found) else len(row)
    return list(map(int, row[:last]))


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
