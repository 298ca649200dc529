"""An earlier take of this machine as the ground of a new one that another machine makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vatt_client import Client, connection


def test_only_the_region_is_made_anew(home: Any, tmp_path: Path) -> None:
    from vatt_core.world.write import write_world

    del home.environment["VATT_WORKER_PIPELINE"], home.environment["VATT_WORKER_SLOTS"]
    clip = tmp_path / "hammer.mp4"
    write_world(clip, seed=2_000_021, seconds=2.0, size=96)
    home.start()
    file = connection.write_connection(
        connection.Connection(**json.loads(home.file.read_bytes()) | {"remote": True}), tmp_path / "remote.json"
    )
    values: dict[str, Any] = {"prompt": "a hammer hits wood", "seed": 3, "steps": 4}
    with Client(connection_file=file) as client:
        (first,) = client.generate(clip, output=tmp_path / "out", **values).takes
        (second,) = client.generate(clip, output=tmp_path / "out", base=first.sidecar, region=(1, 2), **values).takes
    assert json.loads(Path(second.sidecar).read_bytes())["request"]["base"] == first.wav
    kept, made = Path(first.wav).read_bytes(), Path(second.wav).read_bytes()
    half = 48_000 * 3 // 2
    assert kept[2000:half] == made[2000:half] and kept[-half:] != made[-half:]
    remade = home.vatt("remake", first.sidecar, "--output", str(tmp_path), "--json", VATT_CONNECTION=str(file))
    assert remade.returncode == 0 and json.loads(remade.stdout)["same"], remade.stderr
