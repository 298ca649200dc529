"""`vatt suggest` and `vatt generate`."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from fractions import Fraction
from typing import Annotated, Any, NoReturn

import typer
from vatt_client import Client, errors, messages
from vatt_client.client import absolute
from vatt_client.fields import to_fraction
from vatt_client.replies import Job, Progress

from vatt_core.errors import BadRequest
from vatt_daemon import guard, launch
from vatt_daemon.cli.output import print_json, print_table, progress_display
from vatt_daemon.settings import load_settings

Clip = Annotated[str, typer.Argument(metavar="CLIP", help="The video file.")]
Begin = Annotated[str | None, typer.Option("--in", metavar="SECONDS", help="Begin of the range, e.g. 2.5 or 75/30.")]
End = Annotated[str | None, typer.Option("--out", metavar="SECONDS", help="End of the range.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Same seed, same result; left out, one is drawn and told.")]
Model = Annotated[str, typer.Option("--model", help="Name of the model, see 'vatt models list'.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Temperature = Annotated[float | None, typer.Option("--temperature", help="Boldness; left out, the model's own.")]

CANCEL_WAIT = 10.0
"""Seconds to wait for a cancelled job to stop, after Ctrl-C."""

Display = Callable[..., AbstractContextManager[Callable[[Progress], None]]]
"""Makes the callback that shows the progress of a job."""

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
    as_json: AsJson = False,
) -> None:
    """Captions of what could be heard in a clip, each with a score."""
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
    takes: Annotated[int, typer.Option("--takes", help="How many different takes.")] = 1,
    begin: Begin = None,
    end: End = None,
    seed: Seed = None,
    output: Annotated[str, typer.Option("--output", metavar="FOLDER", help="Where the files go.")] = ".",
    preview: Annotated[bool, typer.Option("--preview", help="Also a PNG, and a copy of the video with sound.")] = False,
    sample_rate: Annotated[int, typer.Option("--rate", help="Sample rate of the WAV in Hz.")] = 48_000,
    bits: Annotated[int, typer.Option("--bits", help="16, 24 or 32 (floating point).")] = 24,
    guidance_scale: Annotated[float | None, typer.Option("--guidance", help="Strength of prompt and picture.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Decoding steps; left out, the model's own.")] = None,
    temperature: Temperature = None,
    loudness: Annotated[
        str, typer.Option("--loudness", help="Target in LUFS; 'off' leaves the level as made.")
    ] = "-23",
    model: Model = "nano",
    as_json: AsJson = False,
) -> None:
    """Soundtracks that fit a clip: WAV files of exactly its length, each with a side-car that says how it was made."""
    message = _checked(
        messages.Generate, path=absolute(clip), output=absolute(output), prompt=prompt, negative_prompt=negative,
        takes=takes, start=_seconds("--in", begin), end=_seconds("--out", end), seed=seed, preview=preview,
        sample_rate=sample_rate, bits=bits, guidance_scale=guidance_scale, steps=steps, temperature=temperature,
        loudness=loudness_of(loudness), model=model,
    )  # fmt: skip
    job = carry_out(message, quiet=as_json)
    if as_json:
        print_json({"job": job.id, "seed": job.seed, **(job.result or {})})
        return
    for take in job.takes().takes:
        print(take.wav)
        for more in (take.preview, take.muxed):
            if more:
                print(more)
        if take.caption:
            print(f"  {take.caption}", file=sys.stderr)


_OPTIONS = {"start": "--in", "end": "--out", "negative_prompt": "--negative", "sample_rate": "--rate",
            "guidance_scale": "--guidance", "path": "CLIP"}  # fmt: skip


def loudness_of(text: str) -> float | None:
    """The value of --loudness: LUFS, or None for 'off'. Raises BadRequest."""
    if text.strip().lower() == "off":
        return None
    try:
        return float(text)
    except ValueError:
        raise BadRequest(f"--loudness must be a number of LUFS such as -23, or 'off', not '{text}'.") from None


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
        field = str(error.details.get("field", ""))
        option = _OPTIONS.get(field, f"--{field.replace('_', '-')}")
        raise BadRequest(error.message.replace(f"The field '{field}'", option).replace(f"'{field}'", option)) from None
    guard.check_submission(message, load_settings().paths)
    return message


def connect() -> Client:
    """A client of the running daemon; starts one when none runs."""
    try:
        return Client(name="vatt")
    except errors.DaemonNotRunning:
        print("starting the daemon", file=sys.stderr, flush=True)
        return launch.start_daemon()


def carry_out(
    message: messages.Submission | messages.Batch, *, quiet: bool, display: Display = progress_display
) -> Job:
    """Submit, show the progress, return the job that is done. Ctrl-C, and being terminated, cancel it in the daemon."""

    interrupts: list[int] = []

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    def remember(number: int, *_: object) -> None:
        interrupts.append(number)

    with connect() as client:
        # Between the question and its answer the daemon may know a job that we cannot name yet: wait for its name.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, remember)
        job = client.submit(message)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, interrupt)
        try:
            if interrupts:
                raise KeyboardInterrupt
            with display(quiet=quiet and not sys.stderr.isatty()) as show:
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
