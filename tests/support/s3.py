"""A small S3: one bucket in memory, with paths as a client that is given an endpoint asks for."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

BUCKET = "jobs"
PAGE = 2
"""Names in one answer of a list."""


class Server(ThreadingHTTPServer):
    """The bucket, and what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.failing = 0
        """How many of the next requests are answered with an error of the server."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        data = self._body()
        if name := self._named():
            self.server.objects[name] = data
            self._answer(200)

    def do_GET(self) -> None:
        self._body()
        if (name := self._named()) is None:
            return
        query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        if "list-type" in query:
            self._list(query)
        elif name in self.server.objects:
            self._answer(200, self.server.objects[name])
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def do_POST(self) -> None:
        text = self._body().decode()
        if self._named() is not None:
            names = re.findall(r"<Key>(.*?)</Key>", text)
            for name in names:
                self.server.objects.pop(unescape(name), None)
            rows = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
            self._answer(200, f"<DeleteResult>{rows}</DeleteResult>".encode())

    def _named(self) -> str | None:
        """Return the name that is asked for; None after an error was answered."""
        self.server.asked.append(f"{self.command} {self.path}")
        _, bucket, *name = unquote(urlsplit(self.path).path).split("/", 2)
        if self.server.failing:
            self.server.failing -= 1
            self._answer(503, b"<Error><Code>SlowDown</Code></Error>")
        elif not self.headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 Credential=key/"):
            self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        elif bucket != BUCKET:
            self._answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        else:
            return name[0] if name else ""
        return None

    def _list(self, query: dict[str, str]) -> None:
        after = query.get("continuation-token", query.get("start-after", ""))
        there, prefix = self.server.objects, query.get("prefix", "")
        found = sorted(name for name in there if name.startswith(prefix) and name > after)
        page, more = found[:PAGE], len(found) > PAGE
        rows = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f'<ETag>"e"</ETag><Size>{len(self.server.objects[name])}</Size></Contents>'
            for name in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        text = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{rows}</ListBucketResult>"
        self._answer(200, text.encode())

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def small_s3() -> Iterator[Server]:
    """Run a server with an empty bucket."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
