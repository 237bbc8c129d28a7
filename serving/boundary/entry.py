"""How a child process begins: with a socket to its parent, and bound to the parent's life."""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys

from serving.boundary.framing import widen

_PR_SET_PDEATHSIG = 1


def enter(
    parser: argparse.ArgumentParser, arguments: list[str]
) -> tuple[socket.socket, argparse.Namespace]:
    """Returns the socket to the parent, and what `parser` makes of the other arguments.

    SIGTERM and SIGINT are ignored from here on: they may come to a whole group long before the
    parent has done its last request. The process leaves when the socket closes; Linux kills it when
    its parent dies, even if it hangs in foreign code.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parser.add_argument("--fd", type=int, required=True, help="a connected Unix stream socket")
    options = parser.parse_args(arguments)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.set_inheritable(options.fd, False)
    end = socket.socket(fileno=options.fd)
    widen(end)
    return end, options
