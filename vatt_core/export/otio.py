"""OpenTimelineIO (.otio): takes as audio tracks, captions as markers on the clips."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

from vatt_core.export.timeline import Event, Sound, Timeline
from vatt_core.media.timecode import timecode_frames


def otio_text(timeline: Timeline) -> str:
    """The timeline as OTIO JSON. All takes but the first are on disabled tracks, as they are alternatives."""
    rate = timeline.rate
    tracks = [_track("Clips", "Video", [_picture(event, rate) for event in timeline.events])]
    for number in range(timeline.tracks):
        children: list[dict[str, Any]] = []
        for event in timeline.events:
            if number < len(event.sounds):
                children.append(_sound(event, event.sounds[number], rate))
            else:
                children.append(_item("Gap.1", "", _range(0, event.frames, rate)))
        tracks.append(_track(f"Take {number + 1}", "Audio", children, enabled=number == 0))
    whole = {
        "OTIO_SCHEMA": "Timeline.1",
        "name": timeline.name,
        "metadata": {"vatt": {"drop_frame": timeline.drop_frame}},
        "global_start_time": _time(timeline.start_frame, rate),
        "tracks": _item("Stack.1", "tracks", None) | {"children": tracks},
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _time(frames: Fraction | int, rate: Fraction) -> dict[str, Any]:
    return {"OTIO_SCHEMA": "RationalTime.1", "rate": float(rate), "value": float(frames)}


def _range(start: Fraction | int, frames: Fraction | int, rate: Fraction) -> dict[str, Any]:
    return {"OTIO_SCHEMA": "TimeRange.1", "start_time": _time(start, rate), "duration": _time(frames, rate)}


def _item(schema: str, name: str, source_range: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "OTIO_SCHEMA": schema, "name": name, "metadata": {}, "source_range": source_range, "effects": [], "markers": [],
        "enabled": True,
    }  # fmt: skip


def _track(name: str, kind: str, children: list[dict[str, Any]], *, enabled: bool = True) -> dict[str, Any]:
    return _item("Track.1", name, None) | {"kind": kind, "children": children, "enabled": enabled}


def _clip(name: str, used: dict[str, Any], path: Path, available: dict[str, Any]) -> dict[str, Any]:
    reference = {
        "OTIO_SCHEMA": "ExternalReference.1", "name": path.name, "metadata": {}, "available_range": available,
        "available_image_bounds": None, "target_url": path.as_uri(),
    }  # fmt: skip
    return _item("Clip.2", name, used) | {
        "media_references": {"DEFAULT_MEDIA": reference},
        "active_media_reference_key": "DEFAULT_MEDIA",
    }


def _picture(event: Event, rate: Fraction) -> dict[str, Any]:
    # Media begins at its own timecode; what has none begins at zero.
    begin = Fraction(0)
    if event.timecode is not None:
        begin = timecode_frames(event.timecode, event.clip.frame_rate) / event.clip.frame_rate * rate
    available = _range(begin, event.clip.duration * rate, rate)
    clip = _clip(event.name, _range(begin + event.source_start, event.frames, rate), event.clip.path, available)
    clip["markers"] = [
        {
            "OTIO_SCHEMA": "Marker.2", "name": caption.text, "color": "GREEN" if number == 0 else "CYAN",
            "comment": caption.text, "marked_range": _range(begin + event.source_start, event.frames, rate),
            "metadata": {"vatt": {"score": caption.score}},
        }
        for number, caption in enumerate(event.captions)
    ]  # fmt: skip
    return clip


def _sound(event: Event, sound: Sound, rate: Fraction) -> dict[str, Any]:
    facts = sound.take.facts
    begin = Fraction(sound.time_reference, facts.sample_rate) * rate
    available = _range(begin, Fraction(facts.samples, facts.sample_rate) * rate, rate)
    clip = _clip(sound.path.stem, _range(begin, event.frames, rate), sound.path, available)
    request = sound.take.sidecar["request"]
    clip["metadata"] = {
        "vatt": {"prompt": sound.take.prompt, "seed": request["seed"], "model": sound.take.sidecar["model"]}
    }
    return clip
