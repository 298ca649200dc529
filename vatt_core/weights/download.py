"""One file over HTTP: with progress, resumed after a break, checked, and there whole or not at all.

Proxies come from the environment (HTTPS_PROXY, NO_PROXY …), as httpx reads them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

import httpx2 as httpx

from vatt_core.errors import VattError
from vatt_core.media.atomic import writing_error
from vatt_core.weights.space import in_units, need_space

Progress = Callable[[int, int | None], None]

ATTEMPTS = 5
"""Tries in a row that bring nothing, after which a download is given up for now."""

_PAGE = 1 << 20
"""Bytes of a web page that are looked at."""


class DownloadFailed(VattError):
    """A file could not be fetched. Where the server can go on in the middle, what has come stays as NAME.part."""

    code = "download_failed"
    exit_code = 7
    retryable = True


class WrongFile(VattError):
    """What came is not the file: another size or hash, a web page. It was thrown away."""

    code = "wrong_file"
    exit_code = 6


@dataclass(frozen=True)
class Fetched:
    path: Path
    size: int
    sha256: str
    source: str


def unfinished(target: Path) -> Path:
    """Where a file lies until it is whole."""
    return target.with_name(f"{target.name}.part")


def new_client() -> httpx.Client:
    return httpx.Client(follow_redirects=True, timeout=httpx.Timeout(60.0, connect=20.0), trust_env=True)


def direct(url: str) -> str:
    """The address of the file behind the address of its page, for Google Drive and Dropbox."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host == "drive.google.com":
        found = re.match(r"/file/d/([\w-]+)", parts.path)
        number = found[1] if found else dict(parse_qsl(parts.query)).get("id", "")
        if number:
            return f"https://drive.google.com/uc?{urlencode({'export': 'download', 'id': number})}"
    if host in ("dropbox.com", "www.dropbox.com"):
        query = [(key, value) for key, value in parse_qsl(parts.query) if key != "dl"]
        return urlunsplit(parts._replace(query=urlencode([*query, ("dl", "1")])))
    return url


