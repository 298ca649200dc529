"""`vatt demo`: what it leaves in its folder, and what it does not touch. The words and sounds are scripted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vatt_client import connection


def test_it_makes_three_takes_of_a_clip_it_writes_and_leaves_no_daemon(home: Any) -> None:
    ran = home.vatt("demo", "--output", "shown", "--clip", "7")
    assert ran.returncode == 0, ran.stderr
    shown = home.root / "shown"
    found = json.loads((shown / "demo.json").read_text())
    assert len(found["takes"]) == 3 and all(Path(take["wav"]).parent == shown for take in found["takes"])
    assert len({take["caption"] for take in found["takes"]}) == 2
    assert found["events"] and (shown / "clip.mp4").is_file()
    assert not (shown / "home" / "runtime" / connection.FILE_NAME).exists()


def test_it_empties_no_folder_of_somebody_else(home: Any) -> None:
    (home.root / "mine").mkdir()
    (home.root / "mine" / "letter.txt").write_text("dear")
    for output in ("mine", "mine/letter.txt"):
        ran = home.vatt("demo", "--output", output)
        assert ran.returncode == 3 and len(ran.stderr.splitlines()) == 1
    assert (home.root / "mine" / "letter.txt").read_text() == "dear"
