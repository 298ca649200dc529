"""A server of files on this machine that can misbehave: cut connections, refuse, answer with web pages."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

DRIVE_PAGE = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<p>{name} is too large for Google to scan for viruses.</p>
<form id="download-form" action="{action}" method="get"><input type="submit" id="uc-download-link" value="Download anyway"/>
<input type="hidden" name="id" value="{name}"><input type="hidden" name="export" value="download">
<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="5e"></form></body></html>"""


class FileServer(http.server.ThreadingHTTPServer):
    """Serves the files of `folder`. The sets name files that are treated specially.

    cut: bytes after which the connection breaks, once per entry of the list. extra: headers of every answer. stamp: before
    the ETag, None for no ETag. requests: (path, Range header) of all; asked_by: their Authorization headers.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.cut: dict[str, list[int]] = {}
        self.refuse: dict[str, int] = {}
        self.page: dict[str, str] = {}
        self.drive: set[str] = set()
        self.changed: set[str] = set()
        self.extra: dict[str, str] = {}
        self.stamp: str | None = ""
        self.requests: list[tuple[str, str | None]] = []
        self.asked_by: list[str | None] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up early is nothing to report."""

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        where = urlsplit(self.path)
        name = where.path.strip("/")
        self.server.requests.append((self.path, self.headers.get("Range")))
        self.server.asked_by.append(self.headers.get("Authorization"))
        if name in self.server.refuse:
            return self._answer(self.server.refuse[name], b"no")
        if name in self.server.page:
            return self._answer(200, self.server.page[name].encode(), "text/html; charset=utf-8")
        if name in self.server.drive and parse_qs(where.query).get("confirm") != ["t"]:
            page = DRIVE_PAGE.format(name=name, action=f"/{name}")
            return self._answer(200, page.encode(), "text/html; charset=utf-8")
        path = self.server.folder / name
        if not path.is_file():
            return self._answer(404, b"not here")
        return self._file(name, path.read_bytes())

    def _answer(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self._end()
        self._write(body)

    def _end(self) -> None:
        for name, value in self.server.extra.items():
            self.send_header(name, value)
        self.end_headers()

    def _write(self, body: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(body)

    def _file(self, name: str, content: bytes) -> None:
        if name in self.server.changed:
            content = content[::-1]
        stamp = self.server.stamp
        tag = f'{stamp}"{hashlib.sha256(content).hexdigest()[:16]}"'
        wanted, start = self.headers.get("Range"), 0
        # Only a strong tag lets a part be asked for.
        if wanted and self.headers.get("If-Range") == tag and stamp == "":
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if stamp is not None:
            self.send_header("ETag", tag)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(content) - start))
        self._end()
        cuts = self.server.cut.get(name)
        if cuts and self.command != "HEAD":
            self.wfile.write(content[start : start + cuts.pop(0)])
            self.close_connection = True
            return
        self._write(content[start:])


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    server = FileServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
