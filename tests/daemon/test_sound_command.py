"""Regions, variations, takes and pages through a real daemon and the `vatt` command, on nano."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import soundfile

from vatt_core.scores import ranking
from vatt_core.world.write import write_world


def test_from_a_take_to_its_page(home: Any) -> None:
    del home.environment["VATT_WORKER_PIPELINE"]
    write_world(home.root / "clip.mp4", seed=2_000_021, seconds=3.0, size=64)
    home.start()

    def vatt(*arguments: str, fails: int = 0) -> Any:
        ran = subprocess.run(
            [sys.executable, "-m", "vatt_daemon.cli", *arguments],
            env=home.environment, cwd=home.root, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ran.returncode == fails, ran.stderr
        return ran.stderr if fails else ran.stdout

    quick = ("--steps", "1", "--seed", "3", "--output", "out")
    made = json.loads(
        vatt("generate", "clip.mp4", "--prompt", "a ball", "--takes", "2", "--rate", "44100", *quick, "--json")
    )
    first = made["takes"][0]
    assert ranking([take["scores"] for take in made["takes"]]) == [0, 1]
    before = {path: path.read_bytes() for path in (home.root / "out").iterdir()}

    # Only the region is made anew; rate, bits and range are those of the take.
    (part,) = json.loads(
        vatt("generate", "clip.mp4", "--from", first["sidecar"], "--region", "1.5,2", *quick, "--json")
    )["takes"]
    old, new = (soundfile.read(take["wav"], dtype="int32") for take in (first, part))
    assert new[1] == old[1] == 44_100 and len(new[0]) == len(old[0]) == 3 * 44_100
    assert (new[0][:44_100] == old[0][:44_100]).all() and (new[0][66_150:88_200] != old[0][66_150:88_200]).any()
    vatt("generate", "clip.mp4", "--from", first["sidecar"], "--region", "2,9", *quick, fails=2)
    told = vatt("generate", "clip.mp4", "--region", "1,2", *quick, fails=2)
    assert "--from" in told and "--region" in told
    vatt("generate", "clip.mp4", "--preset", "none", *quick, fails=2)
    assert all(path.read_bytes() == data for path, data in before.items())

    (home.root / "home" / "config").mkdir(parents=True, exist_ok=True)
    (home.root / "home" / "config" / "presets.toml").write_text("[quick]\nsteps = 1\n")
    flac = json.loads(
        vatt("generate", "clip.mp4", "--prompt", "a ball", "--preset", "quick", "--format", "flac", "--channels", "2",
             "--avoid", "speech,music", "--cuts", "off", "--mux", "--output", "out", "--json")
    )["takes"][0]  # fmt: skip
    assert soundfile.info(flac["wav"]).channels == 2 and Path(flac["muxed"]).is_file()
    said = json.loads(Path(flac["sidecar"]).read_text())["request"]
    assert "speaking" in said["negative_prompt"] and said["steps"] == 1

    listed = json.loads(vatt("takes", "list", "out", "--json"))
    assert {row["wav"] for row in listed} == {take["wav"] for take in (*made["takes"], part, flac)}
    assert len(vatt("takes", "list", "out").splitlines()) == 4
    picked = Path(vatt("takes", "pick", first["sidecar"], "--output", "out/chosen").strip())
    assert picked.read_bytes() == Path(first["wav"]).read_bytes()
    vatt("takes", "pick", first["sidecar"], "--output", "out/chosen", fails=2)
    vatt("takes", "pick", "out", fails=2)
    assert Path(vatt("takes", "pick", first["sidecar"], "--output", "out/cut.v2").strip()).name == "cut.v2.wav"
    (home.root / "edit").mkdir()
    assert Path(vatt("takes", "pick", first["sidecar"], "--output", "edit").strip()).parent == home.root / "edit"
    page = Path(vatt("preview", first["sidecar"], part["sidecar"]).strip())
    assert page.suffix == ".html" and page.stat().st_size > 50_000
    assert '"region": "3/2; 2"' in page.read_text(encoding="utf-8")
    (home.root / "clip.mp4").rename(home.root / "moved.mp4")
    assert "--clip" in vatt("preview", first["sidecar"], fails=3)
    assert Path(vatt("preview", first["sidecar"], "--clip", "moved.mp4").strip()).name == "moved-takes.html"
    vatt("preview", "home", fails=3)

    # A clip of another length is not the one that these takes were made for.
    write_world(home.root / "longer.mp4", seed=2_000_021, seconds=4.0, size=64)
    write_world(home.root / "shorter.mp4", seed=2_000_021, seconds=2.0, size=64)
    older = json.loads(Path(first["sidecar"]).read_text())
    del older["clip"]["duration"]
    for name, length in (("longer", "4.000 s"), ("shorter", "2.000 s")):
        said = vatt("preview", first["sidecar"], "--clip", f"{name}.mp4", fails=2)
        assert length in said and "3.000 s" in said
    Path(first["sidecar"]).write_text(json.dumps(older))
    said = vatt("preview", first["sidecar"], "--clip", "shorter.mp4", fails=2)
    assert "2.000 s" in said and "3.000 s" in said
    vatt("preview", first["sidecar"], "--clip", "longer.mp4")  # nothing says how long the clip was
