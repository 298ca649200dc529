"""Room on the disk, asked before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from vatt_core.errors import DiskFull

MARGIN = 256 << 20
"""Bytes that stay free for everything else."""


def need_space(folder: Path, size: int, what: str, *, cure: str = "set VATT_HOME to a folder on another disk") -> None:
    """Raise DiskFull when `size` bytes and a margin do not fit where `folder` lies or will lie. cure: what else helps than to
    free some."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < size + MARGIN:
        raise DiskFull(
            f"{what} needs {in_units(size)} and {in_units(MARGIN)} to spare; {existing} has {in_units(free)} free. Free "
            f"some, or {cure}.",
            needed=size,
            free=free,
        )


def in_units(size: float) -> str:
    """Bytes in the unit that a person would choose."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
