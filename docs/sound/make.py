"""Makes the pictures and listening examples of docs/sound.md anew, with the shipped model and a clip that it was not trained on:

    python docs/sound/make.py [NAME …]

They appear beside this file: NAME.mp4 (or .flac), and NAME.png where the page shows a picture. Without names, all of them.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from vatt_core.pipeline import GenerateRequest, Pipeline
from vatt_core.requests import Take
from vatt_core.world.kinds import MATERIALS
from vatt_core.world.scene import Scene, describe, split_seed
from vatt_core.world.write import write_clip

HERE = Path(__file__).parent
FIRST_CLIP = 800_000
"""Of the held-out split, away from the clips that figures are taken from."""

FPS = Fraction(24)
SIZE = 128
"""Pixels of a side."""

WIDTH, COLOURS = 1000, 64
"""Of pictures, which shall be small."""


class Studio:
    """The model, and a folder in which clips and takes are made before the good ones are copied."""

    def __init__(self, pipeline: Pipeline, folder: Path) -> None:
        self.pipeline, self.folder = pipeline, folder

    def clip(self, number: int, **options: Any) -> tuple[Scene, Path]:
        """A held-out clip of the procedural world, silent."""
        scene = describe(split_seed("held_out", FIRST_CLIP + number), **options)
        path = self.folder / f"{number}.mp4"
        if not path.exists():
            write_clip(scene, path, fps=FPS, size=SIZE)
        return scene, path

    def take(self, clip: Path, **options: Any) -> Take:
        """The better-ranked of two takes, with picture and muxed copy."""
        settings: dict[str, Any] = {"takes": 2, "seed": 1, "preview": True, **options}
        return self.pipeline.generate(GenerateRequest(clip, output=self.folder / "takes", **settings)).takes[0]


def keep(name: str, take: Take, *, picture: bool = False) -> None:
    """Copy what is heard and, with `picture`, what is seen of a take into the docs."""
    heard = Path(take.muxed or take.wav)
    shutil.copyfile(heard, HERE / f"{name}{heard.suffix}")
    if picture and take.preview:
        with Image.open(take.preview) as seen:
            small = seen.convert("RGB").resize((WIDTH, seen.height * WIDTH // seen.width), Image.Resampling.LANCZOS)
        small.quantize(COLOURS).save(HERE / f"{name}.png", optimize=True)


def other_material(words: str) -> str:
    """A caption with its material exchanged."""
    for one, other in (MATERIALS, MATERIALS[::-1]):
        if one in words.split():
            return words.replace(one, other)
    raise ValueError(f"{words!r} names no material")


def ball(studio: Studio) -> None:
    _, path = studio.clip(0, kind="ball", layout="single", seconds=8.0)
    keep("ball", studio.take(path), picture=True)


def hammer(studio: Studio) -> None:
    """One clip with two prompts, then a part of the first take by the words of the second, then a variation."""
    scene, path = studio.clip(24, kind="hammer", layout="single", seconds=6.0)
    base = studio.take(path, prompt=scene.caption)
    other = other_material(scene.caption)
    keep("hammer", base, picture=True)
    keep("hammer-other", studio.take(path, prompt=other))
    *_, last = scene.event_times
    region = (Fraction(round(last * 10) - 3, 10), Fraction(round(last * 10) + 9, 10))
    keep("hammer-region", studio.take(path, base=Path(base.sidecar), region=region, prompt=other), picture=True)
    keep("hammer-vary", studio.take(path, base=Path(base.sidecar), vary=0.4, seed=3))


def scenes(studio: Studio) -> None:
    """Two shots, each with words of its own."""
    scene, path = studio.clip(11, layout="two_scenes", seconds=8.0)
    keep("scenes", studio.take(path, prompts=tuple(shot.caption for shot in scene.shots)), picture=True)


def long(studio: Studio) -> None:
    """Longer than the window: three of them, with two seams."""
    scene, path = studio.clip(30, kind="drum", layout="single", seconds=20.0)
    keep("long", studio.take(path, prompt=scene.caption))


def loop(studio: Studio) -> None:
    scene, path = studio.clip(40, kind="rain", layout="single", seconds=4.0)
    files = {"container": "flac", "bits": 16, "sample_rate": 16_000, "preview": False}
    keep("loop", studio.take(path, prompt=scene.caption, loop=True, **files))


EXAMPLES: dict[str, Callable[[Studio], None]] = {make.__name__: make for make in (ball, hammer, scenes, long, loop)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the examples of docs/sound.md anew.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(EXAMPLES))
    names = parser.parse_args().names or list(EXAMPLES)
    if unknown := [name for name in names if name not in EXAMPLES]:
        parser.error(f"there is no example {', '.join(unknown)}")
    with tempfile.TemporaryDirectory(prefix="vatt-examples-") as folder:
        studio = Studio(Pipeline.load("nano", device="cpu"), Path(folder))
        for name in names:
            print(name, flush=True)
            EXAMPLES[name](studio)


if __name__ == "__main__":
    main()
