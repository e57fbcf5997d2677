"""A small HTTP proxy, as `http_proxy` names one: passes requests on, and keeps what it saw."""

from __future__ import annotations

import contextlib
import http.client
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit


class Seen(NamedTuple):
    """A request that came to the proxy."""

    url: str
    authorization: str | None


class HttpProxy(ThreadingHTTPServer):
    """Listens on loopback. `refuses`: it answers 403 itself, as a company's does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.seen: list[Seen] = []
        self.refuses = False


class _Connection(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        proxy = self.server
        assert isinstance(proxy, HttpProxy)
        proxy.seen.append(Seen(self.path, self.headers["Authorization"]))
        if proxy.refuses:
            self._answer(403, b"<html><h1>Blocked</h1> by policy</html>")
            return
        target = urlsplit(self.path)
        connection = http.client.HTTPConnection(target.netloc, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", target.path, headers=dict(self.headers))
            answer = connection.getresponse()
            self._answer(answer.status, answer.read())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
