"""Typed errors. Every message says what happened, on what, and what to do next.

`code` is the word that the daemon's protocol uses for the error, `exit_code` what the command line returns.
"""

from __future__ import annotations

from typing import Any


class VattError(Exception):
    """Base of all errors that are told to the user. `details` holds the values that the message speaks of."""

    code = "internal"
    exit_code = 1
    retryable = False

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class BadRequest(VattError):
    """A value of the request is missing, of the wrong type or out of range."""

    code = "bad_request"
    exit_code = 2


class InputNotVisible(VattError):
    """The named file does not exist, is no file, or cannot be seen from where the daemon runs."""

    code = "input_not_visible"
    exit_code = 3


class ForbiddenPath(VattError):
    """The path may not be read or written (permission, or outside the configured roots)."""

    code = "forbidden_path"
    exit_code = 3


class BadMedia(VattError):
    """The file is there but holds no picture that can be decoded."""

    code = "bad_media"
    exit_code = 4


class LimitsExceeded(VattError):
    """The request is larger than the settings allow."""

    code = "limits_exceeded"
    exit_code = 4


class DiskFull(VattError):
    """There is no room for what was to be written; the same request may succeed once there is."""

    code = "disk_full"
    exit_code = 5
    retryable = True


class OutOfMemory(VattError):
    """The model or the work does not fit into the memory of its device."""

    code = "out_of_memory"
    exit_code = 5


class Cancelled(VattError):
    """Somebody cancelled the work; raised between two steps, nothing is left half-written."""

    code = "cancelled"
    exit_code = 130


class NotFound(VattError):
    """No such model, job or take."""

    code = "not_found"
    exit_code = 3


class BadModel(VattError):
    """A model folder or weight file is incomplete, of another family or size, or damaged."""

    code = "bad_model"
    exit_code = 6
