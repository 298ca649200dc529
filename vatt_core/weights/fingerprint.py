"""Which weights are these: a hash of a model folder. Reads files only; no torch."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from vatt_core.errors import BadModel
from vatt_core.weights.record import read_record, recorded_hash

CONFIG_FILE = "config.json"
TOKENIZER_FOLDER = "tokenizer"
PART_NAMES = ("vision", "converter", "audio_transformer", "codec")


def part_file(folder: Path, name: str) -> Path:
    """Where a part's weights lie. Raises ValueError for a name that is no part."""
    if name not in PART_NAMES:
        raise ValueError(f"a model has the parts {', '.join(PART_NAMES)}, not {name!r}")
    return folder / f"{name}.safetensors"


def model_files(folder: Path) -> list[Path]:
    """Every file that makes the model what it is, in a fixed order. Raises BadModel naming the first missing one."""
    needed = [folder / CONFIG_FILE, *(part_file(folder, name) for name in PART_NAMES)]
    for path in needed:
        if not path.is_file():
            raise BadModel(f"the model folder {folder} has no {path.name}; pull or import the model again")
    words = sorted(path for path in (folder / TOKENIZER_FOLDER).glob("*") if path.is_file())
    if not words:
        raise BadModel(f"the model folder {folder} has no {TOKENIZER_FOLDER}; pull or import the model again")
    return needed + words


@lru_cache(maxsize=256)
def _file_hash(path: Path, modified: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hash(path: Path) -> str:
    """sha256 (hex) of a file, read again only when its time or size changed. Raises OSError."""
    found = path.stat()
    return _file_hash(path.resolve(), found.st_mtime_ns, found.st_size)


def model_hash(folder: Path) -> str:
    """sha256 (hex) over configuration, weights and tokenizer. A file is read only when its time or size has changed
    since it was read or imported.

    Two folders with the same content have the same hash, wherever they lie. Raises BadModel when a part is missing.
    """
    whole = hashlib.sha256()
    files = model_files(folder)
    record = read_record(folder)
    for path in files:
        name = path.relative_to(folder).as_posix()
        try:
            digest = recorded_hash(path, record, name) or file_hash(path)
        except OSError as error:
            raise BadModel(f"{path} cannot be read ({error.strerror}); pull or import the model again") from error
        whole.update(f"{name} {digest}\n".encode())
    return whole.hexdigest()
