"""Manifests: the clips of a batch in a JSON Lines or CSV file, with the fields of `generate` (`in` and `out` for the range).

    {"path": "a.mp4", "in": 2, "out": "7/2", "prompt": "rain on a tin roof", "seed": 7, "takes": 2, "output": "sound"}

    path,in,out,prompt,seed,takes,output
    a.mp4,2,3.5,rain on a tin roof,7,2,sound

Relative paths are meant from the manifest's folder. What one item says wrongly is found when the batch is done, and fails
that item alone; a file that cannot be read as a whole is refused here.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vatt_client import fields
from vatt_client.errors import BadRequest, ForbiddenPath, InputNotVisible
from vatt_client.messages import ITEM_ALIASES, LARGEST_BATCH, Generate
from vatt_client.transfers import DOWNLOAD, UPLOAD

LARGEST_FILE = 64 << 20
"""Bytes; more than ten thousand lines of this kind have."""
TABLES = {".csv": ",", ".tsv": "\t"}
_PATHS = ("path", "output", "base", "reference")
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


def read_manifest(path: Path) -> list[dict[str, Any]]:
    """The items of a manifest, in order. Raises InputNotVisible, ForbiddenPath, and BadRequest with the line."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except PermissionError:
        raise ForbiddenPath(f"The manifest {path} may not be read. Give yourself the right to read it.") from None
    except OSError as error:
        raise InputNotVisible(f"The manifest {path} cannot be read ({error.strerror}): check the name.") from None
    if len(data) > LARGEST_FILE:
        raise BadRequest(f"The manifest {path} is larger than {LARGEST_FILE >> 20} MiB: split it.", field="manifest")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadRequest(f"The manifest {path} is no UTF-8 text: save it as UTF-8.", field="manifest") from None
    separator = TABLES.get(path.suffix.lower())
    items = _json_lines(text, path) if separator is None else _table(text, path, separator)
    if not 1 <= len(items) <= LARGEST_BATCH:
        raise BadRequest(
            f"The manifest {path} names {len(items)} clips: it must be 1 to {LARGEST_BATCH}.", field="manifest"
        )
    folder = path.absolute().parent
    return [located(item, folder) for item in items]


def located(item: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """An item whose relative paths are meant from `folder`, with absolute ones."""
    found = dict(item)
    for name in _PATHS:
        value = found.get(name)
        if isinstance(value, str | Path) and str(value) and not str(value).startswith((UPLOAD, DOWNLOAD)):
            found[name] = str(folder / Path(value).expanduser())
    return found


def _json_lines(text: str, path: Path) -> list[dict[str, Any]]:
    items = []
    # Not splitlines: texts in JSON may hold the other characters that end a line for Python.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError):
            item = None
        if not isinstance(item, dict):
            raise BadRequest(
                f"Line {number} of {path} is no JSON object: a manifest has one per line (or is a .csv file).",
                field="manifest",
                line=number,
            )
        items.append(item)
    return items


def _table(text: str, path: Path, separator: str) -> list[dict[str, Any]]:
    header = text.split("\n", 1)[0]
    if separator == "," and ";" in header and "," not in header:
        separator = ";"  # as spreadsheets write it where the comma is the decimal sign
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    items: list[dict[str, Any]] = []
    try:
        names = [name.strip() for name in next(rows, [])]
        _check_header(names, path)
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(names):
                raise BadRequest(
                    f"Line {rows.line_num} of {path} has {len(row)} cells, its header {len(names)}.",
                    field="manifest",
                    line=rows.line_num,
                )
            cells = zip(names, row, strict=True)
            items.append({name: _value(name, cell.strip()) for name, cell in cells if cell.strip()})
    except csv.Error as error:
        raise BadRequest(
            f"Line {rows.line_num} of {path} is no CSV ({error}).", field="manifest", line=rows.line_num
        ) from None
    return items


def _check_header(names: list[str], path: Path) -> None:
    known = [*fields.rules(Generate), *ITEM_ALIASES]
    for name in names:
        if name not in known or names.count(name) > 1:
            raise BadRequest(
                f"The header of {path} has the column '{name}' twice, or there is none of that name. "
                f"There are: {', '.join(known)}.",
                field=name,
            )


def _value(name: str, cell: str) -> Any:
    """A cell as its field wants it; what cannot be read so stays a text, and is refused by the field's rule."""
    rule, _ = fields.rules(Generate)[ITEM_ALIASES.get(name, name)]
    try:
        if name == "loudness" and cell.lower() in ("off", "none"):
            return None
        if rule.kind == "integer":
            return int(cell)
        if rule.kind == "number":
            return float(cell)
        if rule.kind == "flag" and cell.lower() in (*_TRUE, *_FALSE):
            return cell.lower() in _TRUE
        if rule.kind == "time map":
            return json.loads(cell)
    except (ValueError, RecursionError):
        pass
    return cell
