"""What an import wrote down about a model folder: where it comes from and what its files must be. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vatt_core.errors import BadModel
from vatt_core.media.atomic import write_bytes

IMPORT_FILE = "import.json"


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Raises DiskFull, ForbiddenPath."""
    write_bytes(folder / IMPORT_FILE, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of an imported model, None for one that was not imported. Raises BadModel for a damaged record."""
    path = folder / IMPORT_FILE
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        dict(record["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadModel(f"{path} cannot be read ({error}); import the model again", file=str(path)) from error
    return dict(record)


def describe_file(path: Path, sha256: str) -> dict[str, Any]:
    """The entry of a file: its content, and the time that tells whether it was touched since."""
    found = path.stat()
    return {"size": found.st_size, "sha256": sha256, "modified": found.st_mtime_ns}


def recorded_hash(path: Path, record: dict[str, Any] | None, name: str) -> str | None:
    """The recorded SHA-256 of a file that was not touched since; None where it must be read."""
    entry = (record or {}).get("files", {}).get(name)
    if not isinstance(entry, dict):
        return None
    found = path.stat()
    same = entry.get("size") == found.st_size and entry.get("modified") == found.st_mtime_ns
    return str(entry["sha256"]) if same and entry.get("sha256") else None
