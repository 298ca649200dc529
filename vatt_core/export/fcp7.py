"""FCP7 XML (xmeml version 5), which Premiere, Resolve, Final Cut 7 and others import: takes as tracks, captions as markers."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree as tree

from vatt_core.errors import BadRequest
from vatt_core.export.elements import add
from vatt_core.export.timeline import Event, Sound, Timeline, timecode_text


def fcp7_text(timeline: Timeline) -> str:
    """The timeline as xmeml. All takes but the first are on muted tracks, as they are alternatives.

    Raises BadRequest for a rate that the format cannot say: it knows whole ones and their 1000/1001.
    """
    _check_rate(timeline.rate)
    root = tree.Element("xmeml", version="5")
    sequence = add(root, "sequence", id="sequence-1")
    add(sequence, "name", timeline.name)
    add(sequence, "duration", timeline.frames)
    _rate(sequence, timeline.rate)
    _timecode(sequence, timeline.start_frame, timeline.rate, drop_frame=timeline.drop_frame)
    media = add(sequence, "media")
    video = add(media, "video")
    if timeline.events:
        width, height = timeline.events[0].clip.shown_size
        _size(add(add(video, "format"), "samplecharacteristics"), width, height, timeline.rate)
    track = add(video, "track")
    for number, event in enumerate(timeline.events, 1):
        _picture(track, event, number, timeline.rate)
    audio = add(media, "audio")
    for take in range(timeline.tracks):
        track = add(audio, "track")
        for number, event in enumerate(timeline.events, 1):
            if take < len(event.sounds):
                _sound(track, event, event.sounds[take], f"{number}-{take + 1}", timeline)
        add(track, "enabled", "TRUE" if take == 0 else "FALSE")
        add(track, "outputchannelindex", 1)
    for event in timeline.events:
        for caption in event.captions:
            marker = add(sequence, "marker")
            add(marker, "name", caption.text)
            add(marker, "comment", "" if caption.score is None else f"score {caption.score:.2f}")
            add(marker, "in", event.start)
            add(marker, "out", event.start + event.frames)
    tree.indent(root, " ")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE xmeml>\n{tree.tostring(root, encoding="unicode")}\n'


def _check_rate(rate: Fraction) -> None:
    if rate != round(rate) and rate * 1001 != round(rate) * 1000:
        raise BadRequest(
            f"FCP7 XML cannot say {float(rate):g} frames per second: name the timeline's rate with --fps, such as 25 "
            "or 30000/1001."
        )


def _rate(parent: tree.Element, rate: Fraction) -> None:
    element = add(parent, "rate")
    add(element, "timebase", round(rate))
    add(element, "ntsc", "TRUE" if rate != round(rate) else "FALSE")


def _timecode(parent: tree.Element, frames: int, rate: Fraction, *, drop_frame: bool) -> None:
    element = add(parent, "timecode")
    _rate(element, rate)
    add(element, "string", timecode_text(frames, rate, drop_frame=drop_frame))
    add(element, "frame", frames)
    add(element, "displayformat", "DF" if drop_frame else "NDF")


def _size(parent: tree.Element, width: int, height: int, rate: Fraction) -> None:
    _rate(parent, rate)
    add(parent, "width", width)
    add(parent, "height", height)
    add(parent, "pixelaspectratio", "square")


def _url(path: Path) -> str:
    return path.as_uri().replace("file:///", "file://localhost/", 1)


def _item(
    track: tree.Element, identity: str, name: str, event: Event, begin: int, length: int, rate: Fraction
) -> tree.Element:
    item = add(track, "clipitem", id=f"clipitem-{identity}")
    add(item, "name", name)
    add(item, "enabled", "TRUE")
    add(item, "duration", length)
    _rate(item, rate)
    add(item, "start", event.start)
    add(item, "end", event.start + event.frames)
    add(item, "in", begin)
    add(item, "out", begin + event.frames)
    return item


def _picture(track: tree.Element, event: Event, number: int, rate: Fraction) -> None:
    length = max(event.source_start + event.frames, round(event.clip.duration * rate))
    item = _item(track, f"picture-{number}", event.name, event, event.source_start, length, rate)
    file = add(item, "file", id=f"file-picture-{number}")
    add(file, "name", event.clip.path.name)
    add(file, "pathurl", _url(event.clip.path))
    _rate(file, rate)
    add(file, "duration", length)
    video = add(add(file, "media"), "video")
    add(video, "duration", length)
    _size(add(video, "samplecharacteristics"), *event.clip.shown_size, rate)


def _sound(track: tree.Element, event: Event, sound: Sound, identity: str, timeline: Timeline) -> None:
    facts = sound.take.facts
    item = _item(track, f"sound-{identity}", sound.path.stem, event, 0, event.frames, timeline.rate)
    file = add(item, "file", id=f"file-sound-{identity}")
    add(file, "name", sound.path.name)
    add(file, "pathurl", _url(sound.path))
    _rate(file, timeline.rate)
    add(file, "duration", event.frames)
    frames = round(Fraction(sound.time_reference, facts.sample_rate) * timeline.rate)
    _timecode(file, frames, timeline.rate, drop_frame=timeline.drop_frame)
    audio = add(add(file, "media"), "audio")
    characteristics = add(audio, "samplecharacteristics")
    add(characteristics, "depth", facts.bits)
    add(characteristics, "samplerate", facts.sample_rate)
    add(audio, "channelcount", facts.channels)
    source = add(item, "sourcetrack")
    add(source, "mediatype", "audio")
    add(source, "trackindex", 1)
