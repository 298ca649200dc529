"""From a generated wave to the files of a take: exact length, level, Broadcast WAV or FLAC, preview, muxed copy, side-car.

Sounds are gone through in pieces, so that the memory does not grow with the clip.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import soxr
from numpy.typing import NDArray

from vatt_core.earlier import EarlierTake, pack_codes
from vatt_core.errors import BadRequest
from vatt_core.files import free_names
from vatt_core.media.atomic import write_bytes
from vatt_core.media.loudness import (
    Levelling,
    LoudnessSettings,
    fade_curve,
    levelled,
    loudness_levelling,
    measure_loudness,
    measure_true_peak,
    peak_levelling,
)
from vatt_core.media.mux import mux_sound, muxed_suffix
from vatt_core.media.preview import write_preview
from vatt_core.media.probe import ClipInfo
from vatt_core.media.spool import Sound, Spool, Wave, pieces
from vatt_core.media.time_map import TimeMap
from vatt_core.media.timecode import time_reference
from vatt_core.media.watching import Watched
from vatt_core.media.waves import Bits, Container, write_pieces
from vatt_core.regions import Splice
from vatt_core.requests import GenerateRequest, Take
from vatt_core.scores import Scores
from vatt_core.sidecar import describe_take


@dataclass(frozen=True)
class Composed:
    """A take that has been composed. raw: its wave at the model's rate, as long as the clip. codes: [K, T]. lag: seconds
    from the clip's begin back to code frame 0. splice: where it replaces an earlier take, None: everywhere."""

    seed: int
    raw: Spool
    codes: NDArray[np.int64]
    onsets: tuple[float, ...]
    scores: Scores
    lag: Fraction = Fraction(0)
    splice: Splice | None = None


@dataclass(frozen=True)
class TakeWriter:
    """Writes the takes of one request. request: with the prompts that were used. watched: what previews show of the clip.
    caption: what the takes are made from, in words. model: name, hash and device, for the side-car."""

    info: ClipInfo
    time_map: TimeMap
    request: GenerateRequest
    caption: str
    watched: Watched
    model: dict[str, str]
    earlier: EarlierTake | None = None

    def time_reference(self) -> int | None:
        """The clip's timecode where the range begins, in samples from midnight; None where there is none that counts."""
        if self.info.timecode is None or not self.time_map.at_own_speed:
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

    def write(self, take: Composed, written: list[Path]) -> Take:
        """Finish a take and write its files; each path is noted in `written` before it is begun.

        The side-car comes last: where it lies, the take is complete. Raises DiskFull, ForbiddenPath, BadRequest.
        """
        request, rate = self.request, self.request.sample_rate
        samples = max(1, round(self.time_map.duration * rate))
        with Spool(rate, request.output) as whole, Spool(rate, request.output) as finished:
            for piece in resampled(take.raw, rate, samples, around=request.loop):
                whole.append(piece)
            levelling = self._levelling(whole, take.splice)
            for piece in self._finished(whole, levelling, take):
                finished.append(piece)
            return self._write(take, finished, levelling, written)

    def _levelling(self, sound: Sound, splice: Splice | None) -> Levelling:
        request = self.request
        if splice is not None and self.earlier is not None:
            # What is set into an old sound gets the level that the old one has.
            ceiling = self._ceiling(splice)
            return Levelling(self.earlier.gain, None if ceiling is None else 10 ** (ceiling / 20))
        if request.peak is not None:
            return peak_levelling(sound, request.peak)
        if request.loudness is None:
            return Levelling()
        settings = LoudnessSettings(target_lufs=request.loudness, true_peak_dbtp=request.true_peak)
        return loudness_levelling(sound, settings, channels=request.channels, folder=request.output)

    def _ceiling(self, splice: Splice | None) -> float | None:
        """dBTP that no peak of a take exceeds: that of the sound which it is set into, where there is one that says it."""
        if splice is not None and self.earlier is not None and self.earlier.ceiling is not None:
            return self.earlier.ceiling
        return self.request.ceiling

    def _finished(self, sound: Sound, levelling: Levelling, take: Composed) -> Iterator[Wave]:
        """The samples of the file, in pieces."""
        fade = fade_curve(sound.samples, sound.sample_rate, 0.0 if self.request.loop else self.request.fade)
        noise = np.random.default_rng(take.seed)
        at = 0
        for piece in levelled(sound, levelling):
            piece = _faded(piece, at, sound.samples, fade)
            if take.splice is not None and self.earlier is not None:
                piece = self._spliced(piece, at, take.splice, noise)
            yield piece
            at += len(piece)

    def _spliced(self, piece: Wave, at: int, splice: Splice, noise: np.random.Generator) -> Wave:
        """New sound where the splice says so, the old one elsewhere, bit by bit."""
        assert self.earlier is not None
        shift = round(self.earlier.starts * self.earlier.sound.sample_rate)
        old = self.earlier.sound.read(at - shift, at - shift + len(piece))
        share = splice.weights(at, at + len(piece))
        mixed = old * (1 - share) + piece * share
        if self.request.bits == 16:  # what is kept has its dither already
            mixed = np.rint(mixed * 2**15 + noise.random(len(mixed)) - noise.random(len(mixed))) / 2**15
        return np.where(share > 0, mixed, old).astype(np.float32)

    def _write(self, take: Composed, finished: Spool, levelling: Levelling, written: list[Path]) -> Take:
        request, rate = self.request, self.request.sample_rate

        def begin(path: Path) -> Path:
            written.append(path)
            return path

        wanted = (request.preview or request.mux) and self.time_map.at_own_speed
        copy = muxed_suffix(self.info.path, self.info.codec) if wanted else None
        suffix = f".{request.container}"
        suffixes = [suffix, ".json", *([".png"] if request.preview else []), *([copy] if copy else [])]
        names = free_names(request.output, self.info.path.stem, suffixes)
        reference = self.time_reference()
        wav = write_pieces(
            begin(names[suffix]),
            (np.stack([finished.read(start, stop)] * request.channels) for start, stop in pieces(finished.samples)),
            channels=request.channels,
            sample_rate=rate,
            bits=cast(Bits, request.bits),
            container=cast(Container, request.container),
            time_reference=reference,
            # The same samples again need the same dither; what is spliced brings its own.
            dither=np.random.default_rng(take.seed) if request.bits == 16 and take.splice is None else None,
        )
        if request.preview:
            write_preview(
                begin(names[".png"]),
                self.watched.strip,
                self.watched.strip_times,
                finished,
                onsets=take.onsets,
                cuts=self.watched.cuts if request.cuts is None else request.cuts,
                title=self.caption,
            )
        if copy:
            first, last = self.time_map.source_range
            mux_sound(self.info.path, wav, begin(names[copy]), start=first, end=last)
        loudness = measure_loudness(finished, channels=request.channels)
        peak = measure_true_peak(finished)
        scores: Scores = {**take.scores, "peak": round(peak, 2) if np.isfinite(peak) else None}
        more: dict[str, Any] = {
            "caption": self.caption,
            "loudness": round(loudness, 2) if np.isfinite(loudness) else None,
            "scores": scores,
            "onsets": list(take.onsets),
            "gain": levelling.gain * levelling.scale,
            "ceiling": self._ceiling(take.splice),
            "lag": str(take.lag),
            "codes": pack_codes(take.codes),
        }
        sidecar = describe_take(
            wav,
            self.info,
            self.time_map,
            request,
            seed=take.seed,
            model=self.model,
            stamped=reference is not None,
            **more,
        )
        write_bytes(begin(names[".json"]), (json.dumps(sidecar, indent=1, ensure_ascii=False) + "\n").encode())
        return Take(
            wav=str(wav),
            sidecar=str(names[".json"].absolute()),
            caption=self.caption,
            seed=take.seed,
            samples=finished.samples,
            sample_rate=rate,
            onsets=take.onsets,
            loudness=float(loudness) if np.isfinite(loudness) else None,
            preview=str(names[".png"].absolute()) if request.preview else None,
            muxed=str(names[copy].absolute()) if copy else None,
            scores=scores,
        )


