"""`vatt suggest` and `vatt generate`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tomllib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from vatt_client import Client, connection, errors, messages
from vatt_client.client import absolute
from vatt_client.fields import to_fraction
from vatt_client.replies import Job

from vatt_core.errors import BadRequest
from vatt_core.media.time_map import TimeMap
from vatt_core.requests import DEFAULT_LOUDNESS, PRESETS
from vatt_core.wording import avoiding
from vatt_daemon import guard, launch
from vatt_daemon.cli.output import print_json, print_table, progress_display
from vatt_daemon.folders import folders
from vatt_daemon.places import INPUTS
from vatt_daemon.settings import load_settings

Clip = Annotated[str, typer.Argument(metavar="CLIP", help="The video file.")]
Begin = Annotated[str | None, typer.Option("--in", metavar="SECONDS", help="Begin of the range, e.g. 2.5 or 75/30.")]
End = Annotated[str | None, typer.Option("--out", metavar="SECONDS", help="End of the range.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Same seed, same result; left out, one is drawn and told.")]
Model = Annotated[str, typer.Option("--model", help="Name of the model, see 'vatt models list'.")]
Connection = Annotated[
    Path | None,
    typer.Option(
        "--connection", metavar="FILE", help="Of a daemon on another machine; left out, $VATT_CONNECTION, or your own."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Temperature = Annotated[float | None, typer.Option("--temperature", help="Boldness; left out, the model's own.")]

RECONNECT = 60.0
"""Seconds for which a lost connection to another machine is tried again."""
CANCEL_WAIT = 10.0
"""Seconds to wait for a cancelled job to stop, after Ctrl-C."""

suggest_app = typer.Typer(pretty_exceptions_enable=False)
generate_app = typer.Typer(pretty_exceptions_enable=False)


@suggest_app.command()
def suggest(
    clip: Clip,
    count: Annotated[int, typer.Option("--count", help="How many captions.")] = 3,
    begin: Begin = None,
    end: End = None,
    seed: Seed = None,
    temperature: Temperature = None,
    model: Model = "nano",
    connection_file: Connection = None,
    as_json: AsJson = False,
) -> None:
    """Captions of what could be heard in a clip, each with a score."""
    use_connection(connection_file)
    message = _checked(
        messages.Suggest, path=absolute(clip), count=count, start=_seconds("--in", begin), end=_seconds("--out", end),
        seed=seed, temperature=temperature, model=model,
    )  # fmt: skip
    job = carry_out(message, quiet=as_json)
    if as_json:
        print_json({"job": job.id, "seed": job.seed, **(job.result or {})})
        return
    captions = job.suggestions().captions
    print_table(("score", "caption"), [(f"{caption.score:.2f}", caption.text) for caption in captions])


@generate_app.command()
def generate(
    clip: Clip,
    prompt: Annotated[str | None, typer.Option("--prompt", help="What shall be heard; else the best caption.")] = None,
    negative: Annotated[str | None, typer.Option("--negative", help="What shall not be heard.")] = None,
    avoid: Annotated[
        str | None, typer.Option("--avoid", metavar="WORDS", help="Added to --negative, e.g. speech,music.")
    ] = None,
    per_shot: Annotated[
        list[str] | None, typer.Option("--per-shot", help="What shall be heard in one shot; once for each of them.")
    ] = None,
    per_shot_negative: Annotated[
        list[str] | None,
        typer.Option("--per-shot-negative", help="What shall not; once for each shot, '' for nothing."),
    ] = None,
    cuts: Annotated[
        str | None, typer.Option("--cuts", metavar="SECONDS", help="Where shots change, e.g. 3.2,7.5; 'off': nowhere.")
    ] = None,
    reference: Annotated[str | None, typer.Option("--reference", metavar="FILE", help="A sound like this.")] = None,
    takes: Annotated[int, typer.Option("--takes", help="How many different takes.")] = 1,
    begin: Begin = None,
    end: End = None,
    seed: Seed = None,
    output: Annotated[str, typer.Option("--output", metavar="FOLDER", help="Where the files go.")] = ".",
    preview: Annotated[bool, typer.Option("--preview", help="Also a PNG, and a copy of the video with sound.")] = False,
    mux: Annotated[bool, typer.Option("--mux", help="Also a copy of the video with the sound.")] = False,
    preset: Annotated[
        str | None, typer.Option("--preset", help="draft, final, or one of your presets.toml; options win over it.")
    ] = None,
    guidance_scale: Annotated[float | None, typer.Option("--guidance", help="Strength of prompt and picture.")] = None,
    guidance_schedule: Annotated[
        str | None, typer.Option("--guidance-schedule", help="constant, rising or falling over the steps.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Decoding steps; left out, the model's own.")] = None,
    temperature: Temperature = None,
    mask_temperature: Annotated[
        float | None, typer.Option("--mask-temperature", help="Randomness of the order.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="How many of the likeliest codes are drawn from.")
    ] = None,
    nudge: Annotated[bool, typer.Option("--nudge", help="Shift each take to where it fits the motion best.")] = False,
    rank: Annotated[bool, typer.Option("--rank/--no-rank", help="Best take first, or in the order of seeds.")] = True,
    base: Annotated[
        str | None, typer.Option("--from", metavar="TAKE", help="An earlier take: its side-car or its sound.")
    ] = None,
    region: Annotated[
        str | None, typer.Option("--region", metavar="BEGIN,END", help="Make only these seconds of --from anew.")
    ] = None,
    vary: Annotated[float | None, typer.Option("--vary", help="Make this share (0 to 1) of --from anew.")] = None,
    vary_by: Annotated[str, typer.Option("--vary-by", help="time: evenly; coarse: texture before events.")] = "time",
    loop: Annotated[bool, typer.Option("--loop", help="The end goes on into the beginning.")] = False,
    sample_rate: Annotated[int | None, typer.Option("--rate", help="Samples per second; 48000.")] = None,
    bits: Annotated[int | None, typer.Option("--bits", help="16, 24 or 32 (floating point); 24.")] = None,
    container: Annotated[str | None, typer.Option("--format", help="wav or flac; wav.")] = None,
    channels: Annotated[int | None, typer.Option("--channels", help="2: the same sound twice; 1.")] = None,
    loudness: Annotated[
        str | None, typer.Option("--loudness", help="Target in LUFS; 'off' leaves the level as made; -23.")
    ] = None,
    peak: Annotated[float | None, typer.Option("--peak", help="True peak in dBTP, instead of a loudness.")] = None,
    true_peak: Annotated[float, typer.Option("--true-peak", help="Ceiling of true peaks in dBTP.")] = -1.0,
    fade: Annotated[float, typer.Option("--fade", help="Milliseconds of fade at both ends.")] = 5.0,
    model: Model = "nano",
    connection_file: Connection = None,
    as_json: AsJson = False,
) -> None:
    """Soundtracks that fit a clip: files of exactly its length, each with a side-car that says how it was made."""
    use_connection(connection_file)
    given = {
        "guidance_scale": guidance_scale, "guidance_schedule": guidance_schedule, "steps": steps,
        "temperature": temperature, "mask_temperature": mask_temperature, "top_k": top_k,
    }  # fmt: skip
    files = {"sample_rate": sample_rate, "bits": bits, "container": container, "channels": channels}
    named, values = preset_values(preset)
    settings = values | {name: value for name, value in given.items() if value is not None}
    base, reference = (None if path is None else absolute(path) for path in (base, reference))
    kept = {} if base is None else earlier_values(Path(base), extended=begin is not None or end is not None)
    kept |= {name: value for name, value in files.items() if value is not None}
    message = _checked(
        messages.Generate, path=absolute(clip), output=absolute(output), prompt=prompt,
        negative_prompt=avoiding(negative, (avoid or "").split(",")), prompts=tuple(per_shot or ()),
        negative_prompts=tuple(per_shot_negative or ()), cuts=_times("--cuts", cuts),
        reference=reference, takes=takes, start=_seconds("--in", begin),
        end=_seconds("--out", end), seed=seed, preview=preview, mux=mux, preset=named, nudge=nudge, rank=rank,
        base=base, region=_times("--region", region), vary=vary, vary_by=vary_by, loop=loop,
        loudness=_level(loudness, peak), peak=peak, true_peak=true_peak, fade=fade, model=model, **settings, **kept,
    )  # fmt: skip
    try:
        job = carry_out(message, quiet=as_json)
    except errors.BadRequest as error:
        raise BadRequest(_as_typed(error)) from None
    if as_json:
        print_json({"job": job.id, "seed": job.seed, **(job.result or {})})
        return
    print_takes(job)


def print_takes(job: Job) -> None:
    """The files of a job on standard output, what they were made from on the other one."""
    for take in job.takes().takes:
        print(take.wav)
        for more in (take.preview, take.muxed):
            if more:
                print(more)
        if take.caption:
            print(f"  {take.caption}{told_scores(take.scores)}", file=sys.stderr)


def use_connection(file: Path | None) -> None:
    """Talk to the daemon of that connection file from now on."""
    if file is not None:
        os.environ[connection.VARIABLE] = str(file.expanduser().absolute())


def told_scores(scores: Mapping[str, float | None]) -> str:
    """Scores in a few words, for people."""
    known = [f"{name} {value:.2f}" for name, value in scores.items() if value is not None]
    return f"  ({', '.join(known)})" if known else ""


def preset_values(name: str | None) -> tuple[str | None, dict[str, Any]]:
    """A preset by name: (one that the daemon knows, None), (None, settings) of one of the user's presets.toml, which has a
    table of decoding settings for each. Raises BadRequest for an unknown one."""
    if name is None or name in PRESETS:
        return name, {}
    file = folders().config / "presets.toml"
    try:
        own = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        own = {}
    except (OSError, ValueError) as error:
        raise BadRequest(f"The presets in {file} cannot be read ({error}): correct the file.") from None
    if not isinstance(own.get(name), dict):
        raise BadRequest(
            f"There is no preset '{name}'. Choose one of {', '.join((*PRESETS, *own))}, or add it to {file}."
        )
    unknown = own[name].keys() - set(_PRESET_SETTINGS)
    if unknown:
        raise BadRequest(
            f"The preset '{name}' in {file} sets '{min(unknown)}'; it may set {', '.join(_PRESET_SETTINGS)}."
        )
    return None, dict(own[name])


_PRESET_SETTINGS = ("guidance_scale", "guidance_schedule", "steps", "temperature", "mask_temperature", "top_k")


def earlier_values(base: Path, *, extended: bool) -> dict[str, Any]:
    """What a new take has from the earlier one that it builds on: the kind of file, and the range unless another is given.
    Empty for a sound without a side-car."""
    from vatt_core.sidecar import read_sidecar, sidecar_beside  # with them comes the media library

    said = read_sidecar(base) if base.suffix.lower() == ".json" else sidecar_beside(base)
    if not said:
        return {}
    names = ("sample_rate", "bits", "container", "channels")
    kept = {name: said["request"][name] for name in names if said["request"].get(name) is not None}
    return kept if extended else kept | {"time_map": TimeMap.from_list(said["clip"]["time_map"]).points}


_OPTIONS = {"start": "--in", "end": "--out", "negative_prompt": "--negative", "sample_rate": "--rate",
            "guidance_scale": "--guidance", "path": "CLIP", "prompts": "--per-shot", "base": "--from",
            "negative_prompts": "--per-shot-negative", "container": "--format", "region": "--region",
            "vary": "--vary", "reference": "--reference", "nudge": "--nudge"}  # fmt: skip


def _times(option: str, text: str | None) -> tuple[Fraction, ...] | None:
    """Times with commas between; 'off' is none at all."""
    if text is None:
        return None
    if text.strip().lower() == "off":
        return ()
    return tuple(time for part in text.split(",") if (time := _seconds(option, part)) is not None)


def loudness_of(text: str) -> float | None:
    """The value of --loudness: LUFS, or None for 'off'. Raises BadRequest."""
    if text.strip().lower() == "off":
        return None
    try:
        return float(text)
    except ValueError:
        raise BadRequest(f"--loudness must be a number of LUFS such as -23, or 'off', not '{text}'.") from None


def _level(loudness: str | None, peak: float | None) -> float | None:
    """The loudness that a take gets; the usual one where none is typed, and where a peak comes in its place."""
    if loudness is None:
        return DEFAULT_LOUDNESS
    target = loudness_of(loudness)
    if target is not None and peak is not None:
        raise BadRequest("--peak sets the level in the place of --loudness: give one of them.")
    return target


def _seconds(option: str, text: str | None) -> Fraction | None:
    if text is None:
        return None
    try:
        seconds = to_fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        raise BadRequest(f"{option} must be a time in seconds such as 2.5 or 75/30, not '{text}'.") from None
    if seconds < 0:
        raise BadRequest(f"{option} must not be negative: a clip begins at 0.")
    return seconds


def _checked(kind: type[Any], **values: Any) -> Any:
    """The message, checked here already, so that a wrong call needs no daemon. Options are named as the user does."""
    try:
        message = kind(**values)
    except errors.BadRequest as error:
        raise BadRequest(_as_typed(error)) from None
    check_here(message)
    return message


def _as_typed(error: errors.BadRequest) -> str:
    """What is wrong with a request, its fields named by the options that the user typed."""
    field = str(error.details.get("field", ""))
    if not field:
        return error.message
    message = error.message
    for name, option in {field: f"--{field.replace('_', '-')}", **_OPTIONS}.items():
        message = message.replace(f"The field '{name}'", option).replace(f"'{name}'", option)
    return message


def check_here(message: messages.Submission) -> None:
    """Check what a message names, before a daemon is bothered. One on another machine has other models and folders."""
    if connection.chosen_file() is None or not connection.read_connection().remote:
        guard.check_submission(message, load_settings().paths)
        return
    for field in INPUTS:
        if getattr(message, field, None) is not None:
            guard.check_input(getattr(message, field), (), field=field)
    if isinstance(message, messages.Generate):
        guard.check_output(message.output, ())


def connect() -> Client:
    """A client of the running daemon. Starts one when none runs, except where a connection file was named."""
    if connection.chosen_file() is not None:
        return Client(name="vatt", reconnect=RECONNECT)
    try:
        return Client(name="vatt")
    except errors.DaemonNotRunning:
        print("starting the daemon", file=sys.stderr, flush=True)
        return launch.start_daemon()


def carry_out(message: messages.Submission | messages.Batch, *, quiet: bool) -> Job:
    """Submit, show the progress, return the job that is done. Ctrl-C, and being terminated, cancel it in the daemon."""

    interrupts: list[int] = []

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    def remember(number: int, *_: object) -> None:
        interrupts.append(number)

    with connect() as client:
        if isinstance(message, messages.Submission):
            with progress_display(quiet=quiet and not sys.stderr.isatty()) as show:
                message = client.send_files(message, on_progress=show)
        # Between the question and its answer the daemon may know a job that we cannot name yet: wait for its name.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, remember)
        job = client.submit(message)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, interrupt)
        try:
            if interrupts:
                raise KeyboardInterrupt
            with progress_display(quiet=quiet and not sys.stderr.isatty()) as show:
                ended = client.wait(job, on_progress=show)
        except KeyboardInterrupt:
            left = "what was made stays" if isinstance(message, messages.Batch) else "nothing was written"
            raise errors.Cancelled(_cancel(client, job, left)) from None
        ended.raise_for_state()
        return ended


def _cancel(client: Client, job: str, left: str) -> str:
    """Cancel and wait until it has stopped; returns what to tell. left: what has become of the files."""
    try:
        client.cancel(job)
        with contextlib.suppress(errors.DaemonTimeout):
            state = client.wait(job, timeout=CANCEL_WAIT).state
            return f"Cancelled: {left} (job {job})." if state == "cancelled" else f"The job was {state}."
        return f"The job {job} will stop at its next step."
    except errors.ClientError as error:
        return f"The job {job} could not be cancelled: {error.message}"
