"""How a clip is to be treated: the folder's own settings, those of `vatt.toml` in its sub-folders, those beside the clip.

Nearer ones win. The names are the fields of the protocol's `generate`, and a few of our own.
"""

from __future__ import annotations

import errno
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vatt_client import messages
from vatt_client.errors import BadRequest

FOLDER_FILES = ("vatt.toml", "vatt.json")
"""Settings for every clip of the folder they lie in, and of the folders below."""

NOTE_SUFFIXES = (".toml", ".json")
"""Added to a clip's whole name: `clip.mp4.toml` holds the settings of `clip.mp4`."""

LARGEST = 1 << 20

SOUND = (
    "prompt", "negative_prompt", "takes", "seed", "model", "start", "end", "sample_rate", "bits", "guidance_scale",
    "steps", "temperature", "mask_temperature", "top_k", "loudness",
)  # fmt: skip
OWN = ("captions", "mux", "skip")


@dataclass(frozen=True)
class Options:
    """captions: how many are asked for and noted in the side-car (0: none). mux: also a copy of the video with the
    sound. skip: leave the clip alone. sound: fields of `messages.Generate` that differ from their defaults."""

    captions: int = 3
    mux: bool = False
    skip: bool = False
    sound: Mapping[str, Any] = field(default_factory=dict)

    def recipe(self, content: str) -> str:
        """Equal for two clips that must get the same results: same content, same settings."""
        values = {"content": content, "captions": self.captions, "mux": self.mux, "sound": dict(self.sound)}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def check_options(values: Mapping[str, Any], source: str) -> Options:
    """Options from plain values. Raises BadRequest that names `source` and the field."""
    unknown = sorted(set(values) - set(SOUND) - set(OWN))
    if unknown:
        raise BadRequest(f"There is no setting '{unknown[0]}' ({source}). There are: {', '.join((*OWN, *SOUND))}.",
                         field=unknown[0])  # fmt: skip
    sound = {name: value for name, value in values.items() if name in SOUND}
    try:
        messages.Generate(path="/clip", output="/folder", **sound)
        count = values.get("captions", 3)
        if count != 0 or isinstance(count, bool):
            messages.Suggest(path="/clip", count=count)
        for name in ("mux", "skip"):
            if not isinstance(values.get(name, False), bool):
                raise BadRequest(f"The field '{name}' must be true or false.", field=name)
    except BadRequest as error:
        name = str(error.details.get("field", ""))
        message = error.message.replace("'count'", "'captions'")
        raise BadRequest(f"{message.rstrip('.')} ({source}).", field=name) from None
    return Options(captions=int(count), mux=values.get("mux", False), skip=values.get("skip", False), sound=sound)


def read_options(root: Path, clip: str, defaults: Mapping[str, Any]) -> Options:
    """The options of the clip `clip` (a path below `root`, with slashes). defaults: those of the watched folder.

    Raises BadRequest for a file that is none, or names what there is not.
    """
    values = dict(defaults)
    source = "the settings of the watched folder"
    below = PurePosixPath(clip)
    for folder in reversed(below.parents):
        for name in FOLDER_FILES:
            source = _add(values, root / folder / name) or source
    for suffix in NOTE_SUFFIXES:
        source = _add(values, root / (clip + suffix)) or source
    return check_options(values, source)


def _add(values: dict[str, Any], file: Path) -> str | None:
    found = read_settings(file)
    if found is None:
        return None
    check_options(found, str(file))
    values.update(found)
    return str(file)


def read_settings(file: Path) -> dict[str, Any] | None:
    """The table of a TOML or JSON file; None where there is none. Raises BadRequest."""
    try:
        with file.open("rb") as handle:
            text = handle.read(LARGEST + 1).decode("utf-8")
        found = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise BadRequest(f"The settings file {file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        kind = "TOML" if file.suffix == ".toml" else "JSON"
        raise BadRequest(f"The settings file {file} is no valid {kind}: {error}.") from error
    if not isinstance(found, dict):
        raise BadRequest(f"The settings file {file} holds no table of settings.")
    return found
