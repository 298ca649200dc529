"""The clips that everything is measured on, and a folder that keeps what is slow to make of them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vatt_core.errors import BadRequest
from vatt_core.timing import Timing
from vatt_core.world.kinds import KINDS
from vatt_core.world.scene import Layout, Scene, Split, describe, split_seed
from vatt_core.world.sound import synthesise
from vatt_core.world.write import compressed_frames

DOUBLE_FROM = 500_000
"""First clip of a split of those that are searched for the double group."""


def evaluation_scenes(
    single: int = 240, double: int = 60, *, seconds: float = 10.0, split: Split = "held_out"
) -> dict[str, list[Scene]]:
    """The clips of both groups, always the same ones. Every clip has a partner of the same kinds (see `partners`).

    Settings are chosen on the validation split, so that the held-out split stays what nothing was chosen on. single:
    every kind in turn. double: two clips of each pair of kinds, half with two kinds at once and half with two scenes.
    Raises BadRequest for negative numbers.
    """
    if single < 0 or double < 0:
        raise BadRequest(f"{single} single and {double} double clips are not possible: give numbers from 0 on.")
    kinds = list(KINDS)
    return {
        "single": [
            describe(split_seed(split, index), kind=kinds[index % len(kinds)], layout="single", seconds=seconds)
            for index in range(single)
        ],
        "double": _pairs(double, seconds, split),
    }


def _pairs(count: int, seconds: float, split: Split) -> list[Scene]:
    kinds = list(KINDS)
    scenes: list[Scene] = []
    seed = split_seed(split, DOUBLE_FROM)
    while len(scenes) < count:
        # Two clips of the same pair and layout follow each other.
        pair = len(scenes) // 2
        layout: Layout = ("two_kinds", "two_scenes")[pair % 2]
        first = kinds[pair % len(kinds)]
        second = kinds[(pair + 1 + (pair // len(kinds) * 4 + pair * 3) % (len(kinds) - 1)) % len(kinds)]
        while True:
            scene = describe(seed, kind=first, layout=layout, seconds=seconds)
            seed += 1
            if [source.kind for source in scene.sources] == [first, second]:
                break
        scenes.append(scene)
    return scenes


def partners(scenes: list[Scene]) -> list[int | None]:
    """For each clip another one with the same layout and kinds, going round; None where there is no other."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for index, scene in enumerate(scenes):
        alike.setdefault((scene.layout, *(source.kind for source in scene.sources)), []).append(index)
    found: list[int | None] = [None] * len(scenes)
    for members in alike.values():
        if len(members) > 1:
            for here, there in zip(members, members[1:] + members[:1], strict=True):
                found[here] = there
    return found


def strangers(scenes: list[Scene]) -> list[int | None]:
    """For each clip another one whatever its kinds, by a fixed shuffle; None when there is only one clip."""
    if len(scenes) < 2:
        return [None] * len(scenes)
    order = np.random.Generator(np.random.PCG64(7)).permutation(len(scenes)).tolist()
    following = dict(zip(order, order[1:] + order[:1], strict=True))
    return [following[index] for index in range(len(scenes))]


@lru_cache(maxsize=1)
def _world_code() -> str:
    """Fingerprint of the code that makes the clips: a changed world is another cache."""
    whole = hashlib.sha256()
    for entry in sorted(files("vatt_core.world").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".py"):
            whole.update(entry.read_bytes())
    return whole.hexdigest()


class ClipStore:
    """Pictures and true sound of clips. cache: a folder that keeps the pictures (2.5 MB per clip of nano) between runs.

    Nothing is kept without a folder. The folder may be shared and may be removed at any time.
    """

    def __init__(self, timing: Timing, *, image_size: int = 64, cache: Path | None = None) -> None:
        self.timing, self.image_size, self.cache = timing, image_size, cache

    def sound(self, scene: Scene) -> NDArray[np.float32]:
        """[samples] at the model's sample rate. Cheap, so not kept."""
        return synthesise(scene, sample_rate=self.timing.sample_rate)

    def frames(self, scene: Scene) -> NDArray[np.uint8]:
        """[frames, size, size, 3] at the model's frame rate, after H.264."""
        return self._kept(scene, lambda: compressed_frames(scene, fps=self.timing.frame_rate, size=self.image_size))

    def _kept(self, scene: Scene, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        if self.cache is None:
            return make()
        said = json.dumps(scene.to_dict(), sort_keys=True)
        key = f"{_world_code()} {self.timing.frame_rate} {self.image_size} {said}"
        path = self.cache / f"{scene.seed}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
        try:
            return np.load(path)
        except (OSError, ValueError):
            made = make()
            _write_array(path, made)
            return made


def _write_array(path: Path, array: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, array)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
