"""Which paths and models a job may name. Checked before a job is accepted, so that a bad one is refused in a word at once."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from vatt_client import messages
from vatt_client.transfers import DOWNLOAD, UPLOAD

from vatt_core.errors import BadRequest, ForbiddenPath, InputNotVisible
from vatt_core.weights import find_entry, find_model
from vatt_daemon.clients import LOCAL, Caller
from vatt_daemon.places import INPUTS
from vatt_daemon.settings import PathSettings
from vatt_daemon.uploads import Uploads

HERE = Caller(LOCAL, remote=False)


def check_submission(
    message: messages.Submission,
    settings: PathSettings,
    *,
    passed: set[str] | None = None,
    caller: Caller = HERE,
    uploads: Uploads | None = None,
) -> None:
    """Raise the typed error of the first thing named by a submission that cannot be used. Touches the file system.

    `passed` holds what was found good already, so that a group of submissions about one clip looks at it once. A remote
    caller may name uploads only, and no folder.
    """
    passed = set() if passed is None else passed
    if f"model {message.model}" not in passed:
        check_model(message.model)
        passed.add(f"model {message.model}")
    for field in INPUTS:
        named = getattr(message, field, None)
        if named is None:
            continue
        if named.startswith(UPLOAD):
            if uploads is not None:
                uploads.check(named, caller.name)
        elif caller.remote:
            raise _from_afar(field, "upload the file, and name it as 'upload:' and its id", named)
        elif f"clip {named}" not in passed:
            check_input(named, settings.input_roots, field=field)
            passed.add(f"clip {named}")
    if not isinstance(message, messages.Generate) or message.output == DOWNLOAD:
        return
    if caller.remote:
        raise _from_afar("output", f"name '{DOWNLOAD}', and fetch the files", message.output)
    if f"folder {message.output}" not in passed:
        check_output(message.output, settings.output_roots)
        passed.add(f"folder {message.output}")


def _from_afar(field: str, cure: str, path: str) -> ForbiddenPath:
    return ForbiddenPath(
        f"A client on another machine names no paths of the daemon's in '{field}': {cure}.", field=field, path=path
    )


def check_model(name: str) -> None:
    """Raise NotFound for a model that is not known, or known and not installed. Clients name models, never folders."""
    entry = find_entry(name)
    if not entry.installed and not entry.embedded:
        find_model(name)


def _absolute(text: str, field: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise BadRequest(f"'{field}' must be an absolute path, not '{text}'.", field=field)
    return path


def _inside(path: Path, roots: Sequence[str]) -> bool:
    return not roots or any(path.is_relative_to(Path(root).expanduser().resolve()) for root in roots)


def check_manifest(text: str, roots: Sequence[str]) -> Path:
    """The resolved path of a manifest."""
    return check_input(text, roots, field="manifest", kind="manifest")


def check_report(text: str, roots: Sequence[str]) -> Path:
    """The path of a report: its folder exists or can be made, and it is no folder itself."""
    path = _absolute(text, "report")
    try:
        if path.is_dir():
            raise ForbiddenPath(f"The report {path} is a folder: name a file in it.", path=text)
    except OSError as error:
        raise ForbiddenPath(
            f"The report {path} cannot be reached ({error.strerror}): name another file.", path=text
        ) from error
    return check_output(str(path.parent), roots) / path.name


def check_input(text: str, roots: Sequence[str], *, field: str = "path", kind: str = "video file") -> Path:
    """The resolved path of a clip. Links and '..' are resolved before roots are compared."""
    path = _absolute(text, field)
    try:
        resolved = path.resolve(strict=True)
        mode = resolved.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise InputNotVisible(f"There is no file {path}: check the name.", path=text) from None
    except PermissionError:
        raise ForbiddenPath(
            f"The file {path} may not be read: change its permissions or those of its folder.", path=text
        ) from None
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error  # the whole error would name the path again
        raise InputNotVisible(
            f"The file {path} cannot be reached ({reason}): check its name and its disk.", path=text
        ) from error
    if not _inside(resolved, roots):
        raise ForbiddenPath(
            f"The file {path} lies outside the folders that the daemon may read (paths.input_roots).", path=text
        )
    if stat.S_ISDIR(mode):
        raise InputNotVisible(f"{path} is a folder: name a {kind}.", path=text)
    if not stat.S_ISREG(mode):
        raise ForbiddenPath(f"{path} is no regular file: name a {kind}.", path=text)
    if not os.access(resolved, os.R_OK):
        raise ForbiddenPath(f"The file {path} may not be read: change its permissions.", path=text)
    return resolved


def check_output(text: str, roots: Sequence[str]) -> Path:
    """The resolved output folder: it exists and can be written to, or can be made."""
    path = _absolute(text, "output")
    try:
        resolved = path.resolve()
        if not _inside(resolved, roots):
            raise ForbiddenPath(
                f"The folder {path} lies outside the folders that the daemon may write to (paths.output_roots).",
                path=text,
            )
        existing = next(folder for folder in (resolved, *resolved.parents) if folder.exists())
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ForbiddenPath(
            f"The output folder {path} cannot be reached ({reason}): choose another.", path=text
        ) from error
    if not existing.is_dir():
        raise ForbiddenPath(
            f"The output folder {path} cannot be made: {existing} is a file. Choose another folder.", path=text
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ForbiddenPath(f"The output folder {path} cannot be written to: choose another one.", path=text)
    return resolved
