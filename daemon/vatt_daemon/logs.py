"""What the daemon writes into its log: lines for people or JSON for programs, with the id of the job that they are about.

What a user has named or written (paths of clips, prompts, and errors that quote them) is given apart from the message, as
`detail`; `log.private` keeps it out.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import sys
import traceback
from types import TracebackType
from typing import Any

from vatt_daemon.folders import Folders
from vatt_daemon.settings import LogSettings

LARGEST = 2 << 20
"""Bytes of one log file, of which there are five."""
BEFORE_DETAIL = " | "

_Fault = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def about(job: str = "", detail: object = "") -> dict[str, Any]:
    """The `extra` of a line: the job that it is about, and what belongs to the user."""
    return {"job": job, "detail": str(detail)}


def fault(error: BaseException, *, private: bool) -> str:
    """An exception with its stack; private: without its message, which may quote anything."""
    if not private:
        return "".join(traceback.format_exception(error)).rstrip()
    return f"{''.join(traceback.format_tb(error.__traceback__))}{type(error).__name__}"


class Lines(logging.Formatter):
    """A line of text: time, level, where, message, detail."""

    def __init__(self, *, private: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._private = private

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        detail = getattr(record, "detail", "")
        return f"{line}{BEFORE_DETAIL}{detail}" if detail and not self._private else line

    def formatException(self, ei: _Fault) -> str:
        return "" if ei[1] is None else fault(ei[1], private=self._private)


class Json(logging.Formatter):
    """A JSON object per line: time (seconds since 1970), level, logger, message; job, detail and exception if any."""

    def __init__(self, *, private: bool) -> None:
        super().__init__()
        self._private = private

    def format(self, record: logging.LogRecord) -> str:
        body: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in ("job", "detail"):
            if getattr(record, name, "") and not (name == "detail" and self._private):
                body[name] = getattr(record, name)
        if record.exc_info and record.exc_info[1] is not None:
            body["exception"] = fault(record.exc_info[1], private=self._private)
        return json.dumps(body, ensure_ascii=False)


def prepare_logging(places: Folders, settings: LogSettings) -> None:
    """Log to daemon.log and, where somebody sits at a terminal, to standard error."""
    formatter = (Json if settings.format == "json" else Lines)(private=settings.private)
    handlers: list[logging.Handler] = []
    with contextlib.suppress(OSError):
        places.log.mkdir(parents=True, exist_ok=True, mode=0o700)
        handlers.append(
            logging.handlers.RotatingFileHandler(
                places.log / "daemon.log", maxBytes=LARGEST, backupCount=4, encoding="utf-8"
            )
        )
    if sys.stderr is not None and sys.stderr.isatty():
        handlers.append(logging.StreamHandler())
    for handler in handlers:
        handler.setFormatter(formatter)
    logging.basicConfig(level=settings.level.upper(), handlers=handlers or [logging.NullHandler()], force=True)
