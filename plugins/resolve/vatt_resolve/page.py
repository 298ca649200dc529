"""The panel as a page in the user's browser, where Python has no Tk: the same desk, over HTTP on this machine alone.

The address holds a secret, so that neither other users nor web pages can give orders. The page asks for the desk's state
a few times a second; when it has not asked for long, it is gone.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from vatt_resolve.desk import Desk
from vatt_resolve.panel import PanelSettings

_POLICY = "default-src 'self' 'unsafe-inline'; img-src data:; frame-ancestors 'none'"

LARGEST = 1 << 16
"""Bytes of an order."""

SILENCE = 180.0
"""Seconds after which a page that does not ask any more counts as closed. Browsers let hidden pages ask once a minute."""

RELOAD = 10.0
"""Seconds that a page which said it is left has to come back, as one that is loaded anew does."""


class Page:
    """Serves a desk until the page is closed."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.closed = threading.Event()
        self._until = time.monotonic() + SILENCE
        self._secret = secrets.token_urlsafe(24)
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page._answer(self, None)

            def do_POST(self) -> None:
                length = self.headers.get("Content-Length", "")
                if not length.isdigit() or int(length) > LARGEST:
                    self.send_error(413)
                    return
                page._answer(self, self.rfile.read(int(length)))

            def log_message(self, *_: Any) -> None:
                """Standard error is Resolve's console: requests are not for it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://{self._host}/{self._secret}/"

    def serve(self) -> None:
        """Return when the page was closed, or has been silent for long."""
        while time.monotonic() < self._until and not self.closed.wait(0.5):
            pass
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes | None) -> None:
        # Another name for this machine is a trick of some web page.
        name = request.path.removeprefix(f"/{self._secret}/")
        if name == request.path or request.headers.get("Host") != self._host:
            request.send_error(404)
            return
        self._until = time.monotonic() + SILENCE
        if body is None and name == "":
            self._send(request, files("vatt_resolve").joinpath("page.html").read_bytes(), "text/html; charset=utf-8")
        elif body is None and name == "state":
            self._send(request, json.dumps(self._state()).encode(), "application/json")
        elif body is not None and name in _ORDERS:
            try:
                _ORDERS[name](self, json.loads(body or b"{}"))
            except (KeyError, TypeError, ValueError, IndexError, AttributeError):
                request.send_error(400)
                return
            self._send(request, json.dumps(self._state()).encode(), "application/json")
            if name == "close":
                self.closed.set()  # once it is answered: the process may end at once
        else:
            request.send_error(404)

    @staticmethod
    def _send(request: BaseHTTPRequestHandler, data: bytes, kind: str) -> None:
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(data)))
        request.send_header("Cache-Control", "no-store")
        request.send_header("Content-Security-Policy", _POLICY)
        request.send_header("Referrer-Policy", "no-referrer")
        request.end_headers()
        request.wfile.write(data)

    def _state(self) -> dict[str, Any]:
        desk = self.desk
        return {
            "action": desk.action,
            "clips": [clip.name for clip in desk.clips],
            "captions": {
                str(clip): [{"text": one.text, "score": one.score} for one in found]
                for clip, found in desk.captions.items()
            },
            "prompt": desk.prompt,
            "settings": vars(desk.settings),
            "busy": desk.busy,
            "progress": desk.progress,
            "message": desk.message,
        }

    # ---- orders ----------------------------------------------------------------------------------------------------

    def _suggest(self, order: dict[str, Any]) -> None:
        self.desk.suggest(self._clip(order["clip"]))

    def _generate(self, order: dict[str, Any]) -> None:
        seed = order.get("seed")
        self.desk.generate(
            [self._clip(number) for number in order["clips"]],
            prompt=str(order["prompt"]),
            negative=str(order["negative"]),
            takes=int(order["takes"]),
            seed=None if seed is None else int(seed),
        )

    def _clip(self, number: Any) -> int:
        if not 0 <= int(number) < len(self.desk.clips):
            raise IndexError(number)
        return int(number)

    def _cancel(self, order: dict[str, Any]) -> None:
        self.desk.cancel()

    def _save(self, order: dict[str, Any]) -> None:
        self.desk.save(PanelSettings(str(order["output"]), int(order["takes"]), str(order["model"])))

    def _leave(self, order: dict[str, Any]) -> None:
        self._until = time.monotonic() + RELOAD

    def _close(self, order: dict[str, Any]) -> None:
        """Nothing else to do."""


_ORDERS: dict[str, Callable[[Page, dict[str, Any]], None]] = {
    "suggest": Page._suggest, "generate": Page._generate, "cancel": Page._cancel, "save": Page._save,
    "leave": Page._leave, "close": Page._close,
}  # fmt: skip


def show(desk: Desk) -> bool:
    """Open the page and serve it until it is closed. False: there is no browser that could show it."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in screens):
        return False  # what is left are browsers in a terminal
    page = Page(desk)
    shown = webbrowser.open(page.address)
    if not shown:
        page.closed.set()
    page.serve()
    return shown
