"""Where an import works, how its model gets its name at once, and what is done with what a killed one left."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

import psutil

from vatt_core.media.atomic import writing_error


def work_folder(folder: Path) -> Path:
    """A hidden name beside the model folder that says which process works there."""
    return folder.with_name(f".{folder.name}.{os.getpid()}.{uuid.uuid4().hex[:12]}")


def put(made: Path, folder: Path) -> None:
    """Give a finished folder its name; what had the name goes once the new one stands. Raises DiskFull, ForbiddenPath."""
    old = made.parent / "old"
    try:
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(made, folder)
        except OSError:
            if old.exists():
                os.replace(old, folder)
            raise
    except OSError as error:
        raise writing_error(folder, error) from error


def clear_up(folder: Path) -> None:
    """Remove what imports of this model left that were killed; a model that one of them had put aside comes back.

    Raises ForbiddenPath, BadRequest when it cannot.
    """
    for work in folder.parent.glob(f".{folder.name}.*.*"):
        # The model 'own.2' has works that look alike.
        maker, _, rest = work.name.removeprefix(f".{folder.name}.").partition(".")
        if maker.isdigit() and "." not in rest and not psutil.pid_exists(int(maker)):
            if (work / "old").exists() and not folder.exists():
                try:
                    os.replace(work / "old", folder)
                except OSError as error:
                    raise writing_error(folder, error) from error
            shutil.rmtree(work, ignore_errors=True)
