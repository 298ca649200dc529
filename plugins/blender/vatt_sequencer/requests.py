"""From selected strips and the panel's settings to jobs."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import Any

from . import compat, jobs, mapping, proxy, reading, takes
from .jobs import Job
from .session import Session, output_folder
from .targets import whole_frame


class NoRange(Exception):
    """There is no range to regenerate; the text says how to set one."""


class NoFolder(Exception):
    """Sounds cannot be written; the text says where they should have gone."""


def marked_range(scene: Any) -> tuple[int, int]:
    """The preview range, else from the first to the last selected marker, as frames [first, last). Raises NoRange."""
    if scene.use_preview_range:
        return scene.frame_preview_start, scene.frame_preview_end + 1
    frames = sorted(marker.frame for marker in scene.timeline_markers if marker.select)
    if len(frames) < 2 or frames[0] == frames[-1]:
        raise NoRange("Set a preview range (P), or select the markers at its begin and end.")
    return frames[0], frames[-1]


@dataclass(frozen=True)
class Order:
    """fields: of the message, without the clip. first, last: timeline frames [first, last) that are meant."""

    fields: dict[str, Any]
    first: int
    last: int


def suggestion(scene: Any, strip: Any) -> Order:
    settings = scene.vatt_settings
    fields = {"model": settings.model, "count": settings.captions, **_seed(settings)}
    return Order(fields, compat.left(strip), compat.right(strip))


def generation(scene: Any, strip: Any) -> Order:
    """What the panel says, for the whole strip as it is trimmed."""
    settings, own = scene.vatt_settings, strip.vatt_settings
    fields: dict[str, Any] = {"model": settings.model, "takes": settings.takes, **_seed(settings)}
    fields["loudness"] = round(settings.loudness, 2) if settings.normalise else None
    if own.prompt.strip():
        fields["prompt"] = own.prompt.strip()
    if own.negative_prompt.strip():
        fields["negative_prompt"] = own.negative_prompt.strip()
    return Order(fields, compat.left(strip), compat.right(strip))


def another(scene: Any, strip: Any) -> Order:
    """The request of the take that is heard, or the panel's, for one more take with a seed of its own."""
    order, heard = generation(scene, strip), _heard(scene, strip)
    fields = dict(heard.request) if heard else order.fields
    for name in ("seed", "base", "region"):
        fields.pop(name, None)
    return replace(order, fields=fields | {"takes": 1})


def regeneration(scene: Any, strip: Any) -> Order:
    """The marked range anew. Raises NoRange.

    Where a take of the whole strip is heard, only that part of it is made anew and grown into the rest; where none is, the
    range gets a sound of its own.
    """
    first, last = marked_range(scene)
    first, last = max(first, compat.left(strip)), min(last, compat.right(strip))
    if last <= first:
        raise NoRange(f"The range does not touch '{strip.name}'.")
    order, heard = generation(scene, strip), _heard(scene, strip)
    if heard is None or not heard.sidecar:
        return replace(order, first=first, last=last)
    begin = whole_frame(compat.content_start(strip)) + heard.offset
    end, rate = begin + heard.length, compat.timeline_rate(scene)
    if not compat.left(strip) <= begin <= first < last <= end <= compat.right(strip):
        return replace(order, first=first, last=last)
    fields = {"prompt": heard.request.get("prompt") or heard.caption, **order.fields, "base": heard.sidecar}
    fields["region"] = [str((first - begin) / rate), str((last - begin) / rate)]
    return Order(fields, begin, end)


def submit(session: Session, scene: Any, strip: Any, kind: str, order: Order, *, folder: str) -> Job:
    """Hand in a job for what is seen of a strip. Raises CannotRead, ProxyFailed, NoFolder, OSError."""
    output = output_folder(folder)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NoFolder(
            f"The folder for sounds {output} cannot be made ({error.strerror}): name another one in the extension's "
            "preferences."
        ) from None
    fields = dict(order.fields)
    if kind == jobs.GENERATE:
        fields["output"] = str(output)
    job = Job(
        kind=kind,
        target=reading.target_of(strip, scene),
        offset=order.first - whole_frame(compat.content_start(strip)),
        length=order.last - order.first,
        fields=fields,
    )
    try:
        reading.traits(strip).check()
        points = mapping.time_map(reading.timing(strip, scene), order.first, order.last)
    except mapping.NeedsProxy as why:
        path = output / "proxies" / f"{uuid.uuid4().hex}.avi"
        render = proxy.ProxyRender(scene, strip, first=order.first, last=order.last, path=path)
        session.submit_rendered(job, render)
        job.message = f"Rendered, since {why.reason}"
    else:
        fields["path"] = reading.file_of(strip, scene)
        fields["time_map"] = [[str(at), str(source)] for at, source in points]
        session.submit(job)
    return job


def _heard(scene: Any, strip: Any) -> takes.Record | None:
    found = takes.picked([take for _, take in reading.placed_takes(scene, str(strip.get(reading.UID, "")))])
    return found.record if found else None


def _seed(settings: Any) -> dict[str, Any]:
    return {"seed": settings.seed} if settings.lock_seed else {}
