"""An HTTP proxy in front of the object store: counts requests, injects faults, calls back at each request.

Whoever is to go through it is told so by `AWS_ENDPOINT_URL`.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

FAULTS = ("503", "reset", "lose", "truncate", "stall")
"""What may happen to any request of a store that lives: it is asked to slow down; the connection is reset
before the store hears of the request, or after it has done what was asked; half the answer comes; none."""


class Request(NamedTuple):
    """A request as it came in."""

    number: int
    """From 1, since the last `Proxy.forget`."""
    kind: str
    """list, get, put, head, delete or post."""
    key: str
    """Bucket and key; of a listing the bucket and the prefix."""


class Proxy(ThreadingHTTPServer):
    """Passes every request on, except for a fault that `before` names.

    Faults are an HTTP status such as "503", the others of `FAULTS`, and "half": the store gets half the body.
    A request that waits in `before` is one that is late in the network.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, upstream: str) -> None:
        """`upstream` is the store's URL."""
        super().__init__(("127.0.0.1", 0), _Connection)
        self.upstream = urlsplit(upstream).netloc
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.stall_seconds = 20.0  # longer than s3fs waits for an answer
        self._counting = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Count from 1 again, do no faults and call nobody back."""
        self.requests: list[Request] = []
        self.before: Callable[[Request], str] = lambda _: ""
        """Called before a request is passed on; names a fault to do instead, or ""."""
        self.after: Callable[[Request], None] = lambda _: None
        """Called when the store has answered and the client has not heard of it yet."""
        self.gone = False
        """While it is set no request comes through."""

    def count(self, kind: str, part: str = "") -> Counter[str]:
        """How many requests of a kind there were by key, of the keys that have `part` in them."""
        return Counter(key for _, found, key in list(self.requests) if found == kind and part in key)

    def note(self, method: str, path: str) -> Request:
        """Number a request."""
        place = urlsplit(path)
        query = parse_qs(place.query, keep_blank_values=True)
        kind, key = method.lower(), unquote(place.path).strip("/")
        if kind == "get" and "list-type" in query:
            kind, key = "list", f"{key}/{query.get('prefix', [''])[0]}"
        with self._counting:
            request = Request(len(self.requests) + 1, kind, key)
            self.requests.append(request)
        return request

    def shutdown_request(self, request: object) -> None:
        """Without a farewell, which would make an end of a reset."""
        self.close_request(request)  # type: ignore[arg-type]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no error here."""
        if not isinstance(sys.exc_info()[1], OSError | http.client.HTTPException):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Connection(BaseHTTPRequestHandler):
    """One of a client, with one of its own to the store."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Proxy

    def setup(self) -> None:
        super().setup()
        self.store = http.client.HTTPConnection(self.server.upstream, timeout=120)

    def finish(self) -> None:
        self.store.close()
        super().finish()

    def handle_expect_100(self) -> bool:
        going_on = super().handle_expect_100()
        self.wfile.flush()  # the client waits for it
        return going_on

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = self.server.note(self.command, self.path)
        fault = self.server.before(request)
        if self.server.gone:
            fault = "reset"
        if fault == "stall":
            time.sleep(self.server.stall_seconds)
        if fault == "half":
            self._pass_on(body[: len(body) // 2])
        if fault in ("stall", "half", "reset"):
            self._reset()
        elif fault.isdigit():
            code = "SlowDown" if fault == "503" else fault
            text = f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>"
            self._answer(int(fault), {"Content-Type": "application/xml"}, text.encode())
        else:
            self._pass_on(body)
            response = self.store.getresponse()
            answer = response.read()
            self.server.after(request)
            if fault == "lose" or (fault == "truncate" and len(answer) < 2):
                self._reset()
            else:
                self._answer(response.status, dict(response.headers), answer, cut=fault == "truncate")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815

    def _pass_on(self, body: bytes) -> None:
        self.store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect"):
                self.store.putheader(name, value)
        self.store.endheaders(body or None)

    def _answer(self, status: int, headers: dict[str, str], body: bytes, cut: bool = False) -> None:
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection |= cut

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


def at_random(share: float, seed: int, faults: Sequence[str] = FAULTS) -> Callable[[Request], str]:
    """A `Proxy.before` with faults for this share of the requests, the same for a seed and a number."""

    def draw(request: Request) -> str:
        dice = random.Random(f"{seed} {request.number}")
        return dice.choice(faults) if dice.random() < share else ""

    return draw
