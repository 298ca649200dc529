"""The parts of a model, fetched into the downloads folder: licences first, then room, then files, with receipts.

Receipts, of files and of accepted licences, lie beside that folder and stay when it is removed.
"""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vatt_core.errors import BadRequest, VattError
from vatt_core.media.atomic import write_bytes, writing_error
from vatt_core.weights.download import DownloadFailed, Fetched, WrongFile, check, fetch, new_client, unfinished
from vatt_core.weights.registry import (
    HUB_SOURCE,
    Licence,
    ModelEntry,
    Part,
    data_folder,
    downloads_folder,
    find_licence,
    find_part,
    licences_of,
)
from vatt_core.weights.space import need_space

Report = Callable[[str], None]
Show = Callable[[str, int, int | None], None]


class LicenceNotAccepted(BadRequest):
    """Weights whose terms the user has not accepted yet."""


def unaccepted(entry: ModelEntry, accepted: Collection[str]) -> list[Licence]:
    """Licences that must be accepted and were not, now or at an earlier pull."""
    known = {*accepted, *_receipts()["accepted"]}
    return [licence for licence in licences_of(entry) if licence.must_accept and licence.name not in known]


def accept(names: Collection[str]) -> None:
    """Remember that the user accepted these licences. Raises BadRequest, and remembers nothing, for one that is not known."""
    for name in names:
        find_licence(name)
    with _changing_receipts() as receipts:
        receipts["accepted"] = sorted({*receipts["accepted"], *names})


def pull_parts(
    entry: ModelEntry, *, report: Report = lambda line: None, show: Show = lambda name, done, total: None
) -> list[Path]:
    """Fetch what is not there yet, check it, and return the files of all parts.

    report: called with a line per part; show: with (file, bytes so far, bytes in all or None). Raises LicenceNotAccepted,
    DownloadFailed, WrongFile, DiskFull (before anything is fetched when the known sizes do not fit), ForbiddenPath.
    """
    if not entry.parts:
        raise BadRequest(
            f"The model {entry.name} is not made from parts that could be fetched. Name one of the official models, see "
            "'vatt models list'.",
            name=entry.name,
        )
    missing = unaccepted(entry, ())
    if missing:
        terms = "; ".join(f"{licence.name}: {licence.title}, {licence.url}" for licence in missing)
        flags = " ".join(f"--accept {licence.name}" for licence in missing)
        raise LicenceNotAccepted(
            f"{entry.name} has weights under terms that you must accept first ({terms}). Read them and add {flags}."
        )
    parts = [find_part(name) for name in entry.parts]
    try:
        to_come = sum(_to_come(part, path) for part in parts for path in _files(part))
        if to_come:
            need_space(downloads_folder(), to_come, f"What is still to be fetched for {entry.name}")
    except OSError as error:
        raise writing_error(downloads_folder(), error) from error
    return [path for part in parts for path in pull_part(part, report=report, show=show)]


def pull_part(part: Part, *, report: Report, show: Show) -> list[Path]:
    """One part: from its first source that works. Its own file first, then those beside it."""
    paths = _files(part)
    with _alone(
        _lock(f"part.{part.name}"), lambda: report(f"another command is fetching {part.file}; waiting for its end")
    ):
        try:
            if all(map(_is_received, paths)):
                report(f"{part.file} is here already")
            else:
                _from_a_source(part, paths, report, show)
        except OSError as error:
            raise writing_error(paths[0].parent, error) from error
    return paths


def _from_a_source(part: Part, paths: list[Path], report: Report, show: Show) -> None:
    failures: list[VattError] = []
    for source in part.sources:
        report(f"fetching {part.file} ({part.title})")
        try:
            for path in paths:
                if not _is_received(path):
                    _receive(part, source, path, report, show)
            return
        except (DownloadFailed, WrongFile) as error:
            failures.append(error)
    raise failures[0]


def throw_away_damaged(file: Path) -> bool:
    """Remove a fetched file that cannot be used, and its receipt, when its content is spoilt. Returns whether it was.

    An archive, as weights of torch are too, is read against its checksums; any other file is taken for spoilt.
    """
    with _alone(_lock(f"part.{file.parent.name}")):
        try:
            with _archive(file) as archive:
                if archive is not None and archive.testzip() is None:
                    return False
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
            pass
        except OSError:
            return False
        try:
            file.unlink()
        except OSError as error:
            raise writing_error(file, error) from error
        with _changing_receipts() as receipts:
            receipts["files"].pop(_key(file), None)
    return True


@contextmanager
def _archive(file: Path) -> Iterator[zipfile.ZipFile | None]:
    """The archive that a file is, by its name or its beginning; None for any other. Raises BadZipFile when it is cut short."""
    with file.open("rb") as content:
        if file.suffix.lower() != ".zip" and content.read(4) != b"PK\x03\x04":
            yield None
        else:
            with zipfile.ZipFile(content) as archive:
                yield archive


def _files(part: Part) -> list[Path]:
    return [downloads_folder() / part.name / name for name in (part.file, *part.beside)]


def _known(part: Part, path: Path) -> tuple[int | None, str | None]:
    """Size and hash that a file must have: as the registry says, else as at first use."""
    before = _receipts()["files"].get(_key(path), {})
    if path.name == part.file:
        return part.size or before.get("size"), part.sha256 or before.get("sha256")
    return before.get("size"), before.get("sha256")