def fetch(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    progress: Progress = lambda done, total: None,
    client: httpx.Client | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Fetched:
    """Fetch `url` to the file `target`, going on where an earlier try broke off.

    size, sha256: what must come, where it is known. progress: called with bytes so far and in all (None: unknown).
    Raises DownloadFailed when the server cannot be reached or refuses, WrongFile when something else comes, DiskFull
    before anything is fetched when there is not enough room, ForbiddenPath.
    """
    own = client is None
    client = client or new_client()
    try:
        return _Download(url, target, size, sha256, progress, client, pause).run()
    finally:
        if own:
            client.close()


class _Download:
    def __init__(
        self,
        url: str,
        target: Path,
        size: int | None,
        sha256: str | None,
        progress: Progress,
        client: httpx.Client,
        pause: Callable[[float], None],
    ) -> None:
        self.url, self.target, self.size, self.sha256 = url, target, size, sha256
        self.progress, self.client, self.pause = progress, client, pause
        self.part = unfinished(target)
        self.about = target.with_name(f"{target.name}.part.json")

    def run(self) -> Fetched:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._receive()
            return self._finish()
        except OSError as error:
            raise writing_error(self.target, error) from error

    def _receive(self) -> None:
        failures = 0
        while True:
            before = self._have()
            try:
                return self._pass(direct(self.url))
            except httpx.RequestError as error:
                # A try that brought something further does not count.
                failures = 1 if self._have() > before else failures + 1
                if failures == ATTEMPTS:
                    raise self._broken(f"{type(error).__name__}: {error}") from error
                self.pause(min(0.5 * 2**failures, 20.0))

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _broken(self, why: str) -> DownloadFailed:
        have, kept = self._have(), ""
        if have and self._read_about().get("validator"):
            kept = f" {in_units(have)} have come and are kept; the same command goes on from there."
        elif have:
            self._forget()
            kept = f" {in_units(have)} had come, but this server cannot go on in the middle; they were thrown away."
        return DownloadFailed(
            f"{self.target.name} could not be fetched from {self.url} ({why.strip().rstrip('.')}).{kept} Check the "
            "connection and the proxy, or fetch the file yourself and use 'vatt models import'.",
            url=self.url,
        )

    def _pass(self, url: str, pages: int = 0) -> None:
        have = self._have()
        about = self._read_about() if have else {}
        if have and have == about.get("total"):
            # A run ended before it had checked what came.
            return self.progress(have, have)
        headers = {"Accept-Encoding": "identity"}
        if have and about.get("validator"):
            headers |= {"Range": f"bytes={have}-", "If-Range": about["validator"]}
        with self.client.stream("GET", url, headers=headers) as response:
            if response.status_code == 416 and have:
                self._forget()
                return self._pass(url, pages)
            if response.status_code >= 400:
                raise self._refused(response)
            if self._is_page(response):
                page = b"".join(self._limited(response)).decode("utf-8", "replace")
                confirmed = confirmation(page, str(response.url))
                if confirmed is None or pages >= 2:
                    raise WrongFile(
                        f"{self.url} answered with a web page ({title(page)!r}) instead of {self.target.name}. Open it in a "
                        "browser, fetch the file there, and use 'vatt models import'.",
                        url=self.url,
                    )
            else:
                self._save(response, have)
                return None
        return self._pass(confirmed, pages + 1)

    def _refused(self, response: httpx.Response) -> VattError:
        status = response.status_code
        if status in (408, 429) or status >= 500:
            return self._broken(f"the server answers {status}; try again later")
        why = {
            401: "it wants a login",
            403: "it forbids it, perhaps too many people fetched it today",
            404: "it has no such file",
        }
        return DownloadFailed(
            f"The server refuses {self.target.name} ({status}: {why.get(status, response.reason_phrase)}): {self.url}. Fetch "
            "it in a browser and use 'vatt models import'.",
            url=self.url,
            status=status,
        )

    def _is_page(self, response: httpx.Response) -> bool:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        return kind in ("text/html", "application/xhtml+xml")

    def _limited(self, response: httpx.Response) -> Any:
        taken = 0
        for piece in response.iter_bytes():
            yield piece
            taken += len(piece)
            if taken > _PAGE:
                return

    def _save(self, response: httpx.Response, have: int) -> None:
        going_on = response.status_code == 206 and response.headers.get("content-range", "").startswith(
            f"bytes {have}-"
        )
        if not going_on:
            have = 0
        length = response.headers.get("content-length")
        total = have + int(length) if length and length.isdigit() else None
        if self.size is not None and total is not None and total != self.size:
            self._forget()
            raise WrongFile(
                f"{self.url} offers {in_units(total)} for {self.target.name}, which has {in_units(self.size)}; it is "
                "another file.",
                url=self.url,
            )
        need_space(self.target.parent, (total or self.size or 0) - have, self.target.name)
        try:
            self.about.write_text(json.dumps({"validator": validator(response.headers), "total": total}))
            with self.part.open("ab" if going_on else "wb") as file:
                self.progress(have, total)
                for piece in response.iter_raw():
                    if have == 0 and looks_like_page(piece):
                        raise WrongFile(
                            f"{self.url} answered with a web page instead of {self.target.name}. Open it in a browser, fetch "
                            "the file there, and use 'vatt models import'.",
                            url=self.url,
                        )
                    file.write(piece)
                    have += len(piece)
                    self.progress(have, total)
        except OSError as error:
            self._forget()
            raise writing_error(self.target, error) from error
        except WrongFile:
            self._forget()
            raise
        if total is not None and have != total:
            raise httpx.ReadError(f"the connection ended after {have} of {total} bytes")

    def _read_about(self) -> dict[str, Any]:
        try:
            found = json.loads(self.about.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else {}
        except (OSError, ValueError):
            return {}

    def _forget(self) -> None:
        for path in (self.part, self.about):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _finish(self) -> Fetched:
        size = self._have()
        with self.part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        wanted = self._read_about().get("total") if self.size is None else self.size
        check(self.target.name, size, digest, wanted, self.sha256, self._forget)
        os.replace(self.part, self.target)
        self._forget()
        return Fetched(self.target, size, digest, self.url)


def validator(headers: httpx.Headers) -> str | None:
    """What says later that the file is still the same (RFC 9110, 13.1.5); None where a server cannot go on in the middle."""
    if headers.get("accept-ranges", "").lower() == "none":
        return None
    tag = headers.get("etag")
    return tag if tag and not tag.startswith("W/") else headers.get("last-modified")


def check(
    name: str, size: int, digest: str, wanted_size: int | None, wanted_digest: str | None, forget: Callable[[], None]
) -> None:
    """Raise WrongFile, after `forget`, unless size and hash are the wanted ones."""
    if wanted_size is not None and size != wanted_size:
        forget()
        raise WrongFile(
            f"{name} has {in_units(size)} instead of {in_units(wanted_size)}; it was thrown away. Fetch it again."
        )
    if wanted_digest is not None and digest != wanted_digest:
        forget()
        raise WrongFile(
            f"{name} has the SHA-256 {digest[:16]}… instead of {wanted_digest[:16]}…; it was thrown away. Fetch it again; if it "
            "stays so, the release has changed: see docs/models.md.",
            sha256=digest,
        )


def looks_like_page(start: bytes) -> bool:
    return re.match(rb"\s*(<!doctype html|<html)", start[:256], re.IGNORECASE) is not None


class _Forms(HTMLParser):
    """The forms of a page with their hidden fields, its links, its title."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[tuple[dict[str, str | None], dict[str, str]]] = []
        self.links: list[str] = []
        self.title = ""
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._in_title = tag == "title"
        if tag == "form":
            self.forms.append((values, {}))
        elif tag == "input" and self.forms and values.get("name"):
            self.forms[-1][1][str(values["name"])] = values.get("value") or ""
        elif tag == "a" and values.get("href"):
            self.links.append(str(values["href"]))

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data


def confirmation(page: str, url: str) -> str | None:
    """Where the page that Google Drive puts before large files leads; None when this is no such page."""
    found = _Forms()
    found.feed(page)
    for attributes, hidden in found.forms:
        action = attributes.get("action")
        if action and (attributes.get("id") == "download-form" or "confirm" in hidden):
            where = urlsplit(urljoin(url, action))
            return urlunsplit(where._replace(query=urlencode([*parse_qsl(where.query), *hidden.items()])))
    for link in found.links:
        if "confirm=" in link and "export=download" in link:
            return urljoin(url, link)
    return None


def title(page: str) -> str:
    """What a page calls itself."""
    found = _Forms()
    found.feed(page)
    return " ".join(found.title.split())[:80] or "without a title"
