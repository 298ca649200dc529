"""Names of models and the folders they stand for."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from platformdirs import user_data_path

from vatt_core.errors import NotFound
from vatt_core.weights.fingerprint import CONFIG_FILE

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class ModelEntry:
    """One known model. folder: where it lies or would lie. installed: whether a configuration is there.

    parts: files of the official release that an import needs (none for a model that ships with the package).
    """

    name: str
    title: str
    licence: str
    embedded: bool
    parts: tuple[str, ...]
    folder: Path
    installed: bool


def models_folder() -> Path:
    """Where models that do not ship with the package are kept for this user. $VATT_HOME moves it, as all of VATT's folders."""
    home = os.environ.get("VATT_HOME")
    return (Path(home) / "data" if home else user_data_path("vatt", appauthor=False)) / "models"


@lru_cache(maxsize=1)
def _known() -> dict[str, dict[str, object]]:
    return tomllib.loads((_HERE / "models.toml").read_text(encoding="utf-8"))


def _entry(name: str, values: dict[str, object]) -> ModelEntry:
    embedded = bool(values["embedded"])
    folder = _HERE.parent / name if embedded else models_folder() / name
    parts = values["parts"]
    return ModelEntry(
        name=name,
        title=str(values["title"]),
        licence=str(values["licence"]),
        embedded=embedded,
        parts=tuple(str(part) for part in parts) if isinstance(parts, list) else (),
        folder=folder,
        installed=(folder / CONFIG_FILE).is_file(),
    )


def list_models() -> list[ModelEntry]:
    """Every known model, the shipped one first, then what the user's data folder holds beyond the known names."""
    known = [_entry(name, values) for name, values in _known().items()]
    own = sorted(path.parent for path in models_folder().glob(f"*/{CONFIG_FILE}") if path.parent.name not in _known())
    return known + [
        ModelEntry(
            name=folder.name,
            title="a model of yours",
            licence="your own",
            embedded=False,
            parts=(),
            folder=folder,
            installed=True,
        )
        for folder in own
    ]


def find_model(name: str | Path) -> Path:
    """The folder of a model, by its name or, with a separator in it, by its path.

    Raises NotFound: with the known names for an unknown one, with what is missing for one that is not installed.
    """
    if isinstance(name, Path) or "/" in name or "\\" in name:
        folder = Path(name).expanduser()
        if (folder / CONFIG_FILE).is_file():
            return folder
        raise NotFound(f"{folder} holds no model (no {CONFIG_FILE}); name a model folder", folder=str(folder))
    models = list_models()
    entry = next((entry for entry in models if entry.name == name), None)
    if entry is None:
        known = ", ".join(entry.name for entry in models)
        raise NotFound(f"there is no model named {name!r}; known are {known}", name=name)
    if not entry.installed:
        cure = "reinstall vatt" if entry.embedded else f"put its folder at {entry.folder}, or use 'nano'"
        raise NotFound(f"the model {name!r} is not installed; {cure}", name=name)
    return entry.folder