def _to_come(part: Part, path: Path) -> int:
    """Bytes of a file that are still to be fetched, 0 where its size is not known."""
    size, _ = _known(part, path)
    if size is None or _is_received(path):
        return 0
    begun = unfinished(path)
    return max(size - (begun.stat().st_size if begun.is_file() else 0), 0)


def _receive(part: Part, source: str, path: Path, report: Report, show: Show) -> None:
    size, digest = _known(part, path)

    def progress(done: int, total: int | None) -> None:
        show(path.name, done, total)

    if hub := HUB_SOURCE.match(source):
        fetched = _from_hub(hub["repo"], hub["revision"], path, size, digest)
    else:
        url = source if path.name == part.file else source.rsplit("/", 1)[0] + "/" + path.name
        with new_client() as client:
            fetched = fetch(url, path, size=size, sha256=digest, progress=progress, client=client)
    try:
        with _archive(path):
            pass
    except (zipfile.BadZipFile, NotImplementedError) as error:
        path.unlink(missing_ok=True)
        raise WrongFile(
            f"{path.name} came from {source} as no whole zip archive ({str(error).rstrip('.')}); it was thrown away. Fetch it "
            "again; if it stays so, it is cut short there: fetch it elsewhere and use 'vatt models import'.",
            url=fetched.source,
        ) from error
    by_registry = path.name == part.file and part.sha256
    known = "as the registry says" if by_registry else "as at first use" if digest else None
    report(f"{path.name}: SHA-256 {fetched.sha256[:16]}…, {known or 'unknown until now; written down for next time'}")
    with _changing_receipts() as receipts:
        receipts["files"][_key(path)] = {
            "size": fetched.size, "sha256": fetched.sha256, "source": source,
            "fetched": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }  # fmt: skip


def _from_hub(repo: str, revision: str | None, path: Path, size: int | None, digest: str | None) -> Fetched:
    """A file of the Hugging Face hub, by the library that knows tokens, mirrors, proxies and how to go on."""
    import httpx2 as httpx
    import huggingface_hub
    from huggingface_hub import errors

    by_hand = "fetch the file yourself and use 'vatt models import'"
    try:
        if not path.exists():
            told = huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repo, path.name, revision=revision))
            need_space(path.parent, told.size or 0, path.name)
        found = Path(huggingface_hub.hf_hub_download(repo, path.name, revision=revision, local_dir=path.parent))
        size_now = found.stat().st_size
        with found.open("rb") as file:
            digest_now = hashlib.file_digest(file, "sha256").hexdigest()
    except errors.GatedRepoError as error:
        raise DownloadFailed(
            f"{repo} wants its terms accepted: open https://huggingface.co/{repo}, accept them, and log in with 'hf auth login'."
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise DownloadFailed(
            f"{path.name} was not fetched from {repo} of the Hugging Face hub, which HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE "
            f"keeps from the network. Unset it, or {by_hand}.",
            repo=repo,
        ) from error
    except (httpx.HTTPError, errors.LocalEntryNotFoundError, errors.HFValidationError) as error:
        raise DownloadFailed(
            f"{path.name} could not be fetched from {repo} of the Hugging Face hub ({type(error).__name__}). Check the "
            f"connection, the proxy and HF_ENDPOINT, or {by_hand}.",
            repo=repo,
        ) from error
    except OSError as error:
        raise writing_error(path, error) from error
    check(path.name, size_now, digest_now, size, digest, lambda: path.unlink(missing_ok=True))
    return Fetched(path, size_now, digest_now, f"hf:{repo}")


def _key(path: Path) -> str:
    return path.relative_to(downloads_folder()).as_posix()


def _is_received(path: Path) -> bool:
    entry = _receipts()["files"].get(_key(path))
    return entry is not None and path.is_file() and path.stat().st_size == entry.get("size")


def _receipts_file() -> Path:
    return data_folder() / "downloads.json"


def _receipts() -> dict[str, Any]:
    try:
        found = json.loads(_receipts_file().read_text(encoding="utf-8"))
        return {
            "files": {str(key): dict(entry) for key, entry in found["files"].items()},
            "accepted": [str(name) for name in found.get("accepted", ())],
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {"files": {}, "accepted": []}


@contextmanager
def _changing_receipts() -> Iterator[dict[str, Any]]:
    """The receipts, written when the block ends well. No other command changes them meanwhile."""
    with _alone(_lock("receipts")):
        receipts = _receipts()
        yield receipts
        write_bytes(_receipts_file(), (json.dumps(receipts, indent=1) + "\n").encode())


def _lock(name: str) -> Path:
    # Not in the downloads folder: who removes that must not remove a lock that somebody holds.
    return data_folder() / "locks" / f"{name}.lock"


@contextmanager
def _alone(file: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock `file`, which the system releases however the process ends. `waiting` is called when another has it."""
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            waiting()
            lock.acquire()
    except OSError as error:
        raise writing_error(file, error) from error
    try:
        yield
    finally:
        lock.release()


__all__ = ["LicenceNotAccepted", "accept", "pull_part", "pull_parts", "throw_away_damaged", "unaccepted"]
