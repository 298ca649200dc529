"""From a generated wave to the files of a take: exact length, loudness, Broadcast WAV, preview, muxed copy, side-car."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from vatt_core.errors import BadRequest
from vatt_core.evaluation.onsets import detect_onsets
from vatt_core.files import free_names
from vatt_core.media.atomic import write_bytes
from vatt_core.media.loudness import edge_fades, integrated_loudness, normalise
from vatt_core.media.mux import mux_sound, muxed_suffix
from vatt_core.media.preview import write_preview
from vatt_core.media.probe import ClipInfo
from vatt_core.media.time_map import TimeMap
from vatt_core.media.timecode import time_reference
from vatt_core.media.waves import Bits, fit_length, resample, write_wave
from vatt_core.requests import GenerateRequest, Take
from vatt_core.sidecar import describe_take


@dataclass(frozen=True)
class TakeWriter:
    """Writes the takes of one request. frames: uint8 [N, H, W, 3] at `frame_rate`, for previews. wave_rate: samples per
    second of the waves that come in. model: name, hash and device, for the side-car."""

    info: ClipInfo
    time_map: TimeMap
    request: GenerateRequest
    prompt: str
    frames: NDArray[np.uint8]
    frame_rate: Fraction
    wave_rate: int
    model: dict[str, str]

    @property
    def at_own_speed(self) -> bool:
        """Whether the range is played forwards at the clip's own speed: only then sound and source stay in step."""
        return all(t1 - t0 == s1 - s0 for (t0, s0), (t1, s1) in itertools.pairwise(self.time_map.points))

    def time_reference(self) -> int | None:
        """The clip's timecode where the range begins, in samples from midnight; None where there is none that counts."""
        if self.info.timecode is None or not self.at_own_speed:
            return None
        try:
            return time_reference(
                self.info.timecode,
                frame_rate=self.info.frame_rate,
                sample_rate=self.request.sample_rate,
                after=self.time_map.source_at(0),
            )
        except BadRequest:
            return None  # a timecode that does not fit the frame rate

    def write(self, wave: NDArray[np.float32], seed: int, written: list[Path]) -> Take:
        """Finish a wave [samples] and write its files; each path is noted in `written` before it is begun.

        The side-car comes last: where it lies, the take is complete. Raises DiskFull, ForbiddenPath, BadRequest.
        """
        request, rate, duration = self.request, self.request.sample_rate, self.time_map.duration
        wave = fit_length(wave, round(duration * self.wave_rate))
        onsets = tuple(round(float(time), 4) for time in detect_onsets(wave, self.wave_rate))
        finished = fit_length(resample(wave, self.wave_rate, rate), max(1, round(duration * rate)))
        if request.loudness is not None:
            finished = normalise(finished, rate, target_lufs=request.loudness)
        finished = edge_fades(finished, rate)
        loudness = integrated_loudness(finished, rate)

        def begin(path: Path) -> Path:
            written.append(path)
            return path

        copy = muxed_suffix(self.info.path, self.info.codec) if request.preview and self.at_own_speed else None
        suffixes = [".wav", ".json", *([".png"] if request.preview else []), *([copy] if copy else [])]
        names = free_names(request.output, self.info.path.stem, suffixes)
        reference = self.time_reference()
        wav = write_wave(
            begin(names[".wav"]),
            finished,
            sample_rate=rate,
            bits=cast(Bits, request.bits),
            time_reference=reference,
            # The same samples again need the same dither.
            dither=np.random.default_rng(seed) if request.bits == 16 else None,
        )
        if request.preview:
            times = [k / self.frame_rate for k in range(len(self.frames))]
            write_preview(
                begin(names[".png"]),
                self.frames,
                times,
                finished,
                sample_rate=rate,
                onsets=onsets,
                title=self.prompt,
            )
        if copy:
            first, last = self.time_map.source_range
            mux_sound(self.info.path, wav, begin(names[copy]), start=first, end=last)
        sidecar = describe_take(
            wav,
            self.info,
            self.time_map,
            request,
            prompt=self.prompt,
            seed=seed,
            model=self.model,
            stamped=reference is not None,
        )
        write_bytes(begin(names[".json"]), (json.dumps(sidecar, indent=1, ensure_ascii=False) + "\n").encode())
        return Take(
            wav=str(wav),
            sidecar=str(names[".json"].absolute()),
            caption=self.prompt,
            seed=seed,
            samples=len(finished),
            sample_rate=rate,
            onsets=onsets,
            loudness=float(loudness) if np.isfinite(loudness) else None,
            preview=str(names[".png"].absolute()) if request.preview else None,
            muxed=str(names[copy].absolute()) if copy else None,
        )
