"""Recordings of the official code: tensors in NAME.safetensors, their description in NAME.json.

`VATT_RECORDED` names another folder of the same form (other seeds, other sizes): either a folder that holds a
folder of recordings beside a folder of small checkpoints, or the folder of recordings itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Recording = Callable[[str], tuple[dict[str, torch.Tensor], dict[str, Any]]]


def _root() -> Path:
    named = os.environ.get("VATT_RECORDED")
    return Path(named) if named else Path(__file__).parents[1] / "data" / "recorded"


def _first(candidates: list[Path], holds: str) -> Path | None:
    return next((folder for folder in candidates if any(folder.glob(holds))), None)


@pytest.fixture(scope="session")
def recorded_folder() -> Path:
    """The folder that holds NAME.json and NAME.safetensors."""
    root = _root()
    folder = _first([root, *sorted(root.glob("golden*"))], "*.safetensors")
    if folder is None and "VATT_RECORDED" in os.environ:
        pytest.fail(f"VATT_RECORDED names {root}, which holds no recordings")
    if folder is None:
        pytest.skip(f"no recordings in {root}")
    return folder


@pytest.fixture(scope="session")
def mini_official_folder(recorded_folder: Path) -> Path:
    """The small checkpoints in the official file formats that belong to the recordings."""
    root = _root()
    suffix = recorded_folder.name.removeprefix("golden")
    places = [root, recorded_folder.parent]
    candidates = [place / f"mini-official{suffix}" for place in places]
    candidates += [folder for place in places for folder in sorted(place.glob("mini-official*"))]
    folder = next((folder for folder in candidates if folder.is_dir()), None)
    if folder is None:
        pytest.skip(f"no small official checkpoints beside {recorded_folder}")
    return folder


@pytest.fixture(scope="session")
def recording(recorded_folder: Path) -> Recording:
    """`recording(name)` gives (tensors by name, description). Skips when the folder has no such case."""

    def read(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        description = recorded_folder / f"{name}.json"
        if not description.exists():
            pytest.skip(f"{recorded_folder} has no case {name}")
        tensors = load_file(recorded_folder / f"{name}.safetensors")
        return tensors, json.loads(description.read_text(encoding="utf-8"))

    return read
