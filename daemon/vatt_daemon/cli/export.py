"""`vatt export`: finished takes for any editor."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, cast

import typer

from vatt_core.errors import BadRequest

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def export(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULT…", help="WAVs of takes, side-cars, or their folders.")
    ],
    output: Annotated[Path, typer.Option("--output", metavar="FOLDER", help="Where everything goes.")],
    name: Annotated[str, typer.Option("--name", help="Of the timeline and its files.")] = "vatt",
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="bwf, otio, fcp7 or mlt; again for more. Left out: all.")
    ] = None,
    timecode: Annotated[
        str, typer.Option("--timecode", help="Of the sounds: 'timeline', or 'source' for the clip's own.")
    ] = "timeline",
    start: Annotated[str, typer.Option("--start", help="Timecode at which the timeline begins.")] = "00:00:00:00",
    fps: Annotated[
        str | None, typer.Option("--fps", help="Frames per second of the timeline, as 25 or 30000/1001.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of an earlier export.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Broadcast WAVs with timecode, and projects that place them: OTIO, FCP7 XML, MLT."""
    from vatt_core.export.export import FORMATS, ExportOptions, Timecode, write_export
    from vatt_core.export.results import collect_takes

    if timecode not in ("timeline", "source"):
        raise BadRequest(f"--timecode must be 'timeline' or 'source', not '{timecode}'.")
    if not name.strip() or any(letter in name for letter in '/\\:*?"<>|\0') or name.startswith("."):
        raise BadRequest(f"--name must be the name of a file without its ending, not '{name}'.")
    options = ExportOptions(
        name=name,
        formats=tuple(dict.fromkeys(formats or FORMATS)),
        timecode=cast(Timecode, timecode),
        start=start,
        rate=_rate(fps),
        overwrite=overwrite,
    )
    files = write_export(collect_takes(results), output, options)
    if as_json:
        from vatt_daemon.cli.output import print_json

        print_json({"files": [str(file) for file in files]})
        return
    for file in files:
        print(file)


def _rate(text: str | None) -> Fraction | None:
    if text is None:
        return None
    # What people write for the rates of NTSC.
    common = {"23.976": "24000/1001", "23.98": "24000/1001", "29.97": "30000/1001", "59.94": "60000/1001"}
    try:
        rate = Fraction(common.get(text.strip(), text.strip()))
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 1 <= rate <= 1000:
        raise BadRequest(f"--fps must be frames per second such as 25 or 30000/1001, not '{text}'.")
    return rate
