"""The encoder process: `python -m serving.engines.encoder.process --fd N --engine DIRECTORY`.

It takes requests from its socket, runs batches of their texts, and sends back the vectors. Between
two batches it looks for new requests and for those that were dropped; requests have their turns
batch by batch, so that a short one need not wait for the end of a long one.
It leaves when the socket closes.
"""

from __future__ import annotations

import argparse
import ctypes
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from serving.boundary.encoder.description import TOKENIZER, EncoderError, read
from serving.boundary.encoder.messages import (
    Dropped,
    Encode,
    Loaded,
    Part,
    Refused,
    ToEncoder,
)
from serving.boundary.entry import enter
from serving.boundary.framing import RECEIVE_BYTES, FrameReader, send
from serving.boundary.messages import ExitCode, Fatal
from serving.engines.encoder.batches import BatchQueue
from serving.engines.encoder.model import SentenceEncoder, shorten
from serving.engines.encoder.texts import TextQueue
from serving.engines.encoder.tokens import TextTokenizer
from serving.hosting.garbage import set_aside


class EncoderLoop:
    """Serves one connection with one encoder."""

    def __init__(
        self,
        end: socket.socket,
        encoder: SentenceEncoder,
        tokenizer: TextTokenizer,
        *,
        max_tokens: int,
        batch_tokens: int,
        request_tokens: int,
    ) -> None:
        """`max_tokens` bounds one input, `batch_tokens` a batch, `request_tokens` a request."""
        self._end = end
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._request_tokens = request_tokens
        self._texts = TextQueue(tokenizer.encode)
        self._queue = BatchQueue(batch_tokens)
        self._reader = FrameReader()
        self._decoder = msgspec.msgpack.Decoder(ToEncoder)

    def run(self) -> None:
        """Returns when the other side has closed. Raises OSError, FrameError, MsgspecError."""
        while self._receive(wait=not (self._texts or self._queue)):
            if self._texts:
                self._read()
            if self._queue:
                self._step()
            if not (self._texts or self._queue):
                give_back_memory()

    def _receive(self, *, wait: bool) -> bool:
        """Takes all that has arrived, with `wait` once there is something; False: it was closed.

        What was dropped again in the meantime costs nothing.
        """
        try:
            while data := self._end.recv(RECEIVE_BYTES, 0 if wait else socket.MSG_DONTWAIT):
                wait = False
                for payload in self._reader.feed(data):
                    self._take(self._decoder.decode(payload))
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        return False

    def _take(self, message: ToEncoder) -> None:
        if isinstance(message, Encode):
            self._texts.add(message)
            return
        self._texts.drop(message.id)
        self._queue.drop(message.id)
        send(self._end, Dropped(message.id))

    def _read(self) -> None:
        """Makes token ids of some texts, and lets a request wait for its batches or refuses it."""
        done = self._texts.read()
        if done is None:
            return
        message, inputs = done
        if (most := message.truncate_tokens) is not None:
            inputs = [self._tokenizer.cut(tokens, min(most, self._max_tokens)) for tokens in inputs]
        refused = self._refusal(message, inputs)
        if refused is not None:
            send(self._end, refused)
            return
        self._queue.add(message.id, inputs, message.dimensions)

    def _refusal(self, message: Encode, inputs: Sequence[Sequence[int]]) -> Refused | None:
        for place, tokens in enumerate(inputs):
            if len(tokens) > self._max_tokens:
                return Refused(message.id, place, len(tokens))
        total = sum(len(tokens) for tokens in inputs)
        return Refused(message.id, -1, total) if total > self._request_tokens else None

    def _step(self) -> None:
        """Runs one batch and sends each request its part of it."""
        batch = self._queue.take()
        vectors = self._encoder.encode([item.tokens for item in batch])
        rows: dict[int, list[int]] = {}
        for row, item in enumerate(batch):
            rows.setdefault(item.request, []).append(row)
        for request, chosen in rows.items():
            part = shorten(vectors[chosen], batch[chosen[0]].dimensions)
            places = [batch[row].place for row in chosen]
            tokens = sum(batch[row].length for row in chosen)
            send(self._end, Part(request, places, tokens, part.numpy().astype("<f4").tobytes()))


def give_back_memory() -> None:
    """Gives the kernel what batches and loading have freed, where the C library keeps it: tensors
    of ever new sizes leave holes. It takes less than a millisecond."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def serve(end: socket.socket, options: argparse.Namespace) -> int:
    """Loads the encoder and serves; returns the exit code, one of `ExitCode`."""
    began = time.monotonic()
    try:
        description = read(options.engine)
        tokenizer = TextTokenizer(description.directory / TOKENIZER)
        loop = EncoderLoop(
            end,
            SentenceEncoder.load(description),
            tokenizer,
            max_tokens=description.max_tokens,
            batch_tokens=options.batch_tokens,
            request_tokens=options.request_tokens,
        )
    except EncoderError as error:
        send(end, Fatal(ExitCode.REFUSED, str(error)))
        return ExitCode.REFUSED
    try:
        set_aside()
        give_back_memory()
        send(end, Loaded(time.monotonic() - began))
        loop.run()
    except ConnectionError:
        return ExitCode.PARENT_LEFT
    return ExitCode.PARENT_LEFT


def main(arguments: list[str]) -> int:
    """Runs the process; returns its exit code."""
    parser = argparse.ArgumentParser(prog="serving.engines.encoder.process")
    parser.add_argument("--engine", type=Path, required=True, help="the encoder's directory")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch-tokens", type=int, required=True)
    parser.add_argument("--request-tokens", type=int, required=True)
    end, options = enter(parser, arguments)
    torch.set_num_threads(options.threads)
    with end:
        return serve(end, options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
