"""Names of models, the folders they stand for, and the parts and licences that they are made of."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_data_path

from vatt_core.errors import BadRequest, NotFound
from vatt_core.weights.fingerprint import CONFIG_FILE

_HERE = Path(__file__).parent
_SHIPPED = str(_HERE / "models.toml")

HUB_SOURCE = re.compile(r"^hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>\S+))?$")
"""A repository of the Hugging Face hub as a source of a part."""


@dataclass(frozen=True)
class Licence:
    """Terms of weights. must_accept: whether the user has to say so before they are fetched."""

    name: str
    title: str
    url: str
    must_accept: bool


@dataclass(frozen=True)
class Part:
    """A file of the official release. beside: small files that belong to it, from the same source. size, sha256: when
    the release or a mirror says."""

    name: str
    title: str
    file: str
    sources: tuple[str, ...]
    licences: tuple[str, ...]
    beside: tuple[str, ...] = ()
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class ModelEntry:
    """One known model. folder: where it lies or would lie. installed: whether a configuration is there.

    parts: names of the parts that it is made from (none for a model that ships with the package or is the user's own).
    family, text_steered: which of the four official checkpoints it is.
    """

    name: str
    title: str
    licence: str
    embedded: bool
    parts: tuple[str, ...]
    folder: Path
    installed: bool
    family: Literal["llama", "gemma"] | None = None
    text_steered: bool = False


def data_folder() -> Path:
    """Where data of this user is kept. $VATT_HOME moves it, as all of VATT's folders."""
    home = os.environ.get("VATT_HOME")
    return Path(home) / "data" if home else user_data_path("vatt", appauthor=False)


def models_folder() -> Path:
    """Where models that do not ship with the package are kept."""
    return data_folder() / "models"


def downloads_folder() -> Path:
    """Where files of the release are kept between fetching and importing."""
    return data_folder() / "downloads"


def _known() -> dict[str, dict[str, dict[str, Any]]]:
    return _read(os.environ.get("VATT_REGISTRY") or _SHIPPED)


@lru_cache(maxsize=4)
def _read(path: str) -> dict[str, dict[str, dict[str, Any]]]:
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        _check(values)
        return values
    except (OSError, ValueError) as error:
        raise BadRequest(
            f"The registry of models {path} cannot be read ({error}). Correct it, or unset VATT_REGISTRY."
        ) from error


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_truth(value: object) -> bool:
    return isinstance(value, bool)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_file(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\w[^/\\]*", value) is not None


def _is_source(value: object) -> bool:
    return isinstance(value, str) and bool(HUB_SOURCE.match(value) or re.match(r"https?://[^/\s]+/\S+$", value))


_SHAPES: dict[str, dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "models": {
        "title": ("a text", _is_text),
        "embedded": ("true or false", _is_truth),
        "family": ("'llama' or 'gemma'", lambda value: value in ("llama", "gemma")),
        "text_steered": ("true or false", _is_truth),
        "parts": ("a list of names", _are_texts),
        "licences": ("a list of names", _are_texts),
    },
    "parts": {
        "title": ("a text", _is_text),
        "file": ("the name of a file", _is_file),
        "beside": ("a list of names of files", lambda value: isinstance(value, list) and all(map(_is_file, value))),
        "sources": (
            "a list of https://…, http://… or hf:OWNER/NAME",
            lambda value: isinstance(value, list) and value != [] and all(map(_is_source, value)),
        ),
        "licences": ("a list of names", _are_texts),
        "size": ("a number of bytes", lambda value: type(value) is int and value > 0),
        "sha256": (
            "64 hexadecimal digits",
            lambda value: isinstance(value, str) and re.fullmatch(r"[0-9a-fA-F]{64}", value) is not None,
        ),
    },
    "licences": {
        "title": ("a text", _is_text),
        "url": ("a text", _is_text),
        "must_accept": ("true or false", _is_truth),
    },
}
"""What each key of a table is, in words, and the test for it."""

_NEEDED: dict[str, tuple[str, ...]] = {
    "models": ("title",),
    "parts": ("file", "sources"),
    "licences": ("title", "url", "must_accept"),
}


def _check(values: dict[str, Any]) -> None:
    """Raise ValueError when a table of the registry lacks what it must say, says what is no such thing, or names what is
    not there."""
    for kind in _SHAPES:
        if not isinstance(values.get(kind, {}), dict):
            raise ValueError(f"{kind} is no table [{kind}.NAME]")
    if not values.get("models"):
        raise ValueError("it has no table [models.NAME]")
    for kind, shapes in _SHAPES.items():
        for name, table in values.get(kind, {}).items():
            if not isinstance(table, dict):
                raise ValueError(f"{kind}.{name} is no table [{kind}.{name}]")
            needed = _NEEDED[kind] + (("family",) if kind == "models" and "parts" in table else ())
            missing = [key for key in needed if key not in table]
            if missing:
                raise ValueError(f"[{kind}.{name}] does not say {missing[0]}")
            for key, value in table.items():
                if key not in shapes:
                    raise ValueError(f"[{kind}.{name}] says {key}, which is none of {', '.join(shapes)}")
                what, fits = shapes[key]
                if not fits(value):
                    raise ValueError(f"[{kind}.{name}] says {key} = {value!r}, which is not {what}")
                for other in value if key in ("parts", "licences") else ():
                    if other not in values.get(key, {}):
                        raise ValueError(f"[{kind}.{name}] names {other!r}, but there is no [{key}.{other}]")


def find_part(name: str) -> Part:
    """A part of the registry. Raises NotFound."""
    values = _known().get("parts", {}).get(name)
    if values is None:
        raise NotFound(f"The registry of models has no part {name!r}.", name=name)
    return Part(
        name=name,
        title=str(values.get("title", name)),
        file=str(values["file"]),
        sources=tuple(values["sources"]),
        licences=tuple(values.get("licences", ())),
        beside=tuple(values.get("beside", ())),
        size=values.get("size"),
        sha256=str(values["sha256"]).lower() if "sha256" in values else None,
    )


def find_licence(name: str) -> Licence:
    """A licence of the registry. Raises BadRequest with the known names."""
    known = _known().get("licences", {})
    if name not in known:
        raise BadRequest(f"There is no licence {name!r}. There are: {', '.join(known)}.", name=name)
    terms = known[name]
    return Licence(name, str(terms["title"]), str(terms["url"]), bool(terms["must_accept"]))


def licences_of(entry: ModelEntry) -> list[Licence]:
    """The licences of all parts of a model, each once."""
    values = _known()["models"].get(entry.name, {})
    names = dict.fromkeys(
        [*values.get("licences", ()), *(name for part in entry.parts for name in find_part(part).licences)]
    )
    return [find_licence(name) for name in names]


def _entry(name: str, values: dict[str, Any]) -> ModelEntry:
    embedded = bool(values.get("embedded", False))
    folder = _HERE.parent / name if embedded else models_folder() / name
    entry = ModelEntry(
        name=name,
        title=str(values["title"]),
        licence="",
        embedded=embedded,
        parts=tuple(values.get("parts", ())),
        folder=folder,
        installed=(folder / CONFIG_FILE).is_file(),
        family=values.get("family"),
        text_steered=bool(values.get("text_steered", False)),
    )
    return ModelEntry(**{**vars(entry), "licence": "; ".join(licence.title for licence in licences_of(entry))})


def known_names() -> tuple[str, ...]:
    """The names of the registry, which no model of the user's own can have."""
    return tuple(_known()["models"])


def list_models() -> list[ModelEntry]:
    """Every known model, the shipped one first, then what the user's data folder holds beyond the known names."""
    models = _known()["models"]
    known = [_entry(name, values) for name, values in models.items()]
    own = sorted(path.parent for path in models_folder().glob(f"*/{CONFIG_FILE}") if path.parent.name not in models)
    return known + [_own(folder) for folder in own if not folder.name.startswith(".")]  # those are imports under way


def _own(folder: Path) -> ModelEntry:
    return ModelEntry(
        name=folder.name,
        title="a model of yours",
        licence="your own",
        embedded=False,
        parts=(),
        folder=folder,
        installed=True,
    )


def find_entry(name: str) -> ModelEntry:
    """A model by its name, installed or not. Looks at that one alone: each submission asks. Raises NotFound with the
    known names."""
    values = _known()["models"].get(name)
    if values is not None:
        return _entry(name, values)
    folder = models_folder() / name
    if name == folder.name and not name.startswith(".") and (folder / CONFIG_FILE).is_file():
        return _own(folder)
    known = ", ".join(entry.name for entry in list_models())
    raise NotFound(f"There is no model {name!r}. There are: {known}.", name=name)


def find_model(name: str | Path) -> Path:
    """The folder of a model, by its name or, with a separator in it, by its path.

    Raises NotFound: with the known names for an unknown one, with what to do for one that is not installed.
    """
    if isinstance(name, Path) or "/" in name or "\\" in name:
        folder = Path(name).expanduser()
        if (folder / CONFIG_FILE).is_file():
            return folder
        raise NotFound(f"{folder} holds no model (no {CONFIG_FILE}); name a model folder", folder=str(folder))
    entry = find_entry(name)
    if not entry.installed:
        cure = "reinstall vatt" if entry.embedded else f"fetch it with 'vatt models pull {name}', or use 'nano'"
        raise NotFound(f"the model {name!r} is not installed; {cure}", name=name)
    return entry.folder
