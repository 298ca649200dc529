"""Where the files are that messages name without a path: uploads of clients, and takes that wait to be fetched.

A message says `upload:ID` in the place of a path, and `download:` in the place of the output folder. What is stored and told
keeps these words; only a worker, and whoever checks or cleans up, looks behind them. Standard library only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vatt_client.messages import Submission
from vatt_client.transfers import DOWNLOAD, UPLOAD

from vatt_core.errors import InputNotVisible, VattError

INPUTS = ("path", "base", "reference")
"""The fields of a submission that name a file to be read."""

S = TypeVar("S", bound=Submission)


class Places:
    """The two folders behind the words."""

    def __init__(self, uploads: Path, results: Path) -> None:
        self.uploads = uploads
        self.results = results

    def upload(self, reference: str) -> Path:
        """The file of an upload that has come as a whole. Raises InputNotVisible."""
        identity = reference.removeprefix(UPLOAD)
        about = self.about(identity)
        file = None if about is None else self.uploads / identity / about["name"]
        if file is not None and file.is_file() and not file.is_symlink():
            return file
        raise InputNotVisible(f"There is no upload '{identity[:64]}' any more: send the file again.", path=reference)

    def about(self, identity: str) -> dict[str, Any] | None:
        """What is known of an upload; None for one that was not announced."""
        # An id is made here, of hexadecimal digits; anything else names nothing, least of all another folder.
        if len(identity) != 32 or set(identity) - set("0123456789abcdef"):
            return None
        try:
            body = json.loads((self.uploads / f"{identity}.json").read_bytes())
        except (OSError, ValueError):
            return None
        return body if isinstance(body, dict) and isinstance(body.get("name"), str) else None

    def folder(self, output: str, job: str) -> Path:
        """Where a job's files go."""
        return self.results / job if output == DOWNLOAD else Path(output)

    def locate(self, message: S, job: str) -> tuple[S, dict[str, str]]:
        """The message with paths in the place of the words, and the words by those paths. Raises InputNotVisible."""
        paths: dict[str, str] = {}
        for field, reference in uploads_of(message):
            paths[field] = str(self.upload(reference))
        words = {path: getattr(message, field) for field, path in paths.items()}
        if getattr(message, "output", "") == DOWNLOAD:
            paths["output"] = str(self.folder(DOWNLOAD, job))
        return (dataclasses.replace(message, **paths) if paths else message), words  # type: ignore[arg-type]

    def told(self, message: Submission, job: str, result: dict[str, Any]) -> dict[str, Any]:
        """The result as the client gets it: files that it has to fetch by their bare names."""
        if getattr(message, "output", "") != DOWNLOAD:
            return result
        folder = f"{self.folder(DOWNLOAD, job)}/".replace("\\", "/")

        def bare(value: Any) -> Any:
            if isinstance(value, str):
                return value[len(folder) :] if value.replace("\\", "/").startswith(folder) else value
            if isinstance(value, dict):
                return {key: bare(item) for key, item in value.items()}
            return [bare(item) for item in value] if isinstance(value, list | tuple) else value

        return {key: bare(value) for key, value in result.items()}


@contextlib.contextmanager
def in_words(words: Mapping[str, str]) -> Iterator[None]:
    """Errors inside speak of uploads by the names that they were sent under, not by where they lie here."""
    try:
        yield
    except VattError as error:
        for path, word in words.items():
            error.message = error.message.replace(path, Path(path).name)
            error.details = {name: word if str(value) == path else value for name, value in error.details.items()}
        raise


def uploads_of(message: Submission) -> Iterator[tuple[str, str]]:
    """(field, reference) of everything in a submission that names an upload."""
    for field in INPUTS:
        value = getattr(message, field, None)
        if isinstance(value, str) and value.startswith(UPLOAD):
            yield field, value


def files_of(result: dict[str, Any] | None) -> set[str]:
    """The names of the files that a job has made, as its result tells them."""
    takes = (result or {}).get("takes")
    named: set[str] = set()
    for take in takes if isinstance(takes, list) else []:
        named |= {take[name] for name in FILES if isinstance(take.get(name), str) and take[name]}
    return named


FILES = ("wav", "sidecar", "preview", "muxed")
"""The keys of a take that name files."""
