"""A small server that speaks the part of Hugging Face's protocol that is used."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from engine_build import durable

REVISION = "0123456789abcdef0123456789abcdef01234567"
CONTENT = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 4096}


class Hub(ThreadingHTTPServer):
    """Serves CONTENT at one revision; `failure` is a status and an error code to answer with.

    `throttles` are answers that come before any file; `storage` is where files really are.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.content = dict(CONTENT)
        self.cut_after: int | None = None
        self.breaks = True
        self.failure: tuple[int, str] | None = None
        self.throttles: list[tuple[int, dict[str, str]]] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.storage: str | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_arguments: object) -> None:
        """The test's output is not the server's log."""

    def _answer(self, *, body: bool) -> None:
        name = self.path.rpartition("/")[2]
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        if self.server.throttles:
            status, headers = self.server.throttles.pop(0)
            self._refuse(status, headers)
            return
        if self.server.storage is not None:
            self._refuse(302, {"Location": f"{self.server.storage}/{name}"})
            return
        if self.server.failure is not None:
            status, code = self.server.failure
            self._refuse(status, {"X-Error-Code": code})
            return
        self.server.tokens.add(self.headers.get("Authorization"))
        content = self.server.content[name]
        begin = int(self.headers.get("Range", "bytes=0-")[len("bytes=") :].partition("-")[0])
        if body:
            self.server.asked.append(f"{name} from {begin}")
        self.send_response(206 if begin else 200)
        self.send_header("ETag", f'"{durable.digest(content)}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("Content-Length", str(len(content) - begin))
        self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            self._send(content[begin:])

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, content: bytes) -> None:
        if self.server.cut_after is None or len(content) <= self.server.cut_after:
            self.wfile.write(content)
            return
        self.wfile.write(content[: self.server.cut_after])
        self.close_connection = True
        if self.server.breaks:
            self.server.failure = (500, "")  # and from now on nothing works
