"""World clips on disk as training reads them: sounds, what the tower sees of each, and short stretches to teach it."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from vatt_core.errors import BadModel
from vatt_core.media.atomic import write_bytes, writing_error
from vatt_core.timing import Timing
from vatt_core.world import scene as world
from vatt_core.world.sound import synthesise
from vatt_core.world.write import compressed_frames

Item = TypeVar("Item")
Progress = Callable[[int, int], None]

SAVE_SECONDS = 10.0


class Rows:
    """One array on disk, filled row by row in worker processes; an interrupted filling goes on where it stopped."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self.marker = path.with_suffix(".json")

    def read(self) -> NDArray[Any]:
        """The array, mapped from the disk. Raises BadModel when it is not complete or of another shape."""
        if self.done() < self.shape[0]:
            raise BadModel(f"{self.path} has not been written; run the data stage of the training first")
        return self._open("r")

    def done(self) -> int:
        """Rows that are there."""
        return int(json.loads(self.marker.read_text())["done"]) if self.marker.exists() else 0

    def missing_bytes(self) -> int:
        """Bytes on the disk that it does not take up yet."""
        return 0 if self.path.exists() else math.prod(self.shape) * self.dtype.itemsize

    def _create(self) -> NDArray[Any]:
        """The array, empty, its whole length taken from the disk: a mapped file that finds no room later kills its process.
        Raises DiskFull, ForbiddenPath, BadRequest."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            array = np.lib.format.open_memmap(self.path, mode="w+", dtype=self.dtype, shape=self.shape)
            if hasattr(os, "posix_fallocate"):
                with self.path.open("rb+") as file:
                    os.posix_fallocate(file.fileno(), 0, array.offset + array.nbytes)
            return array
        except OSError as error:
            self.path.unlink(missing_ok=True)
            raise writing_error(self.path, error) from error

    def _open(self, mode: Any) -> NDArray[Any]:
        array = np.lib.format.open_memmap(self.path, mode=mode)
        if array.shape != self.shape:
            raise BadModel(
                f"{self.path} holds {array.shape}, wanted are {self.shape}; remove it or choose a new folder"
            )
        return array

    def fill(
        self,
        items: Sequence[Item],
        make: Callable[[Item], NDArray[Any]],
        *,
        finish: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
        workers: int = 1,
        progress: Progress | None = None,
    ) -> None:
        """Row i from item i: `make` in one of `workers` processes (none: in this one), then `finish` in this one;
        progress(done, rows) after every few."""
        done, total = self.done(), self.shape[0]
        if self.path.exists():
            array = self._open("r+")
        elif not done:
            array = self._create()
        else:
            raise BadModel(f"{self.path} is missing, though {self.marker.name} tells of it; remove that too")
        saved = time.monotonic()
        for values in _made(items[done:], make, workers):
            for value in values:
                array[done] = value if finish is None else finish(value)
                done += 1
            if done == total or time.monotonic() - saved > SAVE_SECONDS:
                array.flush()  # type: ignore[attr-defined]
                write_bytes(self.marker, json.dumps({"done": done}).encode())
                saved = time.monotonic()
            if progress is not None:
                progress(done, total)


def _made(
    items: Sequence[Item], make: Callable[[Item], NDArray[Any]], workers: int
) -> Iterator[Iterator[NDArray[Any]]]:
    """What processes make of the items, chunk by chunk; they go on while a chunk is used."""
    if not workers:
        yield from (map(make, items[start : start + 16]) for start in range(0, len(items), 16))
        return
    chunk = 16 * workers
    # Ctrl-C reaches these processes too; the one that started them ends them.
    pool = ProcessPoolExecutor(workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:

        def begin(start: int) -> Iterator[NDArray[Any]]:
            return pool.map(make, items[start : start + chunk], chunksize=4)

        coming = begin(0)
        for start in range(chunk, len(items) + chunk, chunk):
            values, coming = coming, begin(start)
            yield values
    finally:
        pool.shutdown(cancel_futures=True)


class WorldClips:
    """Clips `0 … count-1` of one split, each as long as the model's window.

    layouts: taken in turn, None as the seed has it. scenes: their descriptions. sounds: int16 [count, samples] at the
    codec's rate.
    """

    def __init__(
        self,
        folder: Path,
        split: world.Split,
        count: int,
        timing: Timing,
        *,
        layouts: Sequence[world.Layout | None] = (None,),
    ) -> None:
        self.timing = timing
        self.scenes = [
            world.describe(
                world.split_seed(split, index), layout=layouts[index % len(layouts)], seconds=float(timing.window)
            )
            for index in range(count)
        ]
        self._sounds = Rows(folder / split / "sounds.npy", (count, timing.samples), np.int16)

    @property
    def sounds(self) -> NDArray[np.int16]:
        return self._sounds.read()

    def write_sounds(self, *, workers: int = 1, progress: Progress | None = None) -> None:
        self._sounds.fill(self.scenes, partial(_sound, self.timing), workers=workers, progress=progress)

    def missing_bytes(self) -> int:
        """Bytes on the disk that the sounds do not take up yet."""
        return self._sounds.missing_bytes()


def _sound(timing: Timing, scene: world.Scene) -> NDArray[np.int16]:
    return to_int16(synthesise(scene, sample_rate=timing.sample_rate))


def frames_of(timing: Timing, size: int, scene: world.Scene) -> NDArray[np.uint8]:
    """The pictures of a clip at the model's frame rate, after H.264: uint8 [F, size, size, 3]."""
    return compressed_frames(scene, fps=timing.frame_rate, size=size)


STRETCHES_FROM = 500_000
"""The number of the first stretch's clip in the training split, far from those of whole clips."""
STRETCH_LAYOUTS: tuple[world.Layout, ...] = ("two_kinds", "two_kinds", "two_kinds", "single", "single")
"""Of the stretches, taken in turn. Two things at once are what is hardest to see."""
STRETCH_LEAD = 4
"""Pictures before a stretch that H.264 has seen: the first picture of a video is clearer than what follows."""


@dataclass(frozen=True)
class Stretch:
    """Part of a clip: `tokens` video tokens from number `first` on."""

    scene: world.Scene
    first: int
    tokens: int


def stretch(number: int, timing: Timing, tokens: int) -> Stretch:
    """Stretch `number` of the training split, of a clip of its own: anywhere in it, but where there are events mostly so that
    one is seen."""
    seed = world.split_seed("training", STRETCHES_FROM + number)
    layout = STRETCH_LAYOUTS[number % len(STRETCH_LAYOUTS)]
    scene = world.describe(seed, layout=layout, seconds=float(timing.window))
    rng = np.random.default_rng(seed)
    last = timing.video_tokens - tokens
    events = [time for time in scene.event_times if time < timing.window]
    if not events or rng.random() < 0.25:
        return Stretch(scene, int(rng.integers(last + 1)), tokens)
    token = int(events[rng.integers(len(events))] * timing.video_token_rate)
    return Stretch(scene, int(np.clip(token - rng.integers(tokens), 0, last)), tokens)


def stretch_frames(timing: Timing, size: int, one: Stretch) -> NDArray[np.uint8]:
    """The pictures of a stretch after H.264: uint8 [tokens * frames per token, size, size, 3]."""
    first, count = (n * timing.frames_per_video_token for n in (one.first, one.tokens))
    lead = min(STRETCH_LEAD, first)
    seen = compressed_frames(one.scene, fps=timing.frame_rate, size=size, first=first - lead, count=lead + count)
    return seen[lead:]


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
