"""`python -m benchmarks.sound [PART …]`: what docs/sound.md promises, measured on nano and clips of the world.

Parts: lengths (time and memory), seams, leak, region, takes, nudge, suggest. Each prints lines of JSON with its figures. Run
it on a machine that does nothing else; `--clips` scales the parts that count clips.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from vatt_core import scores
from vatt_core.evaluation.judge import load_judge
from vatt_core.evaluation.onsets import f1, match_onsets
from vatt_core.media.spool import Held
from vatt_core.media.watching import motion_curve
from vatt_core.media.waves import read_wave
from vatt_core.pipeline import GenerateRequest, Pipeline, SuggestRequest
from vatt_core.requests import GenerateResult
from vatt_core.windows import plan_windows
from vatt_core.work import Work
from vatt_core.world.scene import Scene, describe, split_seed
from vatt_core.world.sound import synthesise
from vatt_core.world.write import write_clip

STRIKING = ("ball", "hammer", "drum", "bell", "clock")
"""Kinds whose clips have clear events."""

FIRST_CLIP = 700_000
"""Of the held-out split, away from the clips that other figures are taken from."""

SHIFTS = (Fraction(-3, 10), Fraction(-1, 5), Fraction(1, 5), Fraction(3, 10))
"""Seconds by which pictures are shifted before the shift shall be found."""

LONG = (60, 600)
"""Seconds of the long clips."""

NEAR = 0.5
"""Seconds to either side of a seam that count as near it."""


class Bench:
    """A loaded model, a folder for clips, and how many of them each part takes."""

    def __init__(self, pipeline: Pipeline, folder: Path, clips: int) -> None:
        self.pipeline, self.folder, self.clips = pipeline, folder, clips

    def clip(self, number: int, *, kind: str | None = None, seconds: float = 10.0, **more: Any) -> tuple[Scene, Path]:
        scene = describe(split_seed("held_out", FIRST_CLIP + number), kind=kind, seconds=seconds, **more)
        path = self.folder / f"{number}-{scene.shots[0].sources[0].kind}-{seconds:g}.mp4"
        if not path.exists():
            write_clip(scene, path, fps=Fraction(24), size=96)
        return scene, path

    def generate(self, path: Path, prompt: str | None, **options: Any) -> GenerateResult:
        return self.pipeline.generate(
            GenerateRequest(path, output=self.folder / "out", prompt=prompt, **{"seed": 1, **options})
        )

    def wave(self, path: str) -> NDArray[np.float32]:
        return read_wave(path, sample_rate=self.pipeline.timing.sample_rate)


def lengths(bench: Bench) -> Iterator[dict[str, Any]]:
    """Seconds per minute of clip and peak memory, each length in a process of its own, and what ten minutes add to one."""
    found: list[dict[str, Any]] = []
    for seconds in (10, *LONG):
        bench.clip(0, kind="hammer", layout="single", seconds=seconds)  # written here: its memory is not the pipeline's
        code = (
            "import os, sys, time; from benchmarks.measure import peak_memory; from benchmarks.sound import *\n"
            f"b = Bench(Pipeline.load('nano', device='cpu'), Path(sys.argv[1]), 1); s, p = b.clip(0, kind='hammer', "
            f"layout='single', seconds={seconds})\n"
            "b.generate(p, s.caption, end=Fraction(1)); t = time.perf_counter(); r = b.generate(p, s.caption)\n"
            "w = time.perf_counter() - t; m = peak_memory(os.getpid())\n"
            f"print(json.dumps(dict(seconds={seconds}, wall=round(w, 2), per_minute=round(w * 60 / {seconds}, 2), "
            "peak_mib=round(m), stages=r.seconds)))"
        )
        command = [sys.executable, "-c", code, str(bench.folder)]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(ran.stdout.splitlines()[-1]))
        yield found[-1]
    _, minute, ten = found
    yield {
        "seconds": f"{LONG[0]} to {LONG[1]}",
        "per_minute_grows_by": round(ten["per_minute"] / minute["per_minute"] - 1, 3),
        "peak_grows_by": round(ten["peak_mib"] / minute["peak_mib"] - 1, 3),
    }


def seams(bench: Bench) -> Iterator[dict[str, Any]]:
    """Energy jump and spectral distance at seams against ordinary instants, and onset F1 near seams against elsewhere."""
    timing = bench.pipeline.timing
    for seconds in LONG:
        for kind in ("hammer", "rain"):
            scene, path = bench.clip(1, kind=kind, layout="single", seconds=seconds)
            take = bench.generate(path, scene.caption, cuts=()).takes[0]
            wave = bench.wave(take.wav)
            at = [w.keep_from / float(timing.code_rate) for w in plan_windows(Fraction(seconds), timing)][1:]
            # Seams lie between two video tokens, so ordinary instants do as well.
            token = float(1 / timing.video_token_rate)
            ordinary = [t for t in np.arange(1, seconds - 1, token) if min(abs(t - s) for s in at) > NEAR]
            told: dict[str, Any] = {"seconds": seconds, "kind": kind, "seams": len(at)}
            for name, measure in (("energy_jump_db", energy_jump), ("spectral_distance_db", spectral_distance)):
                here, there = ([measure(wave, t, timing.sample_rate) for t in times] for times in (at, ordinary))
                # How likely seams would look so, or larger, if they were ordinary instants.
                chance = round(float(mannwhitneyu(here, there, alternative="greater").pvalue), 3)
                told[name] = {"seams": _quartiles(here), "ordinary": _quartiles(there), "chance": chance}
            if scene.event_times:
                near, far = (_f1_where(take.onsets, scene.event_times, at, near=near) for near in (True, False))
                told |= {"onset_f1_near": round(near, 3), "onset_f1_elsewhere": round(far, 3)}
            yield told


def _f1_where(found: Sequence[float], true: Sequence[float], at: Sequence[float], *, near: bool) -> float:
    def chosen(times: Sequence[float]) -> list[float]:
        return [t for t in times if (min(abs(t - s) for s in at) <= 2 * NEAR) == near]

    return f1([match_onsets(chosen(found), chosen(true))])


def energy_jump(wave: NDArray[np.float32], at: float, rate: int) -> float:
    """Difference in level of the 50 ms before and after an instant, dB."""
    middle, span = round(at * rate), round(0.05 * rate)
    levels = [10 * np.log10(np.mean(part.astype(np.float64) ** 2) + 1e-9) for part in
              (wave[middle - span : middle], wave[middle : middle + span])]  # fmt: skip
    return float(abs(levels[1] - levels[0]))


def spectral_distance(wave: NDArray[np.float32], at: float, rate: int) -> float:
    """Mean difference of the spectra of the 64 ms before and after an instant, dB."""
    middle, span = round(at * rate), round(0.064 * rate)
    spectra = [20 * np.log10(np.abs(np.fft.rfft(part * np.hanning(span))) + 1e-3) for part in
               (wave[middle - span : middle], wave[middle : middle + span])]  # fmt: skip
    return float(np.abs(spectra[1] - spectra[0]).mean())


def _quartiles(values: Sequence[float]) -> list[float]:
    return [round(float(value), 2) for value in np.quantile(values, (0.25, 0.5, 0.75, 0.95))]


def leak(bench: Bench) -> Iterator[dict[str, Any]]:
    """After a hard cut, is the first scene still heard? By the judge, beside the true sound, kinds that were never there, and
    the sound before the cut."""
    judge = load_judge()
    heard: dict[str, list[float]] = {
        "first_kind_after_cut": [], "true_sound": [], "other_kinds": [], "own_kind": [], "first_kind_before_cut": [],
    }  # fmt: skip
    for number in range(bench.clips):
        scene, path = bench.clip(100 + number, layout="two_scenes")
        take = bench.generate(path, None, prompts=tuple(shot.caption for shot in scene.shots),
                              cuts=(Fraction(scene.shots[1].start).limit_denominator(1000),)).takes[0]  # fmt: skip
        begin, end = (round((scene.shots[1].start + beside) * judge.sample_rate) for beside in (0.1, -0.1))
        first, second = (shot.sources[0].kind for shot in scene.shots)
        wave, true = bench.wave(take.wav), synthesise(scene, sample_rate=judge.sample_rate)
        after, before, truly = (
            judge.listen(part)[0].kinds for part in (wave[begin:], wave[:end], true[begin:].astype(np.float32))
        )
        heard["first_kind_after_cut"].append(after[first])
        heard["true_sound"].append(truly[first])
        heard["own_kind"].append(after[second])
        heard["other_kinds"].append(float(np.mean([p for kind, p in after.items() if kind not in (first, second)])))
        heard["first_kind_before_cut"].append(before[first])
    yield {"clips": bench.clips} | {name: round(float(np.mean(values)), 3) for name, values in heard.items()}


def region(bench: Bench) -> Iterator[dict[str, Any]]:
    """A region against the whole, in seconds, both of a clip that has been looked at."""
    scene, path = bench.clip(2, kind="hammer", layout="single", seconds=60)
    base = bench.generate(path, scene.caption).takes[0]
    whole = _timed(lambda: bench.generate(path, scene.caption, seed=2))
    part = _timed(
        lambda: bench.generate(path, None, base=Path(base.sidecar), region=(Fraction(30), Fraction(32)), seed=3)
    )
    yield {"whole_60_s": whole, "region_2_s_of_60_s": part, "share": round(part / whole, 3)}


def takes(bench: Bench) -> Iterator[dict[str, Any]]:
    """n takes at once against n calls, and the best-ranked take against the mean one."""
    scene, path = bench.clip(3, kind="hammer", layout="single")
    bench.generate(path, scene.caption)
    together = _timed(lambda: bench.generate(path, scene.caption, takes=8))
    apart = _timed(lambda: [bench.generate(path, scene.caption, seed=seed) for seed in range(8)])
    yield {"takes": 8, "together": together, "apart": apart, "ratio": round(together / apart, 3)}
    top, mean = [], []
    for number in range(bench.clips):
        scene, path = bench.clip(200 + number, kind=STRIKING[number % len(STRIKING)], layout="single")
        found = bench.generate(path, scene.caption, takes=4).takes
        values = [f1([match_onsets(take.onsets, scene.event_times)]) for take in found]
        top.append(values[0])
        mean.append(float(np.mean(values)))
    gain = np.array(top) - np.array(mean)
    yield {
        "clips": bench.clips,
        "f1_of_top": round(float(np.mean(top)), 3),
        "f1_of_mean": round(float(np.mean(mean)), 3),
        "gain": round(float(gain.mean()), 3),
        "standard_error": round(float(gain.std() / np.sqrt(len(gain))), 3),
    }


def nudge(bench: Bench) -> Iterator[dict[str, Any]]:
    """Pictures shifted against the clip before they condition the sound: is the shift taken back?"""
    pipeline, timing = bench.pipeline, bench.pipeline.timing
    errors, gains, worse = [], [], 0
    for number in range(bench.clips):
        scene, path = bench.clip(300 + number, kind=STRIKING[number % len(STRIKING)], layout="single")
        request = GenerateRequest(path, output=bench.folder / "out", prompt=scene.caption, cuts=(), seed=1)
        work = Work()
        clip, _ = pipeline._worded(pipeline._see(request, work, cuts=()), request, 1, work)
        frames = round(SHIFTS[number % len(SHIFTS)] * timing.frame_rate)
        (shot,) = clip.shots
        shifted = dataclasses.replace(shot, features=torch.roll(shot.features, frames, dims=0))
        codes = pipeline._start(clip, request, None)
        codes = pipeline._composed(dataclasses.replace(clip, shots=[shifted]), request, codes, [1], work)
        motion = motion_curve(clip.watched, float(clip.duration))
        after, (by,) = pipeline._nudged(clip, request, codes, [1], motion, work)
        errors.append(abs((by or 0.0) + frames / float(timing.frame_rate)))
        curves = [scores.sound_curve(Held(pipeline.sound(c)[0].numpy(), timing.sample_rate)) for c in (codes, after)]
        before_score, after_score = (scores.agreement(curve, motion) or 0.0 for curve in curves)
        gains.append(after_score - before_score)
        worse += after_score < before_score - 1e-6
    within = float(np.mean(np.array(errors) <= 0.04 + 1e-9))
    yield {"clips": bench.clips, "within_40_ms": round(within, 3), "median_error_ms": round(1000 * float(np.median(errors))),
           "made_worse": worse, "mean_gain": round(float(np.mean(gains)), 3)}  # fmt: skip


def suggest(bench: Bench) -> Iterator[dict[str, Any]]:
    """Three different captions after the frames are known, in seconds."""
    walls, counts = [], []
    for number in range(min(bench.clips, 10)):
        _, path = bench.clip(400 + number)
        result = bench.pipeline.suggest(SuggestRequest(path, seed=1))
        walls.append(result.seconds["caption"])
        counts.append(len(result.captions))
    yield {"clips": len(walls), "caption_s": round(float(np.median(walls)), 3), "captions": float(np.mean(counts))}


def _timed(action: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    action()
    return round(time.perf_counter() - begun, 2)


PARTS = {part.__name__: part for part in (lengths, seams, leak, region, takes, nudge, suggest)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sound", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown or options.clips < 1:
        parser.error(f"there is no part {', '.join(unknown)}" if unknown else "--clips must be at least 1")
    with tempfile.TemporaryDirectory(prefix="vatt-bench-") as folder:
        bench = Bench(Pipeline.load(options.model, device=options.device), Path(folder), options.clips)
        for part in options.parts or PARTS:
            for figures in PARTS[part](bench):
                print(json.dumps({"part": part, **figures}), flush=True)


if __name__ == "__main__":
    main()
