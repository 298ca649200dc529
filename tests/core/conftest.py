"""Official files, small ones, for the tests about importing them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

MINI = Path(__file__).parents[1] / "data" / "recorded" / "mini-official"


@pytest.fixture(scope="session")
def whole_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.core.official_files import write_release  # with it comes torch

    return write_release(MINI, tmp_path_factory.mktemp("release") / "release")


@pytest.fixture
def release(whole_release: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole_release, tmp_path / "release"))
