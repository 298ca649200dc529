"""Lay finished takes down on the timeline, never over anything, and check that they are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import channels, compat, reading, takes, targets
from .jobs import Job


class CannotPlace(Exception):
    """The sound is made but does not lie on the timeline; the text says why and where its file is."""


def place_takes(scene: Any, strip: Any, job: Job, *, below: bool) -> list[str]:
    """Place every take of a finished job beside its strip; the first one is heard. Returns the sound strips' names.

    Takes of the same pictures that were heard before are muted. Raises CannotPlace; nothing is left behind then.
    """
    result = job.result or {}
    holder = compat.holder_of(scene, strip)
    uid = strip[reading.UID] = job.target.uid
    older = reading.placed_takes(scene, uid)
    where = targets.place(
        offset=job.offset,
        length=job.length,
        content_start=targets.whole_frame(compat.content_start(strip)),
        left=compat.left(strip),
        right=compat.right(strip),
    )
    made: list[Any] = []
    try:
        for index, take in enumerate(result["takes"]):
            record = takes.Record(
                of=uid, job=job.id, take=index, caption=take["caption"], seed=take["seed"], wav=take["wav"],
                sidecar=take.get("sidecar") or "", model=result.get("model", ""), offset=job.offset, length=job.length,
                model_hash=result.get("model_hash", ""), request=remembered(job.fields),
            )  # fmt: skip
            sound = _lay(scene, holder, strip, record, where, below=below)
            made.append(sound)
            sound.mute = index > 0
    except Exception:
        for sound in made:
            compat.strips_of(holder).remove(sound)
        raise
    for sound, take in older:
        earlier = take.record
        if earlier.offset < job.offset + job.length and job.offset < earlier.offset + earlier.length:
            sound.mute = True
    return [sound.name for sound in made]


def remembered(fields: dict[str, Any]) -> dict[str, Any]:
    """What of a request makes a take again, without the places of files."""
    return {name: value for name, value in fields.items() if name not in ("path", "output", "time_map", "deadline")}


def _lay(scene: Any, holder: Any, strip: Any, record: takes.Record, where: targets.Place, *, below: bool) -> Any:
    if not Path(record.wav).is_file():
        raise CannotPlace(f"The sound's file is gone: {record.wav}")
    sounds = compat.strips_of(holder)
    names = {number: channel for number, channel in enumerate(holder.channels)}
    channel = _channel(sounds, names, strip, where, below=below)
    begin = where.content_start
    try:
        sound = sounds.new_sound(takes.strip_name(record.caption, record.take), record.wav, channel, begin)
    except RuntimeError as error:
        raise CannotPlace(f"Blender cannot lay down {record.wav} ({error}).") from error
    if hasattr(sound, "sound_offset"):
        sound.sound_offset = 0.0
    compat.set_handles(sound, where.first, where.last)
    if hasattr(sound, "show_waveform"):
        sound.show_waveform = True
    sound[takes.PROPERTY] = record.to_text()
    is_at = (sound.channel, compat.left(sound), compat.right(sound), round(compat.content_start(sound)))
    if is_at != (channel, where.first, where.last, begin):
        sounds.remove(sound)
        raise CannotPlace(
            f"Blender put the sound on channel {is_at[0]}, frames {is_at[1]} to {is_at[2]}, instead of channel {channel}, "
            f"frames {where.first} to {where.last}. Its file: {record.wav}"
        )
    if names[channel].name == f"Channel {channel}":
        names[channel].name = channels.NAME
    return sound


def _channel(sounds: Any, names: dict[int, Any], strip: Any, where: targets.Place, *, below: bool) -> int:
    try:
        return channels.free_channel(
            [channels.Occupied(item.channel, compat.left(item), compat.right(item)) for item in sounds],
            first=where.first,
            last=where.last,
            beside=strip.channel,
            below=below,
            blocked={number for number, channel in names.items() if channel.lock or channel.mute},
            named={number for number, channel in names.items() if channel.name.startswith(channels.NAME)},
        )
    except channels.NoFreeChannel as error:
        raise CannotPlace(str(error)) from error
