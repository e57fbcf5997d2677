"""A web server that answers what a test tells it, and notes what it is asked."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

Answer = int | bytes
"""A status without a body; or a body, with 200. Status 0 cuts the connection and answers nothing."""


class Asked(NamedTuple):
    """A request as it came in."""

    method: str
    path: str


class WebServer(ThreadingHTTPServer):
    """Answers GET and HEAD by `answer`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[Asked] = []
        self.answer: Callable[[Asked], Answer] = lambda _: 404


class _Connection(BaseHTTPRequestHandler):
    server: WebServer

    def do_GET(self) -> None:
        asked = Asked(self.command, self.path)
        self.server.asked.append(asked)
        answer = self.server.answer(asked)
        if answer == 0:
            return  # HTTP/1.0: the connection is closed
        body = answer if isinstance(answer, bytes) else b""
        self.send_response(200 if isinstance(answer, bytes) else answer)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass
