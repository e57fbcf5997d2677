"""A small S3 store in memory that lacks what some stores lack; who is to use it gets its `environment`."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class SmallStore(ThreadingHTTPServer):
    """Knows objects, their listing, and `If-None-Match: *` unless it `ignores` that."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}",
            "AWS_ACCESS_KEY_ID": "small",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.objects: dict[str, bytes] = {}
        self.ignores: set[str] = set()
        """Headers that mean nothing here, in lower case."""
        self.refuses: dict[str, tuple[int, str, str]] = {}
        """Status, code and message of the answer to a request with such a header."""
        self.requests = 0
        self.lock = threading.Lock()


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SmallStore

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            self.server.requests += 1
            status, answer = self._answer(body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("ETag", '"any"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_HEAD = do_PUT = do_DELETE = _serve  # noqa: N815

    def _answer(self, body: bytes) -> tuple[int, bytes]:
        place, objects = urlsplit(self.path), self.server.objects
        key, query = unquote(place.path).strip("/"), parse_qs(place.query)
        for name, refusal in self.server.refuses.items():
            if name in self.headers:
                return _error(*refusal)
        if "list-type" in query:
            prefix = f"{key}/{query.get('prefix', [''])[0]}"
            return 200, _listing(
                [name.partition("/")[2] for name in sorted(objects) if name.startswith(prefix)]
            )
        if self.command == "PUT":
            exclusive = "If-None-Match" in self.headers and "if-none-match" not in self.server.ignores
            if exclusive and key in objects:
                return _error(412, "PreconditionFailed", "it is there")
            objects[key] = body
            return 200, b""
        if self.command == "DELETE":
            objects.pop(key, None)
            return 204, b""
        return (200, objects[key]) if key in objects else _error(404, "NoSuchKey", "there is none")

    def log_message(self, format: str, *args: object) -> None:
        pass


def _error(status: int, code: str, message: str) -> tuple[int, bytes]:
    return status, f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>".encode()


def _listing(keys: list[str]) -> bytes:
    when = "<LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>1</Size><ETag>any</ETag>"
    found = "".join(f"<Contents><Key>{escape(key)}</Key>{when}</Contents>" for key in keys)
    return f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()
