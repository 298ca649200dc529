"""The JSON beside a take: what it was made from, and all that is needed to make it again. Imports no torch."""

from __future__ import annotations

import contextlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

from vatt_core.errors import BadRequest, ForbiddenPath, InputNotVisible
from vatt_core.files import content_hash, fingerprint
from vatt_core.media.probe import ClipInfo
from vatt_core.media.time_map import TimeMap, exact_seconds
from vatt_core.requests import GenerateRequest

SIDECAR_VERSION = 1
LARGEST = 16 << 20
"""Bytes; the codes of ten seconds take four thousand, those of an hour one and a half million."""

SETTINGS = (
    "negative_prompt",
    "prompts",
    "negative_prompts",
    "cuts",
    "reference",
    "preset",
    "guidance_scale",
    "guidance_schedule",
    "steps",
    "temperature",
    "mask_temperature",
    "top_k",
    "nudge",
    "base",
    "region",
    "vary",
    "vary_by",
    "loop",
    "sample_rate",
    "bits",
    "container",
    "channels",
    "loudness",
    "peak",
    "true_peak",
    "fade",
)
"""The fields of the request that decide how a take sounds, beside prompt, seed and time map."""

_SINCE_THE_FIRST = ("negative_prompt", "sample_rate", "bits", "guidance_scale", "steps", "temperature",
                    "mask_temperature", "top_k", "loudness")  # fmt: skip


def describe_take(
    wav: Path,
    info: ClipInfo,
    time_map: TimeMap,
    request: GenerateRequest,
    *,
    seed: int,
    model: dict[str, str],
    stamped: bool,
    **more: Any,
) -> dict[str, Any]:
    """What the side-car of a written take holds. request: with the prompts that were really used. model: its name, hash and
    device. stamped: the WAV carries the clip's timecode. more: what else there is to tell of the take (codes, scores, …).
    """
    first, last = time_map.source_range
    return {
        "version": SIDECAR_VERSION,
        "wav": wav.name,
        "wav_sha256": content_hash(wav),
        "timecode": "source" if stamped else None,
        "clip": {
            "path": str(info.path),
            "fingerprint": fingerprint(info.path),
            "source_range": [str(first), str(last)],
            "time_map": time_map.to_list(),
            "frame_rate": str(info.frame_rate),
            "duration": str(info.duration),
            "timecode": info.timecode,
        },
        "model": model,
        "request": {
            "prompt": request.prompt,
            "seed": seed,
            **{name: _plain(getattr(request, name)) for name in SETTINGS},
        },
        **more,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Fraction | Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def read_sidecar(path: Path) -> dict[str, Any]:
    """A side-car from its file. Raises InputNotVisible, ForbiddenPath, and BadRequest for a file that is none."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
    except PermissionError:
        raise ForbiddenPath(f"{path} may not be read. Give yourself the right to read it.") from None
    except OSError as error:
        raise InputNotVisible(f"{path} cannot be read ({error.strerror}). Name the JSON file beside a take.") from None
    try:
        sidecar = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        sidecar = None
    if not isinstance(sidecar, dict) or not {"version", "clip", "model", "request"} <= sidecar.keys():
        raise BadRequest(f"{path} is no side-car of a take. Name the JSON file that lies beside its WAV.")
    if sidecar["version"] != SIDECAR_VERSION:
        raise BadRequest(
            f"{path} was written by another version of this program ({sidecar['version']}, known is {SIDECAR_VERSION})."
        )
    damaged = [name for name, whole in _whole(sidecar).items() if not whole]
    if damaged:
        raise BadRequest(
            f"The side-car {path} is damaged ({', '.join(damaged)}). Make the take anew, or name another one."
        )
    return sidecar


def _whole(sidecar: dict[str, Any]) -> dict[str, bool]:
    """Whether each part is of its kind. What older side-cars lack is none of them."""

    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    clip, scores, onsets = sidecar["clip"], sidecar.get("scores") or {}, sidecar.get("onsets", [])
    return {
        "wav": isinstance(sidecar.get("wav"), str) and Path(sidecar["wav"]).name != "",
        "clip": isinstance(clip, dict) and isinstance(clip.get("path"), str) and isinstance(clip.get("time_map"), list),
        "model": isinstance(sidecar["model"], dict),
        "request": isinstance(sidecar["request"], dict),
        "scores": isinstance(scores, dict) and all(value is None or number(value) for value in scores.values()),
        "onsets": isinstance(onsets, list) and all(map(number, onsets)),
    }


def sidecar_beside(sound: Path) -> dict[str, Any]:
    """The side-car that lies beside a sound; empty where there is none, or a file that is no whole side-car."""
    beside = sound.with_suffix(".json")
    if beside.is_file():
        with contextlib.suppress(BadRequest):
            sidecar = read_sidecar(beside)
            request_from_sidecar(sidecar, beside.parent)
            return sidecar
    return {}


def request_from_sidecar(sidecar: dict[str, Any], output: Path, *, clip: Path | None = None) -> GenerateRequest:
    """The request that makes a take again, into `output`. clip: where the clip lies now, if not where it lay.

    Raises BadRequest when something is missing or out of range.
    """
    try:
        said = sidecar["request"]
        known = {name: said[name] for name in ("prompt", "seed", *_SINCE_THE_FIRST)}
        # What a side-car does not say is as it was before one could say it.
        known |= {name: said[name] for name in SETTINGS if name not in known and said.get(name) is not None}
        if known.get("peak") is not None:
            known["loudness"] = None  # of both, which once could be given, only the peak counted
        for name in ("cuts", "region"):
            if known.get(name) is not None:
                known[name] = tuple(exact_seconds(time, name) for time in known[name])
        for name in ("prompts", "negative_prompts"):
            known[name] = tuple(known.get(name, ()))
        path, time_map = clip or Path(sidecar["clip"]["path"]), TimeMap.from_list(sidecar["clip"]["time_map"])
        return GenerateRequest(path=path, time_map=time_map, output=output, **known)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadRequest(f"The side-car is damaged ({error}): a take cannot be made again from it.") from error
