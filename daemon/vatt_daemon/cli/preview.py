"""`vatt preview`: a page that plays a clip with its takes, to choose by eye and ear."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vatt_core.errors import BadRequest, InputNotVisible
from vatt_core.files import short_stem

if TYPE_CHECKING:
    from vatt_core.media.probe import ClipInfo
    from vatt_core.media.time_map import TimeMap

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def preview(
    takes: Annotated[
        list[Path],
        typer.Argument(metavar="TAKE...", help="Takes of one clip: their side-cars, or the folder they are in."),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE.html", help="The page; left out, beside the first take.")
    ] = None,
    clip: Annotated[Path | None, typer.Option("--clip", help="Where the clip lies now, if it was moved.")] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """One HTML file that plays the clip with each take, switches between them in step, and shows how they were made."""
    from vatt_core.media.page import PageTake, write_page
    from vatt_core.media.probe import probe
    from vatt_core.media.time_map import TimeMap
    from vatt_core.media.watching import watch

    found = sidecars(takes)
    if not found:
        raise InputNotVisible(f"There are no takes in {takes[0]}: name a folder with takes, or their side-cars.")
    first_path, first = found[0]
    for path, sidecar in found:
        if sidecar["clip"]["time_map"] != first["clip"]["time_map"] or sidecar["clip"]["path"] != first["clip"]["path"]:
            raise BadRequest(f"{path.name} and {first_path.name} are takes of different ranges: preview them apart.")
    source = (clip or Path(first["clip"]["path"])).expanduser().absolute()
    if clip is None and not source.is_file():
        raise InputNotVisible(f"The clip {source} is gone: say where it lies now with --clip.", path=str(source))
    info = probe(source)
    time_map = TimeMap.from_list(first["clip"]["time_map"])
    check_length(info, first["clip"], time_map)
    with contextlib.ExitStack() as stack:
        watched = None
        shown = []
        for path, sidecar in found:
            picture = path.with_suffix(".png")
            if not picture.is_file():
                watched = watched or watch(source, time_map, rate=info.frame_rate)
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vatt-preview-")))
                picture = draw(folder / "take.png", sound_of(path, sidecar), sidecar, watched)
            shown.append(
                PageTake(path.stem, str(sidecar.get("caption", "")), sound_of(path, sidecar), picture, facts(sidecar))
            )
        target = output or first_path.with_name(f"{short_stem(source.stem)}-takes.html")
        page = write_page(target, source, time_map, shown, rate=info.frame_rate, title=source.name)
    print(page)
    if show:
        typer.launch(page.as_uri())


def check_length(info: ClipInfo, said: dict[str, Any], time_map: TimeMap) -> None:
    """Raise BadRequest where a clip cannot be the one that the side-car speaks of. said: what it says of its clip.

    A copy that was coded again may differ by a frame. Older side-cars do not say how long their clip was: of those, the
    range has to lie in this one.
    """
    from vatt_core.files import fingerprint
    from vatt_core.media.time_map import exact_seconds

    frame = 1 / info.frame_rate
    if "duration" in said:
        known = exact_seconds(said["duration"], "duration of the clip")
        wrong, told = abs(known - info.duration) > frame, f"the clip of these takes {float(known):.3f} s"
    else:
        needed = time_map.source_range[1]
        # The range of an editor may reach beyond the clip, whose last picture is held then.
        wrong = needed > info.duration + frame and fingerprint(info.path) != said.get("fingerprint")
        told = f"the range of these takes ends at {float(needed):.3f} s"
    if wrong:
        raise BadRequest(
            f"{info.path.name} lasts {float(info.duration):.3f} s, {told}: name the clip that they were made for with "
            "--clip.",
            path=str(info.path),
        )


def sidecars(places: list[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """(path, content) of the side-cars that are named, or lie in a named folder. What is none there is passed over."""
    from vatt_core.sidecar import read_sidecar

    found = []
    for place in places:
        if place.is_dir():
            for path in sorted(place.glob("*.json")):
                with contextlib.suppress(BadRequest):
                    found.append((path, read_sidecar(path)))
        else:
            path = place if place.suffix.lower() == ".json" else place.with_suffix(".json")
            found.append((path, read_sidecar(path)))
    return found


def sound_of(path: Path, sidecar: dict[str, Any]) -> Path:
    """The sound of a side-car. Raises InputNotVisible when it is gone."""
    sound = path.with_name(Path(str(sidecar.get("wav", ""))).name)
    if not sound.is_file():
        raise InputNotVisible(f"The sound of {path} is gone: {sound} is not there.", path=str(sound))
    return sound


def draw(target: Path, sound: Path, sidecar: dict[str, Any], watched: Any) -> Path:
    """The picture of a take that was written without one."""
    from vatt_core.media.preview import write_preview
    from vatt_core.media.spool import Held
    from vatt_core.media.waves import read_wave

    rate = 16_000
    return write_preview(
        target,
        watched.strip,
        watched.strip_times,
        Held(read_wave(sound, sample_rate=rate), rate),
        onsets=[float(time) for time in sidecar.get("onsets", [])],
        cuts=watched.cuts,
        title=str(sidecar.get("caption", "")),
    )


def facts(sidecar: dict[str, Any]) -> dict[str, Any]:
    """What there is to tell of a take, by name."""
    request = sidecar["request"]
    told = {
        name: "; ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in request.items()
        if value is not None and value is not False and value != []
    }
    if "vary" not in told:
        told.pop("vary_by", None)
    scores = {f"score: {name}": value for name, value in (sidecar.get("scores") or {}).items()}
    return {**told, "model": sidecar["model"].get("name"), "loudness (LUFS)": sidecar.get("loudness"), **scores}
