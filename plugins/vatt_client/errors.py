"""What can go wrong, typed by the code that the protocol uses.

The daemon answers an error as a map {code, message, retryable, retry_after, details}; `from_wire` turns it into the
class of its code. The classes below `ConnectionProblem` are raised by the client itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """Base of all errors of the client. `message` says what happened and what to do; `details` holds its values."""

    code = "internal"
    exit_code = 1
    retryable = False

    def __init__(self, message: str, *, retry_after: float | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.details = details

    def to_wire(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
            "retry_after": self.retry_after,
            "details": self.details,
        }


class BadRequest(ClientError):
    """A field is missing, unknown, of the wrong type or out of range; `details["field"]` names it."""

    code = "bad_request"
    exit_code = 2


class UnsupportedVersion(ClientError):
    """Client and daemon speak different major versions of the protocol."""

    code = "unsupported_version"
    exit_code = 7


class Unauthorised(ClientError):
    """The daemon does not know this client's key, or is not the one whose key was expected."""

    code = "unauthorised"
    exit_code = 7


class ForbiddenPath(ClientError):
    code = "forbidden_path"
    exit_code = 3


class InputNotVisible(ClientError):
    """The clip does not exist where the daemon runs."""

    code = "input_not_visible"
    exit_code = 3


class BadMedia(ClientError):
    code = "bad_media"
    exit_code = 4


class LimitsExceeded(ClientError):
    code = "limits_exceeded"
    exit_code = 4


class Busy(ClientError):
    """The queue is full; try again after `retry_after` seconds."""

    code = "busy"
    exit_code = 5
    retryable = True


class OutOfMemory(ClientError):
    code = "out_of_memory"
    exit_code = 5


class DiskFull(ClientError):
    code = "disk_full"
    exit_code = 5
    retryable = True


class WorkerCrash(ClientError):
    """The model process died on this job each time that it was tried."""

    code = "worker_crash"
    exit_code = 6


class BadModel(ClientError):
    code = "bad_model"
    exit_code = 6


class Cancelled(ClientError):
    code = "cancelled"
    exit_code = 130


class NotFound(ClientError):
    code = "not_found"
    exit_code = 3


class Internal(ClientError):
    """A fault of the daemon itself; its log says more."""


class ConnectionProblem(ClientError):
    """Base of what the client finds out by itself about the connection."""

    exit_code = 7
    retryable = True


class DaemonNotRunning(ConnectionProblem):
    """There is no connection file, or the daemon that wrote it is gone."""

    code = "daemon_not_running"


class DaemonLost(ConnectionProblem):
    """The daemon stopped answering while a request was under way. Jobs that it acknowledged are kept."""

    code = "daemon_lost"


class DaemonTimeout(ConnectionProblem):
    """The daemon is there but did not answer, or the job did not end, within the time given."""

    code = "timeout"


class WrongKey(Unauthorised):
    """The encrypted handshake failed: the key of the connection file is not the daemon's, or not allowed in."""


_BY_CODE: dict[str, type[ClientError]] = {
    kind.code: kind
    for kind in (
        BadRequest,
        UnsupportedVersion,
        Unauthorised,
        ForbiddenPath,
        InputNotVisible,
        BadMedia,
        LimitsExceeded,
        Busy,
        OutOfMemory,
        DiskFull,
        WorkerCrash,
        BadModel,
        Cancelled,
        NotFound,
        Internal,
    )
}

CODES = tuple(_BY_CODE)
"""Every error code that a daemon may answer."""


def from_wire(error: Mapping[str, Any]) -> ClientError:
    """The typed error of an answer. A code that this client does not know becomes `Internal` with that code."""
    code = str(error.get("code", "internal"))
    details = {str(key): value for key, value in dict(error.get("details") or {}).items()}
    for reserved in ("message", "retry_after", "self"):
        details.pop(reserved, None)
    kind = _BY_CODE.get(code, Internal)
    found = kind(str(error.get("message", code)), retry_after=error.get("retry_after"), **details)
    if kind is Internal:
        found.code = code
    found.retryable = bool(error.get("retryable", kind.retryable))
    return found
