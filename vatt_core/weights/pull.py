"""The parts of a model, fetched into the downloads folder: licences first, then room, then files, with receipts."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from vatt_core.errors import BadRequest, VattError
from vatt_core.media.atomic import write_bytes, writing_error
from vatt_core.weights.download import DownloadFailed, Fetched, Progress, WrongFile, check, fetch, new_client
from vatt_core.weights.registry import Licence, ModelEntry, Part, downloads_folder, find_licence, find_part, licences_of
from vatt_core.weights.space import need_space

Report = Callable[[str], None]
Show = Callable[[str, int, int | None], None]

_RECEIPTS = "receipts.json"
_HUB = re.compile(r"^hf:(?P<repo>[^/]+/[^/@]+)(?:@(?P<revision>[^/]+))?$")


class LicenceNotAccepted(BadRequest):
    """Weights whose terms the user has not accepted yet."""


def unaccepted(entry: ModelEntry, accepted: Collection[str]) -> list[Licence]:
    """Licences that must be accepted and were not, now or at an earlier pull."""
    known = {*accepted, *_receipts().get("accepted", ())}
    return [licence for licence in licences_of(entry) if licence.must_accept and licence.name not in known]


def accept(names: Collection[str]) -> None:
    """Remember that the user accepted these licences. Raises BadRequest, and remembers nothing, for one that is not known."""
    for name in names:
        find_licence(name)
    receipts = _receipts()
    receipts["accepted"] = sorted({*receipts.get("accepted", ()), *names})
    _save(receipts)


def pull_parts(
    entry: ModelEntry, *, report: Report = lambda line: None, show: Show = lambda name, done, total: None
) -> list[Path]:
    """Fetch what is not there yet, check it, and return the files of all parts.

    report: called with a line per part; show: with (file, bytes so far, bytes in all or None). Raises LicenceNotAccepted,
    DownloadFailed, WrongFile, DiskFull, ForbiddenPath.
    """
    if not entry.parts:
        raise BadRequest(f"The model {entry.name} is not made from parts that could be fetched.", name=entry.name)
    missing = unaccepted(entry, ())
    if missing:
        terms = "; ".join(f"{licence.name}: {licence.title}, {licence.url}" for licence in missing)
        flags = " ".join(f"--accept {licence.name}" for licence in missing)
        raise LicenceNotAccepted(
            f"{entry.name} has weights under terms that you must accept first ({terms}). Read them and add {flags}."
        )
    return [path for name in entry.parts for path in pull_part(find_part(name), report=report, show=show)]


def pull_part(part: Part, *, report: Report, show: Show) -> list[Path]:
    """One part: from its first source that works. Its own file first, then those beside it."""
    folder = downloads_folder() / part.name
    paths = [folder / name for name in (part.file, *part.beside)]
    receipts = _receipts()
    if all(_is_received(path, receipts) for path in paths):
        report(f"{part.file} is here already")
        return paths
    failures: list[VattError] = []
    for source in part.sources:
        report(f"fetching {part.file} ({part.title})")
        try:
            for path in paths:
                if not _is_received(path, receipts):
                    _receive(part, source, path, receipts, report, show)
            return paths
        except (DownloadFailed, WrongFile) as error:
            failures.append(error)
    raise failures[0]


def _receive(part: Part, source: str, path: Path, receipts: dict[str, Any], report: Report, show: Show) -> None:
    before = receipts["files"].get(_key(path), {})
    own = path.name == part.file
    size = (part.size if own else None) or before.get("size")
    digest = (part.sha256 if own else None) or before.get("sha256")

    def progress(done: int, total: int | None) -> None:
        show(path.name, done, total)

    if hub := _HUB.match(source):
        fetched = _from_hub(hub["repo"], hub["revision"], path, size, digest)
    else:
        url = source if own else source.rsplit("/", 1)[0] + "/" + path.name
        with new_client() as client:
            fetched = fetch(url, path, size=size, sha256=digest, progress=progress, client=client)
    known = "as the registry says" if own and part.sha256 else "as at first use" if digest else None
    report(f"{path.name}: SHA-256 {fetched.sha256[:16]}…, {known or 'unknown until now; written down for next time'}")
    receipts["files"][_key(path)] = {
        "size": fetched.size, "sha256": fetched.sha256, "source": source,
        "fetched": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip
    _save(receipts)


def _from_hub(repo: str, revision: str | None, path: Path, size: int | None, digest: str | None) -> Fetched:
    """A file of the Hugging Face hub, by the library that knows tokens, mirrors, proxies and how to go on."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        if not path.exists():
            told = huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repo, path.name, revision=revision))
            need_space(path.parent, told.size or 0, path.name)
        found = Path(huggingface_hub.hf_hub_download(repo, path.name, revision=revision, local_dir=path.parent))
        size_now = found.stat().st_size
        with found.open("rb") as file:
            digest_now = hashlib.file_digest(file, "sha256").hexdigest()
    except GatedRepoError as error:
        raise DownloadFailed(
            f"{repo} wants its terms accepted: open https://huggingface.co/{repo}, accept them, and log in with 'hf auth login'."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise DownloadFailed(
            f"{path.name} could not be fetched from {repo} of the Hugging Face hub ({type(error).__name__}). Check the "
            "connection and the proxy, or fetch the file yourself and use 'vatt models import'.",
            repo=repo,
        ) from error
    except OSError as error:
        raise writing_error(path, error) from error
    check(path.name, size_now, digest_now, size, digest, lambda: path.unlink(missing_ok=True))
    return Fetched(path, size_now, digest_now, f"hf:{repo}")


def _key(path: Path) -> str:
    return path.relative_to(downloads_folder()).as_posix()


def _is_received(path: Path, receipts: dict[str, Any]) -> bool:
    entry = receipts["files"].get(_key(path))
    return entry is not None and path.is_file() and path.stat().st_size == entry.get("size")


def _receipts() -> dict[str, Any]:
    path = downloads_folder() / _RECEIPTS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {
            "files": {str(key): dict(entry) for key, entry in found["files"].items()},
            "accepted": [str(name) for name in found.get("accepted", ())],
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {"files": {}, "accepted": []}


def _save(receipts: dict[str, Any]) -> None:
    path = downloads_folder() / _RECEIPTS
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_error(path, error) from error
    write_bytes(path, (json.dumps(receipts, indent=1) + "\n").encode())


__all__ = ["LicenceNotAccepted", "Progress", "accept", "pull_part", "pull_parts", "unaccepted"]
