"""An earlier take as the ground of a new one: its codes, its samples, its level, and where it lies on the new timeline."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vatt_core.errors import BadRequest, InputNotVisible
from vatt_core.files import content_hash
from vatt_core.media.spool import Held
from vatt_core.media.time_map import TimeMap
from vatt_core.media.waves import read_sound
from vatt_core.requests import GenerateRequest
from vatt_core.sidecar import read_sidecar, request_from_sidecar, sidecar_beside
from vatt_core.timing import Timing

Codes = NDArray[np.int64]
_MOST_CODES = 1 << 26


@dataclass(frozen=True)
class EarlierTake:
    """sound: its samples, exactly. codes: [K, T], None for a sound that no model of ours has made (or that was changed
    since): then they are found from the sound. lag: seconds from its first sample back to its first code frame. gain: the
    factor from the model's wave to its samples. ceiling: dBTP under which it was kept, None where it was kept under none.
    starts: its begin on the new timeline, seconds. faded: seconds at either end that are faded. said: the wording of the
    earlier request (prompt, prompts, negative_prompt, negative_prompts, cuts).
    """

    sound: Held
    codes: Codes | None
    lag: Fraction = Fraction(0)
    gain: float = 1.0
    ceiling: float | None = None
    starts: Fraction = Fraction(0)
    faded: Fraction = Fraction(0)
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def duration(self) -> Fraction:
        return Fraction(self.sound.samples, self.sound.sample_rate)


def pack_codes(codes: Codes) -> dict[str, Any]:
    """Codes [K, T] for a side-car: a few kilobytes for ten seconds."""
    data = zlib.compress(np.ascontiguousarray(codes, "<u2").tobytes(), 9)
    return {"shape": list(codes.shape), "data": base64.b64encode(data).decode()}


def unpack_codes(packed: Any, timing: Timing) -> Codes | None:
    """What `pack_codes` made; None where it does not belong to a model of this timing, or is damaged."""
    try:
        books, frames = (int(side) for side in packed["shape"])
        if books != timing.codebooks or not 0 < books * frames <= _MOST_CODES:
            return None
        data = zlib.decompressobj().decompress(base64.b64decode(packed["data"], validate=True), 2 * books * frames)
        codes = np.frombuffer(data, "<u2").astype(np.int64).reshape(books, frames)
    except (KeyError, TypeError, ValueError, zlib.error):
        return None
    return codes if int(codes.max()) < timing.codebook_size else None


def load_earlier(
    request: GenerateRequest, time_map: TimeMap, timing: Timing, *, clip: Path, model_hash: str
) -> EarlierTake:
    """The take named by `request.base`, placed on the timeline of `time_map`.

    base: a side-car, or a sound file; of the latter, the side-car beside it counts where it belongs to it. model_hash:
    codes of other weights are not used. Raises BadRequest for a take of another length, rate or place or of more bits, and
    what reading a side-car and a sound raises.
    """
    assert request.base is not None
    path = request.base
    if path.suffix.lower() == ".json":
        sidecar = read_sidecar(path)
        wav = path.with_name(Path(str(sidecar.get("wav", ""))).name)
        if not wav.is_file():
            raise InputNotVisible(f"The sound {wav} of this take is gone. Name another take.", path=str(wav))
    else:
        wav, sidecar = path, sidecar_beside(path)
    rate, wave = read_sound(wav)
    if rate != request.sample_rate:
        raise BadRequest(
            f"{wav.name} has {rate} samples per second, {request.sample_rate} are asked for: ask for {rate}.",
            field="sample_rate",
        )
    sound = Held(wave, rate)
    starts = Fraction(0)
    if sidecar:
        starts = _place(sidecar, time_map, clip)
    same_length = sound.samples == round(time_map.duration * rate) and starts == 0
    if not same_length and (request.region is not None or request.vary is not None or not sidecar):
        raise BadRequest(
            f"{wav.name} lasts {sound.samples / rate:.3f} s, the clip {float(time_map.duration):.3f} s: name a take of this "
            "clip, or leave region and vary out to extend it.",
            field="base",
        )
    if not sidecar:
        return EarlierTake(sound, None)
    made = request_from_sidecar(sidecar, path.parent)
    if made.bits > request.bits:
        raise BadRequest(
            f"{wav.name} has {made.bits} bits, {request.bits} are asked for, and what is kept has to stay as it is: ask "
            f"for {made.bits}.",
            field="bits",
        )
    try:
        lag, gain = Fraction(sidecar.get("lag", 0)), float(sidecar.get("gain", 1.0))
        ceiling = sidecar.get("ceiling", made.ceiling)
        ceiling = None if ceiling is None else float(ceiling)
    except (TypeError, ValueError, ZeroDivisionError):
        if path == wav:
            return EarlierTake(sound, None, starts=starts)
        raise BadRequest(f"The side-car {path} is damaged. Name the sound file instead.", field="base") from None
    faded = Fraction(0 if made.loop else made.fade) / 1000
    # Where the clip goes on beyond the take there may be more shots, unless each of them has words of its own.
    in_shots = same_length or (starts == 0 and bool(made.prompts or made.negative_prompts))
    said = _wording(made, in_shots=in_shots)
    take = EarlierTake(sound, None, ceiling=ceiling, starts=starts, faded=faded, said=said)
    if sidecar.get("wav_sha256") != content_hash(wav) or sidecar["model"].get("hash") != model_hash:
        return take
    codes = unpack_codes(sidecar.get("codes"), timing)
    return take if codes is None else replace(take, codes=codes, lag=lag, gain=gain)


def _wording(earlier: GenerateRequest, *, in_shots: bool) -> dict[str, Any]:
    """What an earlier take was made from, in the request's own fields. in_shots: also its shots and what belongs to each."""
    names = ("prompt", "negative_prompt", *(("prompts", "negative_prompts", "cuts") if in_shots else ()))
    return {name: getattr(earlier, name) for name in names}


