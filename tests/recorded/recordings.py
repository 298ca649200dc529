"""A folder of recordings: where its parts lie, and which of them may be missing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import load_file

BUNDLED = Path(__file__).parents[1] / "data" / "recorded"
FAMILIES = ("llama", "gemma")
OF_CHECKPOINTS = (*(f"pipeline_{family}" for family in FAMILIES), "text_and_data")
"""Cases that were recorded from the small official checkpoints."""
CASES = (
    *(f"audio_forward_{frames}" for frames in ("even", "odd")),
    *(f"audio_generate_{size}" for size in ("full", "small")),
    *(f"converter_{family}" for family in FAMILIES),
    *OF_CHECKPOINTS,
    "misc",
)


@dataclass(frozen=True)
class Recordings:
    """root: a folder that holds a folder of recordings beside one of small checkpoints, or the folder of recordings itself.

    The bundled recordings are whole: a test fails that misses one of them. Of another folder a case may be missing, as long
    as it holds any.
    """

    root: Path = BUNDLED

    @property
    def folder(self) -> Path:
        """The folder that holds NAME.json and NAME.safetensors."""
        candidates = [self.root, *sorted(self.root.glob("golden*"))]
        found = next((folder for folder in candidates if any(_holds(folder, case) for case in CASES)), None)
        return found or pytest.fail(f"{self.root} holds none of the recordings {', '.join(CASES)}")

    @property
    def checkpoints(self) -> Path:
        """The small checkpoints in the official file formats that belong to the recordings."""
        folder = self.folder
        places = [self.root, folder.parent]
        candidates = [place / f"mini-official{folder.name.removeprefix('golden')}" for place in places]
        candidates += [found for place in places for found in sorted(place.glob("mini-official*"))]
        found = next((candidate for candidate in candidates if candidate.is_dir()), None)
        if found is None and any(_holds(folder, case) for case in OF_CHECKPOINTS):
            pytest.fail(f"{folder} was recorded from small official checkpoints, which do not lie beside it")
        return found or self._lacks("small official checkpoints")

    def read(self, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors by name, and the description of a case."""
        folder = self.folder
        if not _holds(folder, name):
            self._lacks(f"case {name}")
        described = (folder / f"{name}.json").read_text(encoding="utf-8")
        return load_file(folder / f"{name}.safetensors"), json.loads(described)

    def _lacks(self, what: str) -> NoReturn:
        if self.root == BUNDLED:
            pytest.fail(f"the bundled recordings in {self.root} have lost the {what}")
        pytest.skip(f"{self.root} has no {what}")


def _holds(folder: Path, case: str) -> bool:
    return (folder / f"{case}.json").is_file() and (folder / f"{case}.safetensors").is_file()
