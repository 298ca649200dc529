"""Recordings of the official code: tensors in NAME.safetensors, their description in NAME.json.

`VATT_RECORDED` names another folder of the same form (other seeds, other sizes): either a folder that holds a
folder of recordings beside a folder of small checkpoints, or the folder of recordings itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recorded.recordings import BUNDLED, Recordings

Recording = Callable[[str], tuple[dict[str, torch.Tensor], dict[str, Any]]]


@pytest.fixture(scope="session")
def recordings() -> Recordings:
    return Recordings(Path(os.environ.get("VATT_RECORDED") or BUNDLED))


@pytest.fixture(scope="session")
def mini_official_folder(recordings: Recordings) -> Path:
    """The small checkpoints in the official file formats that belong to the recordings."""
    return recordings.checkpoints


@pytest.fixture(scope="session")
def recording(recordings: Recordings) -> Recording:
    """`recording(name)` gives (tensors by name, description)."""
    return recordings.read