def _place(sidecar: dict[str, Any], time_map: TimeMap, clip: Path) -> Fraction:
    """Seconds on the new timeline at which a take of the same clip begins."""
    try:
        old = TimeMap.from_list(sidecar["clip"]["time_map"])
        same_clip = Path(sidecar["clip"]["path"]).name == clip.name
    except (KeyError, TypeError) as error:
        raise BadRequest(f"The side-car is damaged ({error}). Name the sound file instead.", field="base") from error
    if not same_clip:
        raise BadRequest(
            f"The earlier take belongs to another clip than {clip.name}. Name one of this clip.", field="base"
        )
    if old.points == time_map.points:
        return Fraction(0)
    starts = old.points[0][1] - time_map.points[0][1]
    if not old.at_own_speed or not time_map.at_own_speed or starts >= time_map.duration or -starts >= old.duration:
        raise BadRequest(
            "The earlier take has another range or speed, and does not lie in this one. Name a take of this range.",
            field="base",
        )
    return starts


@dataclass(frozen=True)
class Ground:
    """What of an earlier take stays, on the new grid. codes: [K, T], the mask token where nothing is known. lag: seconds
    from the clip's begin back to code frame 0. old: samples [first, last) of the clip that the old sound may keep."""

    codes: Codes
    lag: Fraction
    old: tuple[int, int]


def ground(take: EarlierTake, codes: Codes, duration: Fraction, timing: Timing) -> Ground:
    """Lay an earlier take under a clip of `duration` seconds. codes: those of the take.

    Where the clip goes on beyond the take, the faded end of the take is given up.
    """
    step = 1 / timing.code_rate
    lag = (take.lag - take.starts) % step
    offset = int((take.starts - take.lag + lag) / step)
    frames = timing.code_frames_in(duration + lag)
    ends = take.starts + take.duration
    # [from, to): seconds of the new timeline in which the old sound is kept.
    begin = take.starts + take.faded if take.starts > 0 else Fraction(0)
    end = ends - take.faded if ends < duration else duration
    laid = np.full((timing.codebooks, frames), timing.mask, np.int64)
    first = -int(-(begin + lag) / step // 1) if take.starts > 0 else 0
    last = int((end + lag) / step // 1) if ends < duration else frames
    place = np.arange(frames)
    origin = place - offset
    usable = (place >= first) & (place < last) & (origin >= 0) & (origin < codes.shape[1])
    laid[:, usable] = codes[:, origin[usable]]
    rate = take.sound.sample_rate
    return Ground(laid, lag, (max(0, round(begin * rate)), min(round(duration * rate), round(end * rate))))
