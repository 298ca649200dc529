"""A strip is captioned and given soundtracks by the real daemon and nano; takes are chosen, kept, saved and found again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import bpy
import stage

asked = stage.arguments()
stage.watch_main_thread()
session = stage.enable()

from vatt_sequencer import compat, reading, takes  # noqa: E402
from vatt_sequencer.jobs import State  # noqa: E402

preferences = bpy.context.preferences.addons[stage.ADDON].preferences
preferences.output, preferences.autostart = asked["output"], False
session.start()
found = stage.scene(24)
if bpy.app.version >= (5, 0, 0):
    bpy.context.window.scene = bpy.data.scenes.new("Window's own")  # the sequencer shows another
film = stage.add_movie(found, asked["film"], first=20, channel=3)
compat.set_handles(film, 25, compat.right(film) - 7)
stage.select(found, film)


def done() -> bool:
    return all(job.ended or job.state is State.HOMELESS for job in session.jobs)


def lying() -> list[dict[str, object]]:
    return [
        dict(
            name=sound.name, channel=sound.channel, first=compat.left(sound), last=compat.right(sound), mute=sound.mute,
            content=round(compat.content_start(sound)), record=json.loads(sound[takes.PROPERTY]),
            offset=getattr(sound, "sound_offset", 0.0), channel_name=compat.holder_of(found, sound).channels[sound.channel].name,
        )
        for sound, _ in reading.placed_takes(found, str(film.get(reading.UID, "")))
    ]  # fmt: skip


answer = {"film": [compat.left(film), compat.right(film)]}

# Captions, one of which becomes the prompt.
assert bpy.ops.vatt.suggest() == {"FINISHED"}
stage.turn_until(session, done)
from vatt_sequencer.properties import captions_of  # noqa: E402

answer["captions"] = captions_of(film)
if not answer["captions"]:
    raise RuntimeError(f"no captions: {[(job.kind, job.state.name, job.message) for job in session.jobs]}")
bpy.ops.vatt.use_caption(text=answer["captions"][0])
answer["prompt"] = film.vatt_settings.prompt

# Two takes; a third one like them.
found.vatt_settings.takes = 2
film.vatt_settings.negative_prompt = "music"
assert bpy.ops.vatt.generate() == {"FINISHED"}
stage.turn_until(session, done)
answer["jobs"] = [(job.kind, job.state.name, job.message) for job in session.jobs]
if session.jobs[-1].state is not State.DONE:
    answer["waits"] = stage.waits
    stage.disable()
    stage.answer(answer)
answer["two"] = lying()
assert bpy.ops.vatt.another_take() == {"FINISHED"}
stage.turn_until(session, done)
answer["three"] = lying()

# The second is picked, the others go; its settings come back into the panel.
second = answer["two"][1]["name"]
bpy.ops.vatt.pick_take(strip=second)
answer["picked"] = {item["name"]: item["mute"] for item in lying()}
bpy.ops.vatt.delete_other_takes(strip=second)
answer["kept"] = lying()
film.vatt_settings.prompt = ""
bpy.ops.vatt.remember_take(strip=second)
answer["again"] = [film.vatt_settings.prompt, found.vatt_settings.seed, found.vatt_settings.lock_seed]

# A part of it is made anew.
found.use_preview_range = True
found.frame_preview_start, found.frame_preview_end = 40, 59
assert bpy.ops.vatt.regenerate_range() == {"FINISHED"}
stage.turn_until(session, done)
answer["regenerated"] = lying()
bpy.ops.vatt.delete_other_takes(strip=answer["regenerated"][-1]["name"])
found.vatt_settings.takes = 1

# The strip moves while its sound is made; another scene is shown meanwhile.
other = bpy.data.scenes.new("Other")
assert bpy.ops.vatt.generate() == {"FINISHED"}
stage.show(other)
if hasattr(film, "content_start"):
    film.content_start += 100
else:
    film.frame_start += 100
stage.turn_until(session, done)
answer["moved"] = {"film": [compat.left(film), compat.right(film)], "sounds": lying()}
answer["other"] = len(compat.all_strips(other))
stage.show(found)

# The strip is deleted meanwhile, and is back later.
stage.select(found, film)
session.jobs.clear()
assert bpy.ops.vatt.generate() == {"FINISHED"}
uid, name, start, channel = film[reading.UID], film.name, round(compat.content_start(film)), film.channel
before = len(compat.all_strips(found))
stage.strips(found).remove(film)
stage.turn_until(session, done)
answer["homeless"] = [session.jobs[-1].state.name, len(compat.all_strips(found)) - before]
film = stage.add_movie(found, asked["film"], first=start, channel=channel)
film.name, film[reading.UID] = name, uid
film.vatt_settings.prompt = answer["prompt"]
session.history_changed()
stage.turn_until(session, lambda: session.jobs[-1].ended)
answer["back"] = [session.jobs[-1].state.name, len(compat.all_strips(found)) - before]

# Cancelled.
stage.select(found, film)
assert bpy.ops.vatt.generate() == {"FINISHED"}
assert bpy.ops.vatt.cancel() == {"FINISHED"}
stage.turn_until(session, done)
answer["cancelled"] = session.jobs[-1].state.name

# Saved while a job runs: the reopened file gets its sound, and knows how the others were made.
assert bpy.ops.vatt.generate() == {"FINISHED"}
stage.turn_until(session, lambda: session.jobs[-1].id)
records = [json.loads(sound[takes.PROPERTY]) for sound, _ in reading.placed_takes(found, film[reading.UID])]
bpy.ops.wm.save_as_mainfile(filepath=str(Path(asked["output"]) / "kept.blend"))
job = session.jobs[-1].id
session.jobs.clear()
bpy.ops.wm.read_homefile(use_empty=True)
bpy.ops.wm.open_mainfile(filepath=str(Path(asked["output"]) / "kept.blend"))
found = bpy.data.scenes["Scene"]
film = next(strip for strip in compat.all_strips(found) if strip.name == name)
answer["adopted"] = [entry.id for entry in session.jobs] == [job]
stage.turn_until(session, done)
after = [json.loads(sound[takes.PROPERTY]) for sound, _ in reading.placed_takes(found, film[reading.UID])]
answer["reopened"] = {
    "kept": records == after[: len(records)], "new": [item["job"] for item in after[len(records) :]] == [job],
    "pending": reading.PENDING in film, "prompt": film.vatt_settings.prompt,
}  # fmt: skip

# A take is made again from what its strip kept.
stage.show(found)
stage.select(found, film)
sound, take = reading.placed_takes(found, film[reading.UID])[-1]
film.vatt_settings.prompt = ""
bpy.ops.vatt.remember_take(strip=sound.name)
assert bpy.ops.vatt.generate() == {"FINISHED"}
stage.turn_until(session, done)
answer["remade"] = [take.record.wav, reading.placed_takes(found, film[reading.UID])[-1][1].record.wav]

# Two strips are given soundtracks in one go, above them; the selected sound stands for its own strip.
found.vatt_settings.lock_seed = False
preferences.side = "ABOVE"
second = stage.add_movie(found, asked["film"], first=compat.right(film) + 30, channel=2)
compat.set_handles(second, compat.left(second) + 3, compat.right(second) - 40)
stage.select(found, reading.placed_takes(found, film[reading.UID])[-1][0], second)
before = {strip.name for strip in compat.all_strips(found)}
session.jobs.clear()
assert bpy.ops.vatt.generate() == {"FINISHED"}
stage.turn_until(session, done)
answer["both"] = [job.state.name for job in session.jobs]
answer["pairs"] = [
    [[strip.channel, compat.left(strip), compat.right(strip)] for strip in (picture, *fresh)]
    for picture in (film, second)
    for fresh in [[s for s, _ in reading.placed_takes(found, picture[reading.UID]) if s.name not in before]]
]

# Placed, but the file was not saved: opened again, it still gets its sound.
stage.select(found, second)
assert bpy.ops.vatt.generate() == {"FINISHED"}
stage.turn_until(session, lambda: session.jobs[-1].id)
bpy.ops.wm.save_mainfile()
job, name = session.jobs[-1].id, second.name
stage.turn_until(session, done)
bpy.ops.wm.open_mainfile(filepath=str(Path(asked["output"]) / "kept.blend"))
found = bpy.data.scenes["Scene"]
second = next(strip for strip in compat.all_strips(found) if strip.name == name)
stage.turn_until(session, done)
answer["unsaved"] = [take.record.job for _, take in reading.placed_takes(found, second[reading.UID])].count(job)

# Another file with a strip of the same name is none of the job's business.
stage.show(found)
stage.select(found, second)
assert bpy.ops.vatt.generate() == {"FINISHED"}
bpy.ops.wm.read_homefile(use_empty=True)
other = stage.scene(24)
namesake = stage.add_movie(other, asked["film"], first=1)
namesake.name = name
stage.turn_until(session, done)
answer["elsewhere"] = [session.jobs[-1].state.name, len(compat.all_strips(other))]
answer["waits"] = stage.waits[:]
stage.disable()
stage.answer(answer)
