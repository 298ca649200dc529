"""World clips on disk as training reads them: sounds and compressed pictures in flat memory-mapped arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vatt_core.errors import BadModel
from vatt_core.timing import Timing
from vatt_core.world import scene as world
from vatt_core.world.sound import synthesise
from vatt_core.world.write import compressed_frames

Part = Literal["sounds", "frames"]


class WorldClips:
    """Clips `0 … count-1` of one split, each as long as the model's window.

    sounds: int16 [count, samples] at the codec's rate. frames: uint8 [count, frames, size, size, 3] at the model's frame
    rate, after H.264. scenes: their descriptions. Arrays are filled by :meth:`write`, chunk by chunk; an interrupted
    filling goes on where it stopped.
    """

    def __init__(self, folder: Path, split: world.Split, count: int, timing: Timing, *, image_size: int = 64) -> None:
        self.folder = folder / split
        self.split: world.Split = split
        self.count = count
        self.timing = timing
        self.image_size = image_size
        self.scenes = [
            world.describe(world.split_seed(split, index), seconds=float(timing.window)) for index in range(count)
        ]

    def _shape(self, part: Part) -> tuple[int, ...]:
        if part == "sounds":
            return (self.count, self.timing.samples)
        return (self.count, self.timing.frames, self.image_size, self.image_size, 3)

    def _open(self, part: Part, *, writable: bool = False) -> NDArray[Any]:
        path = self.folder / f"{part}.npy"
        shape = self._shape(part)
        if not path.exists():
            if not writable:
                raise BadModel(f"{path} has not been written; run the data stage of the training first")
            self.folder.mkdir(parents=True, exist_ok=True)
            dtype = np.int16 if part == "sounds" else np.uint8
            return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        array = np.lib.format.open_memmap(path, mode="r+" if writable else "r")
        if array.shape != shape:
            raise BadModel(f"{path} holds {array.shape}, wanted are {shape}; remove it or choose a new folder")
        return array

    @property
    def sounds(self) -> NDArray[np.int16]:
        return self._open("sounds")

    @property
    def frames(self) -> NDArray[np.uint8]:
        return self._open("frames")

    def write(self, part: Part, *, workers: int = 1, progress: Callable[[int, int], None] | None = None) -> None:
        """Fill one array. `workers` processes share the work; progress(done, count) after every chunk."""
        marker = self.folder / f"{part}.json"
        done = json.loads(marker.read_text())["done"] if marker.exists() else 0
        if done >= self.count:
            return
        array = self._open(part, writable=True)
        make = partial(_sound, self.timing) if part == "sounds" else partial(_frames, self.timing, self.image_size)
        chunk = 16 * workers
        with ProcessPoolExecutor(workers) as pool:

            def begin(start: int) -> Iterator[NDArray[Any]]:
                return pool.map(make, self.scenes[start : start + chunk], chunksize=4)

            coming = begin(done)
            while done < self.count:
                # The processes go on while what is there is written to the disk.
                values, coming = coming, begin(done + chunk)
                for value in values:
                    array[done] = value
                    done += 1
                array.flush()  # type: ignore[attr-defined]
                temporary = marker.with_suffix(".part")
                temporary.write_text(json.dumps({"done": done}))
                os.replace(temporary, marker)
                if progress is not None:
                    progress(done, self.count)


def _sound(timing: Timing, scene: world.Scene) -> NDArray[np.int16]:
    return to_int16(synthesise(scene, sample_rate=timing.sample_rate))


def _frames(timing: Timing, size: int, scene: world.Scene) -> NDArray[np.uint8]:
    return compressed_frames(scene, fps=timing.frame_rate, size=size)


TWO_KINDS_WEIGHT = 3.0
"""How much oftener a clip is drawn that shows two things at once: cuts come from single clips for nothing, these do not."""


def draw_weights(scenes: Sequence[world.Scene]) -> Tensor:
    """How often each clip is drawn, float32 [N], not normalised."""
    return torch.tensor([TWO_KINDS_WEIGHT if scene.layout == "two_kinds" else 1.0 for scene in scenes])


CUT_SHARE = 0.15
"""Of the clips with one thing, how many are cut to another one: what two things look like must not be learnt from few clips."""


def draw_cut(timing: Timing, generator: torch.Generator) -> int:
    """Where a clip is cut to another, in video tokens: a whole second, at least two from both ends."""
    second = 2 + int(torch.randint(int(timing.window) - 3, (), generator=generator))
    return second * int(timing.video_token_rate)


def cut_scenes(first: world.Scene, second: world.Scene, seconds: float) -> world.Scene:
    """What is seen and heard when a clip with one shot is cut at an instant to the rest of another: for texts only, the
    events of both stay as they were."""
    shots = (replace(first.shots[0], end=seconds), replace(second.shots[0], start=seconds))
    return replace(first, layout="two_scenes", shots=shots)


def to_int16(wave: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.round(np.clip(wave, -1, 1) * 32767).astype(np.int16)


def event_targets(scenes: Sequence[world.Scene], timing: Timing) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where events fall on the frame grid: (present, strength), both float32 [B, frames], 0 where there is none."""
    present = np.zeros((len(scenes), timing.frames), np.float32)
    strength = np.zeros_like(present)
    for row, scene in enumerate(scenes):
        for source in scene.sources:
            for event in source.events:
                slot = int(event.time * timing.frame_rate)
                if 0 <= slot < timing.frames:
                    present[row, slot] = 1
                    strength[row, slot] = max(strength[row, slot], event.strength)
    return present, strength
