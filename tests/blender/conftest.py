"""Runs scripts inside real Blenders: the `bpy` wheels that `make` puts into environments of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / "build" / "editors"
sys.path[:0] = [str(ROOT / "plugins" / "blender"), str(HERE.parent / "core")]

_spec = importlib.util.spec_from_file_location("daemon_tests_conftest", HERE.parent / "daemon" / "conftest.py")
assert _spec is not None and _spec.loader is not None
_daemon_tests = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_daemon_tests)

BLENDERS = os.environ.get("VATT_BLENDERS", "").split()
"""Versions to test with, such as '4.5 5.2'. Named by make; none: the tests that need a Blender say so."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "blender" in metafunc.fixturenames:
        metafunc.parametrize("blender", BLENDERS or ["4.5"], indirect=True, scope="session")


class Blender:
    """One version. `run` executes a script of tests/blender/inside with its Python and returns what it answered."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = tuple(int(part) for part in name.split("."))
        self.python = ENVIRONMENTS / name / "bin" / "python"
        assert self.python.exists(), f"There is no Blender {name}: make build/editors/{name}/.ready"

    def run(
        self,
        script: str,
        folder: Path,
        environment: dict[str, str] | None = None,
        options: Sequence[str] = (),
        **arguments: Any,
    ) -> Any:
        answer = folder / f"{Path(script).stem}.json"
        process = subprocess.run(
            [str(self.python), *options, str(HERE / "inside" / script)],
            env={
                **os.environ,
                "BLENDER_USER_RESOURCES": str(folder / "blender"),
                "VATT_TEST": json.dumps({**arguments, "answer": str(answer)}),
                **(environment or {}),
            },
            capture_output=True, text=True, timeout=1500, check=False,
        )  # fmt: skip
        assert process.returncode == 0 and answer.exists(), process.stdout[-3000:] + process.stderr[-3000:]
        return json.loads(answer.read_text())


@pytest.fixture(scope="session")
def blender(request: pytest.FixtureRequest) -> Blender:
    return Blender(request.param)


@pytest.fixture(scope="session")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Clips of 41 frames whose every picture carries its number, by their rate: '24', '30000/1001' …"""
    from fractions import Fraction

    from numbered_clips import write_clip

    folder = tmp_path_factory.mktemp("numbered")

    def clip(rate: str) -> Path:
        path = folder / f"clip-{rate.replace('/', '-')}.mp4"
        return path if path.exists() else write_clip(path, frames=41, rate=Fraction(rate), size=(128, 96))

    return clip


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Any]:
    """A daemon's folder for one test, which starts, stops and kills the daemon itself. The pipeline is scripted."""
    found = _daemon_tests.Home(tmp_path)
    yield found
    found.close()


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running daemon with the shipped model."""
    found = _daemon_tests.Home(tmp_path_factory.mktemp("nano"))
    for name in ("VATT_WORKER_PIPELINE", "VATT_WORKER_SLOTS"):
        found.environment.pop(name, None)
    process = found.spawn()

    def answers() -> bool:
        assert process.poll() is None, process.stderr.read().decode()
        return bool(found.file.exists())

    found.until(answers, seconds=120)  # beside a Blender under test a machine may be slow
    yield found
    found.close()


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of the procedural world, four seconds."""
    from vatt_core.world.write import write_world

    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_world(path, seed=2_000_021, seconds=4.0, size=96)
    return path
