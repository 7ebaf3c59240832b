"""A web server on this computer that serves bytes, and misbehaves as it is told."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class Site:
    """``files`` by path, ``moved`` paths, and what goes wrong: ``cut_after`` bytes, then no more
    (for as many answers as ``cuts``), an ``error`` for every answer, no ``ranges``."""

    files: dict[str, bytes] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    cut_after: int = 0
    cuts: int = 0
    error: int = 0
    ranges: bool = True
    etag: str = '"one"'
    lengths: bool = True
    asked: list[tuple[str, str]] = field(default_factory=list)  # path, Range
    address: str = ""

    def url(self, path: str) -> str:
        return f"{self.address}{path}"


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:  # noqa: N802
        site, path = self.site, self.path.partition("?")[0]
        asked = self.headers.get("Range", "")
        site.asked.append((path, asked))
        if path in site.moved:
            self.send_response(302)
            self.send_header("Location", site.moved[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif site.error or path not in site.files:
            self.send_error(site.error or 404)
        else:
            self._send(site.files[path], asked)

    def _send(self, content: bytes, asked: str) -> None:
        site = self.site
        start = 0
        current = self.headers.get("If-Range", site.etag) == site.etag
        if (match := re.fullmatch(r"bytes=(\d+)-", asked)) and site.ranges and current:
            start = int(match[1])
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        rest = content[start:]
        if site.etag:
            self.send_header("ETag", site.etag)
        if site.lengths:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if site.cuts:
            site.cuts -= 1
            rest = rest[: site.cut_after]
        self.wfile.write(rest)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that hang up."""


@contextmanager
def serve() -> Iterator[Site]:
    """A site on 127.0.0.1 as long as the context lasts."""
    site = Site()
    handler = type("Handler", (_Handler,), {"site": site})
    with _Server(("127.0.0.1", 0), handler) as server:
        site.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield site
        server.shutdown()
        thread.join()
