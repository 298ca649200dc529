"""Workspace ▸ Scripts ▸ VATT ▸ Self-Test: the self-test inside Resolve, for versions without external scripting."""

from __future__ import annotations

import subprocess
import tempfile
from typing import Any

from vatt_resolve.actions import panel_environment, read_config
from vatt_resolve.api import ResolveProblem, find_resolve
from vatt_resolve.selftest import report, run

FRAMES = 48
"""Of the clip that `vatt resolve material` writes."""


def main(action: str, given: Any = None, config: dict[str, Any] | None = None) -> bool:
    """Print what differs from what is expected. Returns whether nothing does."""
    try:
        settings = config or read_config()
        resolve = find_resolve(given)
        with tempfile.TemporaryDirectory() as folder:
            command = [*settings["command"], "resolve", "material", folder]
            made = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, env=panel_environment(settings), check=False
            )
            if made.returncode != 0:
                raise ResolveProblem("The material of the self-test cannot be written: run 'vatt doctor'.")
            clip, wav = made.stdout.splitlines()[-2:]
            findings = run(resolve, clip, wav, folder, frames=FRAMES)
    except (ResolveProblem, OSError) as problem:
        print(f"VATT: {problem}")
        return False
    print(report(findings))
    return all(one.same for one in findings)
