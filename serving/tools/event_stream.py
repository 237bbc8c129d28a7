"""Server-sent events, as a client reads them: only their data (WHATWG HTML, section 9.2)."""

from __future__ import annotations


class EventData:
    """Takes a stream in pieces, wherever they break."""

    def __init__(self) -> None:
        self._held = b""
        self._lines: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """Returns the data of each event that is complete now; an event without data is none."""
        held = self._held + piece
        # A line ends with LF, CR or CR LF; a CR at the end may be the first half of the latter.
        cut = len(held) - held.endswith(b"\r")
        lines = held[:cut].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._held = lines.pop() + held[cut:]
        complete: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._lines.append(line.removeprefix(b"data:").removeprefix(b" "))
            elif not line and self._lines:
                complete.append(b"\n".join(self._lines))
                self._lines.clear()
        return complete
