"""Is a model folder what it was when it was imported, and can it be loaded? Reads every byte, takes little memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from vatt_core.errors import BadModel
from vatt_core.model.configuration import ModelConfig
from vatt_core.model.folder import check_tensors, read_weights
from vatt_core.model.text import load_tokenizer
from vatt_core.weights.fingerprint import CONFIG_FILE, PART_NAMES, TOKENIZER_FOLDER, model_files, part_file
from vatt_core.weights.record import read_record


def verify_model(folder: Path, *, report: Callable[[str], None] = lambda line: None) -> bool:
    """Check files, hashes, names, shapes and numbers. Returns whether there were recorded hashes to compare with.

    Raises BadModel naming the file, and the tensor where it is one.
    """
    record = read_record(folder)
    for path in model_files(folder):
        name = path.relative_to(folder).as_posix()
        report(f"reading {name}")
        if record is not None:
            wanted = record["files"].get(name, {}).get("sha256")
            try:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise BadModel(
                    f"{path} cannot be read ({error.strerror or error}); correct that, or import the model again with --replace",
                    file=str(path),
                ) from error
            if found != wanted:
                raise BadModel(
                    f"{path} is not what was imported (SHA-256 {found[:16]}… instead of {str(wanted)[:16]}…); import the model "
                    "again with --replace",
                    file=str(path),
                )
    config = ModelConfig.load(folder / CONFIG_FILE)
    load_tokenizer(folder / TOKENIZER_FOLDER)
    for part in PART_NAMES:
        path = part_file(folder, part)
        tensors = read_weights(path)
        check_tensors(config, part, tensors, source=str(path))
        for key in list(tensors):
            value = tensors.pop(key)
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise BadModel(
                    f"{path}: {key} holds NaN or infinity; pull or import the model again", file=str(path), key=key
                )
    return record is not None