def _faded(piece: Wave, at: int, samples: int, curve: Wave) -> Wave:
    """A piece that begins at sample `at` of a sound, with what the edge fades leave of it."""
    if at >= len(curve) and at + len(piece) <= samples - len(curve):
        return piece
    place = np.arange(at, at + len(piece))
    from_edge = np.minimum(place, samples - 1 - place)
    faded = piece.copy()
    near = from_edge < len(curve)
    faded[near] *= curve[from_edge[near]]
    return faded


def resampled(sound: Sound, rate: int, samples: int, *, around: bool = False) -> Iterator[Wave]:
    """A sound at another rate, in pieces, `samples` in all. around: it is a loop, whose end goes on into its beginning."""
    if sound.sample_rate == rate:
        for start, stop in pieces(samples):
            yield sound.read(start, stop)
        return
    # Beside a loop so much of its other end that both rates have whole samples.
    beside = sound.sample_rate // 10 if around else 0
    left = beside * rate // sound.sample_rate
    stream = soxr.ResampleStream(sound.sample_rate, rate, 1, dtype="float32", quality="HQ")
    given = 0

    def cut(made: Wave) -> Wave:
        nonlocal left, given
        skipped = min(left, len(made))
        left -= skipped
        made = made[skipped:][: samples - given]
        given += len(made)
        return made

    if beside:
        ends = sound.read(sound.samples - beside, sound.samples), sound.read(0, beside)
        yield cut(stream.resample_chunk(ends[0]))
    for start, stop in pieces(sound.samples):
        yield cut(stream.resample_chunk(sound.read(start, stop)))
    rest = ends[1] if beside else np.zeros(0, np.float32)
    yield cut(stream.resample_chunk(rest, last=True))
    if given < samples:
        yield np.zeros(samples - given, np.float32)
