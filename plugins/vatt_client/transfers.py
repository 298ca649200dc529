"""The messages that carry files: uploads of clips that the daemon cannot see, and takes on their way back.

An upload stands in a message in the place of a path, as `upload:` and its id; `download:` in the place of the output folder
makes the daemon keep the files until they are fetched.
"""

from __future__ import annotations

from dataclasses import dataclass

from vatt_client import fields
from vatt_client.errors import BadRequest
from vatt_client.protocol import JOBS, Message

UPLOAD = "upload:"
DOWNLOAD = "download:"
LARGEST_CHUNK = 1 << 20
LARGEST_FILE = 2**53 - 1
LONGEST_NAME = 200
"""Bytes of UTF-8, so that the names of takes, which begin like the clip's, fit into every file system."""

_FORBIDDEN = frozenset('<>:"/\\|?*')


def is_name(name: str) -> bool:
    """Whether a text is a plain name for a file on every system: no folders, no characters with a meaning."""
    return (
        0 < len(name.encode("utf-8", "surrogatepass")) <= LONGEST_NAME
        and name[0] not in ". "
        and name[-1] not in ". "
        and all(character.isprintable() and character not in _FORBIDDEN for character in name)
    )


def plain_name(name: str) -> str:
    """The plain name that comes closest to that of a file."""
    name = name.encode("utf-8", "replace").decode("utf-8")
    name = "".join(character if character.isprintable() and character not in _FORBIDDEN else "_" for character in name)
    stem, dot, suffix = name.strip(". ").rpartition(".")
    if not dot or len(suffix) > 20:
        stem, suffix = name.strip(". "), ""
    room = LONGEST_NAME - len(suffix.encode()) - len(dot)
    stem = stem.encode()[:room].decode("utf-8", "ignore").rstrip(". ") or "clip"
    return f"{stem}.{suffix}" if suffix else stem


class Transfer(Message):
    """Base of what reads or writes files of the daemon. Answered after the disk has done it."""

    SOCKETS = (JOBS,)


@dataclass(frozen=True, kw_only=True)
class Upload(Transfer):
    """Announce a file, or find out how much of it is there already: the same file has the same id, also after the daemon was
    restarted. A clip that is there as a whole need not be sent again.
    """

    TYPE = "upload"
    ANSWER = "upload (its id), offset (bytes that are there), complete"

    name: str = fields.text(
        "name of the file without folders; the names of takes begin like it", shortest=1, longest=LONGEST_NAME
    )
    size: int = fields.integer("length of the file", minimum=1, maximum=LARGEST_FILE, unit="bytes")
    sha256: bytes = fields.data("SHA-256 of the whole file", shortest=32, longest=32)
    beside: str | None = fields.identifier(
        "id of an upload that is complete, in whose folder this one is laid, as a take's side-car beside its sound",
        default=None,
    )

    def check_together(self) -> None:
        if not is_name(self.name):
            raise BadRequest(
                f"The field 'name' must be a plain file name of at most {LONGEST_NAME} bytes, without folders and any of "
                f"{' '.join(sorted(_FORBIDDEN))}, that neither begins nor ends with a dot or space.",
                field="name",
            )


@dataclass(frozen=True, kw_only=True)
class Chunk(Transfer):
    """The next bytes of an upload, from where `offset` of the last answer says. Others are refused, and `details.offset` of
    the error says where to go on.
    """

    TYPE = "chunk"
    ANSWER = "upload, offset (bytes that are there now)"

    upload: str = fields.identifier("id of the upload")
    offset: int = fields.integer("place of the first byte in the file", minimum=0, maximum=LARGEST_FILE, unit="bytes")
    data: bytes = fields.data("the bytes", shortest=1, longest=LARGEST_CHUNK)


@dataclass(frozen=True, kw_only=True)
class Finish(Transfer):
    """All bytes have been sent: the daemon compares the hash, and from then on the upload can be named. One with another hash is
    removed.
    """

    TYPE = "finish"
    ANSWER = "upload, complete"

    upload: str = fields.identifier("id of the upload")


@dataclass(frozen=True, kw_only=True)
class Fetch(Transfer):
    """Bytes of a file that a job with the output `download:` has made. Its result tells the names."""

    TYPE = "fetch"
    ANSWER = "name, size (bytes of the whole file), offset, data (bytes; fewer than asked for only at the end)"

    job: str = fields.identifier("id of the job")
    name: str = fields.text("name of the file, as in the result", shortest=1, longest=255)
    offset: int = fields.integer(
        "place of the first byte in the file", minimum=0, maximum=LARGEST_FILE, default=0, unit="bytes"
    )
    length: int = fields.integer(
        "how many bytes", minimum=1, maximum=LARGEST_CHUNK, default=LARGEST_CHUNK, unit="bytes"
    )
