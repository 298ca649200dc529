"""From selected strips and the panel's settings to jobs."""

from __future__ import annotations

import uuid
from typing import Any

from . import compat, jobs, mapping, proxy, reading
from .jobs import Job
from .session import Session, output_folder


class NoRange(Exception):
    """There is no range to regenerate; the text says how to set one."""


def marked_range(scene: Any) -> tuple[int, int]:
    """The preview range, else from the first to the last selected marker, as frames [first, last). Raises NoRange."""
    if scene.use_preview_range:
        return scene.frame_preview_start, scene.frame_preview_end + 1
    frames = sorted(marker.frame for marker in scene.timeline_markers if marker.select)
    if len(frames) < 2 or frames[0] == frames[-1]:
        raise NoRange("Set a preview range (P), or select the markers at its begin and end.")
    return frames[0], frames[-1]


def suggest_fields(scene: Any) -> dict[str, Any]:
    settings = scene.vatt_settings
    return {"model": settings.model, "count": settings.captions, **_seed(settings)}


def generate_fields(scene: Any, strip: Any) -> dict[str, Any]:
    settings, own = scene.vatt_settings, strip.vatt_settings
    fields: dict[str, Any] = {"model": settings.model, "takes": settings.takes, **_seed(settings)}
    fields["loudness"] = round(settings.loudness, 2) if settings.normalise else None
    if own.prompt.strip():
        fields["prompt"] = own.prompt.strip()
    if own.negative_prompt.strip():
        fields["negative_prompt"] = own.negative_prompt.strip()
    return fields


def another_fields(scene: Any, strip: Any, remembered: dict[str, Any] | None) -> dict[str, Any]:
    """The request of the take that is heard, or the panel's, for one more take with a seed of its own."""
    fields = dict(remembered) if remembered else generate_fields(scene, strip)
    fields.pop("seed", None)
    return fields | {"takes": 1}


def submit(
    session: Session, scene: Any, strip: Any, kind: str, fields: dict[str, Any], *, folder: str,
    limits: tuple[int, int] | None = None,
) -> Job:  # fmt: skip
    """Hand in a job for what is seen of a strip, within `limits` (timeline frames) if given.

    Raises CannotRead, ProxyFailed, NoRange, OSError.
    """
    first, last = compat.left(strip), compat.right(strip)
    if limits:
        first, last = max(first, limits[0]), min(last, limits[1])
        if last <= first:
            raise NoRange(f"The range does not touch '{strip.name}'.")
    output = output_folder(folder)
    output.mkdir(parents=True, exist_ok=True)
    fields = dict(fields)
    if kind == jobs.GENERATE:
        fields["output"] = str(output)
    job = Job(
        kind=kind,
        target=reading.target_of(strip, scene),
        offset=first - round(compat.content_start(strip)),
        length=last - first,
        fields=fields,
    )
    try:
        reading.traits(strip).check()
        points = mapping.time_map(reading.timing(strip, scene), first, last)
    except mapping.NeedsProxy as why:
        path = output / "proxies" / f"{uuid.uuid4().hex}.avi"
        render = proxy.ProxyRender(scene, strip, first=first, last=last, path=path)
        session.submit_rendered(job, render)
        job.message = f"Rendered, since {why.reason}"
    else:
        fields["path"] = reading.file_of(strip, scene)
        fields["time_map"] = [[str(at), str(source)] for at, source in points]
        session.submit(job)
    return job


def _seed(settings: Any) -> dict[str, Any]:
    return {"seed": settings.seed} if settings.lock_seed else {}
