"""`vatt remake` with the shipped model: the same samples, or why not."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

from vatt_client import fields, messages
from vatt_daemon.cli.remake import message_from_sidecar

from vatt_core.media.time_map import TimeMap
from vatt_core.sidecar import SETTINGS


def sidecar(**request: Any) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(SETTINGS)
    values |= {"prompt": "rain", "seed": 3, "sample_rate": 44_100, "bits": 16} | request
    back = TimeMap(((Fraction(0), Fraction(1001, 30_000)), (Fraction(1, 3), Fraction(0))))
    return {
        "version": 1,
        "clip": {"path": "/clips/a.mp4", "time_map": back.to_list()},
        "model": {"name": "nano", "hash": "x", "device": "cpu"},
        "request": values,
    }


def test_a_message_carries_all_that_a_sidecar_holds() -> None:
    assert set(SETTINGS) <= fields.rules(messages.Generate).keys()
    values = {"negative_prompt": "wind", "guidance_scale": 2.5, "steps": 7, "temperature": 0.5, "mask_temperature": 3.0,
              "top_k": 9, "loudness": -18.0}  # fmt: skip
    message = message_from_sidecar(sidecar(**values), Path("/out"))
    sent = messages.Generate.from_wire({k: v for k, v in message.to_wire().items() if k != "type"})
    assert sent == message
    assert {name: getattr(message, name) for name in values} == values
    assert (message.prompt, message.seed, message.sample_rate, message.bits) == ("rain", 3, 44_100, 16)
    assert message.time_map == ((0, Fraction(1001, 30_000)), (Fraction(1, 3), 0))


def test_of_a_peak_and_a_loudness_in_an_old_sidecar_the_peak_counts() -> None:
    message = message_from_sidecar(sidecar(peak=-3.0, loudness=-16.0), Path("/out"))
    assert (message.peak, message.loudness) == (-3.0, None)


def test_what_is_no_sidecar_is_refused_without_a_daemon(home: Any) -> None:
    (home.root / "x.json").write_text("[]")
    for name, code in (("x.json", 2), ("none.json", 3), (".", 3)):
        ran = home.vatt("remake", name)
        assert ran.returncode == code, ran.stderr
        assert len(ran.stderr.splitlines()) == 1 and ran.stdout == ""
    assert not home.file.exists()


def test_a_take_is_made_again_and_a_changed_sidecar_is_noticed(home: Any) -> None:
    from vatt_core.world.write import write_world

    del home.environment["VATT_WORKER_PIPELINE"]
    write_world(home.root / "clip.mp4", seed=2_000_021, seconds=1.0, size=64)
    home.start()
    with home.client() as client:
        take = client.generate(home.clip, output=home.output, prompt="a ball", takes=2, seed=3, steps=1).takes[1]
    ran = home.vatt("remake", take.sidecar, "--output", "again", "--json")
    assert ran.returncode == 0, ran.stderr
    again = json.loads(ran.stdout)
    assert again["same"] and Path(again["wav"]).parent == home.root / "again"
    assert Path(again["wav"]).read_bytes() == Path(take.wav).read_bytes()

    changed = json.loads(Path(take.sidecar).read_text())
    changed["request"]["seed"] += 1
    (home.root / "changed.json").write_text(json.dumps(changed))
    (home.root / "moved.mp4").write_bytes(home.clip.read_bytes())
    home.clip.unlink()
    assert home.vatt("remake", "changed.json").returncode == 3
    ran = home.vatt("remake", "changed.json", "--clip", "moved.mp4")
    assert ran.returncode == 1 and Path(ran.stdout.strip()).is_file()
