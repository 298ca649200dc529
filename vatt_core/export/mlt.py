"""An MLT project (.mlt), which Shotcut, Kdenlive and `melt` open: takes as tracks, all but the first muted."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree as tree

from vatt_core.errors import BadRequest
from vatt_core.export.elements import add
from vatt_core.export.timeline import Timeline


def mlt_text(timeline: Timeline) -> str:
    """The timeline as MLT XML. The clips' own sound is left out. Raises BadRequest where there is nothing on it."""
    if not timeline.events:
        raise BadRequest("There is nothing to export.")
    width, height = timeline.events[0].clip.shown_size
    aspect = Fraction(width, height)
    root = tree.Element("mlt", LC_NUMERIC="C", version="7.0.0", title=timeline.name, producer="timeline")
    tree.SubElement(root, "profile", {
        "description": "VATT", "width": str(width), "height": str(height), "progressive": "1",
        "sample_aspect_num": "1", "sample_aspect_den": "1",
        "display_aspect_num": str(aspect.numerator), "display_aspect_den": str(aspect.denominator),
        "frame_rate_num": str(timeline.rate.numerator), "frame_rate_den": str(timeline.rate.denominator),
        "colorspace": "709",
    })  # fmt: skip
    _background(root, timeline)
    for number, event in enumerate(timeline.events):
        length = event.source_start + event.frames
        _producer(root, f"picture{number}", event.clip.path, length, event.name, audio_index="-1")
        for take, sound in enumerate(event.sounds):
            _producer(root, f"sound{number}-{take}", sound.path, event.frames, sound.take.prompt, video_index="-1")
    _playlist(root, "clips", timeline, ["picture{number}"] * len(timeline.events))
    for take in range(timeline.tracks):
        names = ["sound{number}-" + str(take) if take < len(event.sounds) else None for event in timeline.events]
        _playlist(root, f"take{take}", timeline, names)
    _tractor(root, timeline)
    tree.indent(root, " ")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{tree.tostring(root, encoding="unicode")}\n'


def _properties(parent: tree.Element, **values: str | int) -> None:
    for name, value in values.items():
        add(parent, "property", value, name=name)


def _background(root: tree.Element, timeline: Timeline) -> None:
    producer = tree.SubElement(root, "producer", {"id": "black", "in": "0", "out": str(timeline.frames - 1)})
    _properties(producer, length=timeline.frames, resource="black", mlt_service="color", aspect_ratio="1")


def _producer(root: tree.Element, identity: str, path: Path, length: int, title: str, **streams: str) -> None:
    producer = tree.SubElement(root, "producer", {"id": identity, "in": "0", "out": str(length - 1)})
    _properties(producer, length=length, resource=str(path), mlt_service="avformat-novalidate", **streams)
    add(producer, "property", title, name="meta.media.title")


def _playlist(root: tree.Element, identity: str, timeline: Timeline, names: list[str] | list[str | None]) -> None:
    playlist = tree.SubElement(root, "playlist", {"id": identity})
    for number, (event, name) in enumerate(zip(timeline.events, names, strict=True)):
        if name is None:
            tree.SubElement(playlist, "blank", {"length": str(event.frames)})
            continue
        begin = event.source_start if identity == "clips" else 0
        tree.SubElement(playlist, "entry", {
            "producer": name.format(number=number), "in": str(begin), "out": str(begin + event.frames - 1),
        })  # fmt: skip


def _tractor(root: tree.Element, timeline: Timeline) -> None:
    tractor = tree.SubElement(root, "tractor", {"id": "timeline", "in": "0", "out": str(timeline.frames - 1)})
    tree.SubElement(tractor, "track", {"producer": "black"})
    tree.SubElement(tractor, "track", {"producer": "clips", "hide": "audio"})
    for take in range(timeline.tracks):
        tree.SubElement(tractor, "track", {"producer": f"take{take}", "hide": "video" if take == 0 else "both"})
    for track in range(1, timeline.tracks + 2):
        mix = tree.SubElement(tractor, "transition")
        _properties(mix, a_track=0, b_track=track, mlt_service="mix", always_active=1, sum=1)
    picture = tree.SubElement(tractor, "transition")
    _properties(picture, a_track=0, b_track=1, mlt_service="composite", always_active=1, geometry="0=0/0:100%x100%")
