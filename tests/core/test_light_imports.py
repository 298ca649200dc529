"""The daemon's front, the command, the client and the media package start without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "transformers", "open_clip", "peft")

MODULES = {
    "core": "vatt_core, vatt_core.errors, vatt_core.timing, vatt_core.requests, vatt_core.sidecar, vatt_core.windows, "
    "vatt_core.weights, vatt_core.files, vatt_core.work",
    "media": "vatt_core.media, vatt_core.media.probe, vatt_core.media.frames, vatt_core.media.waves, "
    "vatt_core.media.mux, vatt_core.media.preview, vatt_core.media.loudness, vatt_core.media.page, "
    "vatt_core.media.watching, vatt_core.takes, vatt_core.scores, vatt_core.regions, vatt_core.earlier",
    "world": "vatt_core.world, vatt_core.world.scene, vatt_core.world.sound, vatt_core.world.write",
    "client": "vatt_client, vatt_client.messages",
    "daemon": "vatt_daemon, vatt_daemon.server, vatt_daemon.scheduler, vatt_daemon.executor, vatt_daemon.__main__",
    "watch": "vatt_watch, vatt_daemon.cli.watch",
    "export": "vatt_core.export.export, vatt_core.export.results, vatt_daemon.cli.export",
    "installers": "vatt_installers.service, vatt_installers.resolve, vatt_installers.blender, vatt_daemon.cli.service, "
    "vatt_daemon.cli.plugins, vatt_daemon.cli.resolve",
    "command": "vatt_daemon.cli.app, vatt_daemon.cli.jobs, vatt_daemon.cli.preview, vatt_daemon.cli.takes, "
    "vatt_daemon.cli.daemon, vatt_daemon.cli.models, "
    "vatt_daemon.cli.doctor, vatt_daemon.cli.world",
}


def loaded_by(code: str) -> set[str]:
    """Top-level modules of a fresh Python that has run `code`."""
    report = (
        "import sys, atexit; atexit.register(lambda: print(*{n.split('.')[0] for n in sys.modules}, file=sys.stderr))"
    )
    ran = subprocess.run([sys.executable, "-c", f"{report}\n{code}"], capture_output=True, text=True, check=False)
    assert "Traceback" not in ran.stderr, ran.stderr
    return set(ran.stderr.split())


@pytest.mark.parametrize("modules", MODULES.values(), ids=MODULES.keys())
def test_importing_loads_no_model_library(modules: str) -> None:
    assert not loaded_by(f"import {modules}") & set(HEAVY)


def test_the_client_needs_the_standard_library_zmq_and_msgpack_alone() -> None:
    loaded = loaded_by("import vatt_client")
    assert not loaded & {*HEAVY, "numpy", "av", "vatt_core", "vatt_daemon", "typer", "rich", "msgspec"}


def test_help_loads_no_model_library() -> None:
    assert not loaded_by("from vatt_daemon.cli import main; main(['--help'])") & {*HEAVY, "numpy", "av"}
