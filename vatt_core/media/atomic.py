"""Files appear complete or not at all."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vatt_core.errors import BadRequest, DiskFull, ForbiddenPath, VattError

if TYPE_CHECKING:  # the daemon's front writes files too, and loads no media library
    from vatt_core.media.opening import PathLike

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def writing_error(path: PathLike, error: OSError) -> VattError:
    """The typed error for a failed write to `path`."""
    if error.errno in _FULL:
        return DiskFull(f"There is no space left to write {path}. Free some, or choose another output folder.")
    if error.errno in _FORBIDDEN:
        return ForbiddenPath(f"{path} may not be written. Choose another output folder, or change its rights.")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return BadRequest(f"The folder of {path} does not exist. Create it or choose another output folder.")
    if error.errno == errno.EISDIR:
        return BadRequest(f"{path} is a folder. Name a file in it.")
    return BadRequest(f"{path} cannot be written: {error.strerror or error}. Choose another output file.")


@contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Yield an empty temporary file beside `path`; once the block ends well it takes the name `path`.

    The file and its folder reach the disk before the name does. Where the block or the disk fails, the temporary file
    goes and whatever had the name stays. Raises DiskFull, ForbiddenPath, BadRequest.
    """
    target = Path(path).expanduser().absolute()
    temporary = target.with_name(f".vatt-{uuid.uuid4().hex[:12]}.part")
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "Is a directory")
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
    except OSError as error:
        raise writing_error(path, error) from error


def _sync_folder(folder: Path) -> None:
    # Not every system lets a folder be opened; the file itself is on the disk by now.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: PathLike, data: bytes | memoryview) -> Path:
    """Write a whole file. Returns its absolute path; raises what `replacing` raises."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(data)
    return Path(path).expanduser().absolute()
