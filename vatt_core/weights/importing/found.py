"""Which of the files that a user gives is which part: by name and place, then by what is inside.

Archives are read as folders; only what is needed is unpacked.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from vatt_core.errors import BadModel, BadRequest, InputNotVisible
from vatt_core.media.atomic import writing_error
from vatt_core.weights.space import need_space

Role = Literal["base", "delta", "checkpoint", "codebooks", "word_embeds", "codec", "vision"]
ROLES: tuple[Role, ...] = ("base", "delta", "checkpoint", "codebooks", "word_embeds", "codec", "vision")

_OFFICIAL = {"codebooks": "meta_pretrain_vgg_encodec_embed.pt", "word_embeds": "word_embeds.pth"}
_SMALL = 1 << 20


@dataclass(frozen=True)
class Place:
    """A file, or a member of an archive."""

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        return PurePosixPath(self.member).name if self.member else self.path.name

    @property
    def folder(self) -> tuple[Path, str]:
        """What is equal for files that lie side by side."""
        if self.member is None:
            return self.path.parent, ""
        return self.path, str(PurePosixPath(self.member).parent)

    @property
    def size(self) -> int:
        if self.member is None:
            return self.path.stat().st_size
        with _opened(self.path) as archive:
            return archive.getinfo(self.member).file_size

    def __str__(self) -> str:
        return f"{self.path}" if self.member is None else f"{self.path}: {self.member}"


@dataclass
class Files:
    """All files given, and what can be said of them without reading weights. damaged: what is wrong with archives that lie
    in a given folder and cannot be read; perhaps no part needs them."""

    places: list[Place]
    named: dict[Role, Place] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    def candidates(self, role: Role) -> list[Place]:
        """The files that may be `role`; for "base" the config.json of each folder."""
        if role in self.named:
            return [self.named[role]]
        found = [place for place in self.places if self._is(place, role)]
        official = [place for place in found if place.name == _OFFICIAL.get(role)]
        return official or found

    def beside(self, place: Place) -> list[Place]:
        return [other for other in self.places if other.folder == place.folder]

    def _is(self, place: Place, role: Role) -> bool:
        name = place.name.lower()
        if role == "checkpoint":
            return name.endswith(".ckpt")
        if role == "codec":
            return name == "compression_state_dict.bin"
        if role == "word_embeds":
            return name.endswith(".pth") and "embed" in name
        if role == "codebooks":
            return name.endswith(".pt") and ("embed" in name or "codebook" in name or "quantizer" in name)
        neighbours = {other.name for other in self.beside(place)}
        if role == "vision":
            weights = name.endswith((".bin", ".pt", ".safetensors"))
            return weights and (name.startswith("open_clip") or "eva02" in name or (
                "open_clip_config.json" in neighbours and "model" in name and "compression" not in name))  # fmt: skip
        if role == "base":
            return name == "config.json" and self.model_type(place) in ("llama", "gemma")
        return (
            name in ("pytorch_model.bin", "adapter_model.bin", "adapter_model.safetensors", "model.safetensors")
            and "config.json" not in neighbours
            and "open_clip_config.json" not in neighbours
        )

    @staticmethod
    def model_type(place: Place) -> str | None:
        try:
            found = json.loads(read_small(place)).get("model_type")
        except (ValueError, AttributeError):
            return None
        return found if isinstance(found, str) else None


def read_small(place: Place) -> bytes:
    """The whole of a small file. Raises BadModel for a large one."""
    if place.size > _SMALL:
        raise BadModel(f"{place} is too large for a file of settings; check what it is", file=str(place))
    if place.member is None:
        return place.path.read_bytes()
    with _opened(place.path) as archive:
        return archive.read(place.member)


def look_at(paths: Iterable[Path], named: Mapping[str, Path] | None = None) -> Files:
    """List files, folders and archives. `named` says of a file (or, for the base, of a folder) what it is; one in an archive
    is written ARCHIVE:MEMBER.

    Raises InputNotVisible for a path that is not there, BadModel for a truncated archive that is given by its own name,
    BadRequest for an unknown role.
    """
    files = Files([])
    for path in paths:
        files.places += _listed(path.expanduser().absolute(), files.damaged)
    for role, path in (named or {}).items():
        known: Role | None = next((one for one in ROLES if one == role), None)
        if known is None:
            raise BadRequest(f"There is no part '{role}'. There are: {', '.join(ROLES)}.", field="part")
        path, member = _split(path.expanduser().absolute())
        places = _listed(path, files.damaged)
        files.named[known] = _named(known, path, member, places)
        files.places += [place for place in places if place not in files.places]
    return files


def _split(path: Path) -> tuple[Path, str]:
    """A path and "", or, where there is none of that name, the archive and the member of ARCHIVE:MEMBER."""
    if not path.exists():
        for colon in re.finditer(":", str(path)):
            archive = Path(str(path)[: colon.start()])
            if archive.suffix.lower() == ".zip" and archive.is_file():
                return archive, PurePosixPath(str(path)[colon.end() :].strip().replace("\\", "/")).as_posix()
    return path, ""


def _named(role: Role, path: Path, member: str, places: list[Place]) -> Place:
    """The one of `places`, which lie at `path`, that is meant to be `role`. Raises BadRequest."""
    packed = path.suffix.lower() == ".zip"
    if not packed and not path.is_dir():
        return places[0]
    within = [place for place in places if not member or f"{place.member}/".startswith(f"{member}/")]
    exact = [place for place in within if member and place.member == member]
    found = exact or Files(within).candidates(role)
    if len(found) == 1:
        return found[0]
    form = "ARCHIVE:MEMBER" if packed else "FILE"
    shown = [place.member or str(place) for place in found or within or places]
    raise BadRequest(
        f"{path} holds {len(found)} files that can be the {role}{f' at {member}' if member else ''}. Name one with --part "
        f"{role}={form}; there are: {', '.join(shown[:8])}{', …' if len(shown) > 8 else ''}.",
        field="part",
    )


def _listed(path: Path, damaged: list[str]) -> list[Place]:
    """What lies at a path. What is wrong with an archive in a folder is added to `damaged`."""
    if path.is_dir():
        places = []
        for inner in sorted(path.rglob("*")):
            if not inner.is_file() or any(part.startswith(".") for part in inner.relative_to(path).parts):
                continue
            try:
                places += _members(inner) if inner.suffix.lower() == ".zip" else [Place(inner)]
            except BadModel as error:
                damaged.append(error.message)
        return places
    if not path.is_file():
        raise InputNotVisible(f"There is no file or folder {path}. Name an archive or a folder of the release.")
    return _members(path) if path.suffix.lower() == ".zip" else [Place(path)]


def _members(path: Path) -> list[Place]:
    with _opened(path) as archive:
        return [
            Place(path, info.filename)
            for info in archive.infolist()
            if not info.is_dir() and not re.search(r"(^|/)(\.[^./][^/]*|__MACOSX)(/|$)", info.filename)
        ]


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise BadModel(
            f"{path} is no whole zip archive ({str(error).rstrip('.')}); it may be cut short, fetch it again",
            file=str(path),
        ) from error


class Unpacker:
    """Makes real files of places; what it unpacks lies in `folder`, which its owner removes."""

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self._folder = folder
        self._report = report
        self._folders: dict[tuple[Path, str], Path] = {}

    def as_given(self, message: str) -> str:
        """A message that speaks of unpacked files, speaking of archives and their members instead."""
        for (archive, inside), folder in self._folders.items():
            within = "" if inside == "." else f"{inside}/"
            message = message.replace(f"{folder}/", f"{archive}: {within}")
            message = message.replace(str(folder), f"{archive}: {inside}" if within else str(archive))
        return message

    def files(self, places: Sequence[Place]) -> list[Path]:
        """Their paths; files that lie side by side still do. Raises BadModel for a damaged archive, DiskFull."""
        return [self.file(place) for place in places]

    def file(self, place: Place) -> Path:
        if place.member is None:
            return place.path
        # Names inside an archive are not trusted: only the last part counts.
        folder = self._folders.setdefault(place.folder, self._folder / f"{len(self._folders):03d}")
        target = folder / place.name
        if target.is_file():
            return target
        need_space(folder, place.size, f"Unpacking {place}")
        self._report(f"unpacking {place.name}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                archive = stack.enter_context(_opened(place.path))
                source = stack.enter_context(archive.open(place.member))
                copy = stack.enter_context(target.open("wb"))
                while piece := source.read(1 << 20):
                    copy.write(piece)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise BadModel(f"{place} is damaged ({error}); fetch the archive again", file=str(place.path)) from error
        except OSError as error:
            raise writing_error(target, error) from error
        return target
