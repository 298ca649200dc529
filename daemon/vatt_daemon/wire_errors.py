"""The error map of the protocol for anything that was raised."""

from __future__ import annotations

import logging
from typing import Any

from vatt_client.errors import ClientError

from vatt_core.errors import VattError

log = logging.getLogger(__name__)


def error_map(error: Exception) -> dict[str, Any]:
    """code, message, retryable, retry_after, details. What nobody foresaw is logged and becomes `internal`."""
    if isinstance(error, ClientError):
        return error.to_wire()
    if isinstance(error, VattError):
        return {
            "code": error.code,
            "message": error.message,
            "retryable": error.retryable,
            "retry_after": None,
            "details": {
                key: value if isinstance(value, str | int | float | bool | None) else str(value)
                for key, value in error.details.items()
            },
        }
    log.error("internal error", exc_info=error)
    return {
        "code": "internal",
        "message": f"The daemon could not do this ({type(error).__name__}: {error}). Its log says more.",
        "retryable": False,
        "retry_after": None,
        "details": {},
    }


def error_body(error: Exception) -> dict[str, Any]:
    """The map of an error answer."""
    return {"type": "error", "error": error_map(error)}
