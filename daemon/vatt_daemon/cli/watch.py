"""`vatt watch add|list|remove|pause|resume|retry|run`: watched folders."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import logging.handlers
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from vatt_client import Client, connection, errors
from vatt_watch import Pace, Runner, WatchedFolder, WatchState, check_options

from vatt_core.errors import BadRequest, ForbiddenPath, InputNotVisible, NotFound, VattError
from vatt_daemon import launch
from vatt_daemon.cli.jobs import loudness_of
from vatt_daemon.cli.output import print_json, print_table
from vatt_daemon.folders import folders
from vatt_daemon.lock import AlreadyRunning, SingleInstance
from vatt_daemon.settings import load_settings

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Folders whose new clips get captions and soundtracks."
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The watched folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


@contextlib.contextmanager
def _state() -> Iterator[WatchState]:
    state = WatchState(folders().data / "watch.sqlite")
    try:
        yield state
    finally:
        state.close()


@app.command()
def add(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to watch.")],
    recursive: Annotated[bool, typer.Option("--recursive", help="Sub-folders too.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FOLDER", help="Where results go; left out, beside the clips.")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="What shall be heard; else the best caption.")] = None,
    negative: Annotated[str | None, typer.Option("--negative", help="What shall not be heard.")] = None,
    takes: Annotated[int | None, typer.Option("--takes", help="How many different takes.")] = None,
    captions: Annotated[int | None, typer.Option("--captions", help="How many captions are noted; 0: none.")] = None,
    mux: Annotated[bool, typer.Option("--mux", help="Also a copy of the video with the sound.")] = False,
    polling: Annotated[bool, typer.Option("--polling", help="Look often instead of waiting for events.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="The same seed for every clip.")] = None,
    loudness: Annotated[str | None, typer.Option("--loudness", help="Target in LUFS, or 'off'.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Name of the model.")] = None,
) -> None:
    """Watch a folder. One that is watched already gets these settings."""
    root = _existing(folder)
    given: dict[str, Any] = {
        "prompt": prompt, "negative_prompt": negative, "takes": takes, "captions": captions, "mux": mux or None,
        "seed": seed, "model": model,
    }  # fmt: skip
    options = {name: value for name, value in given.items() if value is not None}
    if loudness is not None:
        options["loudness"] = loudness_of(loudness)
    check_options(options, "the command line")
    results = output.expanduser().absolute() if output else None
    if results is not None:
        _make(results)
        results = results.resolve()
    with _state() as state:
        for other in state.folders():
            if _overlap(other, root, recursive):
                first = f"'vatt watch remove {other.path}' first"
                raise BadRequest(
                    f"{root} is watched already, as a sub-folder of {other.path}: to watch it by itself, {first}."
                    if root.is_relative_to(other.path)
                    else f"The sub-folder {other.path} is watched already: leave --recursive out, or {first}."
                )
        state.add_folder(root, output=results, recursive=recursive, polling=polling, options=options)
    print(f"Watching {root}. 'vatt watch run' does the work, or the service ('vatt service install').")


def _existing(folder: Path) -> Path:
    root = folder.expanduser().absolute()
    try:
        if not root.is_dir():
            raise InputNotVisible(f"There is no folder {root}: make it first.")
        return root.resolve()
    except OSError as error:
        raise ForbiddenPath(f"The folder {root} cannot be reached ({error.strerror}).") from error


def _make(results: Path) -> None:
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ForbiddenPath(f"The folder {results} cannot be made ({error.strerror}): choose another one.") from error


def _overlap(other: WatchedFolder, root: Path, recursive: bool) -> bool:
    if other.path == root:
        return False
    return (other.recursive and root.is_relative_to(other.path)) or (recursive and other.path.is_relative_to(root))


def _known(state: WatchState, folder: Path) -> WatchedFolder:
    root = folder.expanduser().absolute()
    for found in state.folders():
        if found.path in (root, root.resolve()):
            return found
    raise NotFound(f"{root} is not watched: 'vatt watch list' shows what is.")


@app.command("list")
def show(as_json: AsJson = False) -> None:
    """The watched folders and how far they are."""
    with _state() as state:
        rows: list[dict[str, Any]] = [
            {
                "path": str(folder.path),
                "output": str(folder.output) if folder.output else None,
                "recursive": folder.recursive,
                "polling": folder.polling,
                "paused": folder.paused,
                "there": folder.path.is_dir(),
                "options": folder.options,
                "clips": state.counts(folder.id),
                "last_error": state.last_error(folder.id),
            }
            for folder in state.folders()
        ]
    if as_json:
        print_json({"running": _running(), "folders": rows})
        return
    print_table(
        ("folder", "state", "done", "waiting", "failed", "last error"),
        [
            (
                row["path"],
                "paused" if row["paused"] else "watched" if row["there"] else "missing",
                str(row["clips"].get("done", 0)),
                str(sum(row["clips"].get(name, 0) for name in ("waiting", "captioning", "sounding"))),
                str(row["clips"].get("failed", 0)),
                row["last_error"],
            )
            for row in rows
        ],
    )
    if rows and not _running():
        print("Nobody works on them: 'vatt watch run', or 'vatt service install'.", file=sys.stderr)


def _lock_file() -> Path:
    return folders().runtime / "watch.lock"


def _running() -> bool:
    if not _lock_file().exists():
        return False
    try:
        SingleInstance(_lock_file()).release()
    except AlreadyRunning:
        return True
    return False


@app.command()
def remove(folder: Folder) -> None:
    """Stop watching a folder. Its files stay as they are."""
    with _state() as state:
        state.remove_folder(_known(state, folder).id)


@app.command()
def pause(folder: Folder) -> None:
    """Begin with no new clips of a folder until it is resumed."""
    with _state() as state:
        state.set_paused(_known(state, folder).id, True)


@app.command()
def resume(folder: Folder) -> None:
    """Go on with a paused folder."""
    with _state() as state:
        state.set_paused(_known(state, folder).id, False)


@app.command()
def retry(folder: Folder) -> None:
    """Try the failed clips of a folder again."""
    with _state() as state:
        count = state.retry(_known(state, folder).id)
    print(f"{count} clip(s) will be tried again.")


@app.command()
def run(
    once: Annotated[bool, typer.Option("--once", help="End when everything that lies there is done.")] = False,
    start: Annotated[bool, typer.Option(" /--no-start", help="Wait for a daemon instead of starting one.")] = True,
) -> None:
    """Watch all folders, until Ctrl-C. With --once the exit code is 1 when a clip has failed."""
    places = folders()
    settings = load_settings().watch
    try:
        places.make()
    except OSError as error:
        raise ForbiddenPath(f"The folder {error.filename} cannot be made ({error.strerror}).") from error
    _prepare_logging(places.log / "watch.log")
    try:
        lock = SingleInstance(_lock_file())
    except AlreadyRunning:
        raise AlreadyRunning(
            "The folders are being watched already, by the service or another 'vatt watch run'."
        ) from None
    try:
        with _state() as state:
            runner = Runner(state, _connector(start), Pace(**dataclasses.asdict(settings)))
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: runner.stop())
            failed = runner.run(once=once)
    finally:
        lock.release()
    if once and failed:
        raise typer.Exit(1)


def _connector(start: bool) -> Callable[[], Client]:
    def connect() -> Client:
        try:
            return Client(name="vatt watch")
        except errors.DaemonNotRunning:
            if not start or connection.chosen_file() is not None:
                raise
        try:
            return launch.start_daemon(name="vatt watch")
        except VattError as error:
            raise errors.DaemonNotRunning(error.message) from error

    return connect


def _prepare_logging(file: Path) -> None:
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    with contextlib.suppress(OSError):
        handlers.append(logging.handlers.RotatingFileHandler(file, maxBytes=2 << 20, backupCount=4, encoding="utf-8"))
    logging.basicConfig(
        level=logging.INFO, handlers=handlers, force=True, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("watchdog").setLevel(logging.WARNING)
