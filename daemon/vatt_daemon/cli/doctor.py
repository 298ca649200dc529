"""`vatt doctor`: look at everything that the daemon needs; each problem with its cure."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
from vatt_client import Client, errors
from vatt_client.connection import own_file, process_exists, read_connection

from vatt_core.errors import VattError
from vatt_core.weights import find_model, list_models, model_hash
from vatt_daemon.cli.output import print_json
from vatt_daemon.clients import NamedClients
from vatt_daemon.folders import folders
from vatt_daemon.keys import check_private, check_private_folder, load_key_pair
from vatt_daemon.schema import VERSION
from vatt_daemon.settings import Settings, load_settings

app = typer.Typer(pretty_exceptions_enable=False)

LEAST_DISK = 1 << 30
"""Bytes that should be free where the daemon keeps its data."""

_LIBRARIES = """
import json, torch
gpu = torch.cuda.is_available()
print(json.dumps({"version": torch.__version__, "gpu": torch.cuda.get_device_name(0) if gpu else None}), flush=True)
import vatt_core, torchvision, transformers, peft, open_clip
"""
"""What the model is built from. That one of them was made for another torch is only seen when it is imported."""


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, how it is, what was seen, and what to do when it is not well."""

    name: str
    state: Literal["ok", "note", "problem"]
    seen: str
    cure: str = ""


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle", metavar="FILE", help="Also write a zip for whoever helps, without paths, prompts, keys."
        ),
    ] = None,
) -> None:
    """Check the installation. The exit code is 1 when something is wrong."""
    found = [check for examine in EXAMINATIONS for check in _safely(examine)]
    healthy = all(check.state != "problem" for check in found)
    report = {"healthy": healthy, "checks": [asdict(check) for check in found]}
    if bundle is not None:
        from vatt_daemon.cli.bundle import write_bundle

        write_bundle(bundle, report)
    if as_json:
        print_json(report)
    else:
        for check in found:
            print(f"{check.state:<8} {check.name}: {check.seen}")
            if check.cure and check.state != "ok":
                print(f"         → {check.cure}")
    raise typer.Exit(0 if healthy else 1)


def _safely(examine: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from examine()
    except Exception as error:
        message = getattr(error, "message", f"{type(error).__name__}: {error}")
        yield Check(examine.__name__.strip("_"), "problem", message, "see the message")


def _versions() -> Iterator[Check]:
    yield Check("python", "ok", sys.version.split()[0])
    for package in (
        "pyzmq",
        "msgpack",
        "numpy",
        "av",
        "torch",
        "torchvision",
        "transformers",
        "peft",
        "open_clip_torch",
    ):
        try:
            yield Check(package, "ok", importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Check(package, "problem", "not installed", "install VATT with its model: pip install 'vatt[daemon]'")


def _libraries() -> Iterator[Check]:
    # In a process of its own, as the worker does it: this command itself never loads torch. -P: nothing of the folder it is
    # called in.
    ran = subprocess.run(
        [sys.executable, "-P", "-c", _LIBRARIES], capture_output=True, text=True, timeout=120, check=False
    )
    wrong = (ran.stderr.strip().splitlines() or ["no message"])[-1] if ran.returncode else ""
    cure = "reinstall torch, torchvision and transformers with the pins of constraints.txt"
    if not ran.stdout.strip():
        yield Check("torch works", "problem", wrong, cure)
        return
    about = json.loads(ran.stdout.splitlines()[0])
    yield Check("torch works", "ok", about["version"])
    if wrong:
        yield Check("model libraries", "problem", wrong, cure)
    else:
        yield Check("model libraries", "ok", "all can be imported")
    if about["gpu"]:
        yield Check("gpu", "ok", about["gpu"])
    else:
        yield Check("gpu", "note", "none: the CPU is used", "nano is fine without; the official models are slow")


def _settings() -> Iterator[Check]:
    file = folders().config_file
    try:
        found = load_settings()
    except VattError as error:
        yield Check("settings", "problem", error.message, f"correct it: 'vatt config edit' opens {file}")
        return
    yield Check("settings", "ok", str(file) if file.exists() else "the defaults")
    for key, roots, rights in (
        ("input_roots", found.paths.input_roots, os.R_OK | os.X_OK),
        ("output_roots", found.paths.output_roots, os.R_OK | os.W_OK | os.X_OK),
    ):
        for root in roots:
            folder = Path(root).expanduser()
            if folder.is_dir() and os.access(folder, rights):
                yield Check(f"paths.{key}", "ok", str(folder))
            else:
                why = "cannot be used with your rights" if folder.is_dir() else "is no folder"
                yield Check(f"paths.{key}", "problem", f"{folder} {why}",
                            "make it, mount it or change its permissions; or take it out: vatt config edit")  # fmt: skip


def _readable_settings() -> Settings | None:
    """None where `_settings` tells what is wrong with them: once is enough."""
    with contextlib.suppress(VattError):
        return load_settings()
    return None


def _folders() -> Iterator[Check]:
    places = folders()
    for name in ("config", "data", "runtime", "log", "cache"):
        folder = getattr(places, name)
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if os.access(existing, os.W_OK | os.X_OK):
            yield Check(f"folder {name}", "ok", str(folder))
        else:
            yield Check(f"folder {name}", "problem", f"{existing} cannot be written to",
                        "change its permissions, or set VATT_HOME to another folder")  # fmt: skip
    existing = next(parent for parent in (places.data, *places.data.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    state: Literal["ok", "problem"] = "ok" if free >= LEAST_DISK else "problem"
    yield Check("free disk", state, f"{free / (1 << 30):.1f} GiB at {existing}", "free some space")


def _keys() -> Iterator[Check]:
    folder = folders().keys
    if folder.exists():
        try:
            check_private_folder(folder)
        except VattError as error:
            yield Check("keys folder", "problem", error.message, f"chmod 700 {folder}")
        else:
            yield Check("keys folder", "ok", "open to you alone")
    keys = sorted(folder.glob("*.secret"))
    if not keys:
        yield Check("keys", "ok", "none yet: the daemon makes them at its first start")
    for file in keys:
        try:
            check_private(file)
        except VattError as error:
            yield Check(f"key {file.name}", "problem", error.message, f"chmod 600 {file}")
            continue
        try:
            load_key_pair(file)
        except VattError as error:
            yield Check(f"key {file.name}", "problem", error.message, f"rm {file}, or restore it from a backup")
        else:
            yield Check(f"key {file.name}", "ok", "readable by you alone")


def _remote() -> Iterator[Check]:
    settings, named = _readable_settings(), NamedClients(folders().clients)
    if settings is None:
        return
    remote = settings.remote
    for file in sorted(named.folder.glob("*.json")):
        try:
            named.read(file.stem)
        except (VattError, OSError) as error:
            yield Check(f"client {file.stem}", "problem", str(error),
                        f"vatt clients remove {file.stem}, and add it again")  # fmt: skip
    known = ", ".join(client.name for client in named.all()) or "none yet"
    said = {"address": remote.address, "port": remote.port, "control_port": remote.control_port}
    where = f"{remote.address}, ports {remote.port} and {remote.control_port}" if remote.enabled else "nowhere"
    try:
        with Client(name="doctor", timeout=5.0, connection_file=own_file()) as client:
            listening = client.status().remote
    except errors.ClientError:
        yield Check("other machines", "ok", f"will be listened to at: {where}; clients: {known}")
        return
    if listening == (said if remote.enabled else None):
        yield Check("other machines", "ok", f"listened to at: {where}; clients: {known}")
    else:
        yield Check("other machines", "problem", f"the settings say: {where}; the running daemon was started with others",
                    "vatt daemon stop, then vatt daemon start")  # fmt: skip


def _models() -> Iterator[Check]:
    for model in list_models():
        if not model.installed:
            yield Check(f"model {model.name}", "problem" if model.embedded else "note", "not installed",
                        "reinstall VATT" if model.embedded
                        else f"vatt models pull {model.name}; or put its folder at {model.folder}")  # fmt: skip
            continue
        yield Check(f"model {model.name}", "ok", f"complete, hash {model_hash(find_model(model.name))[:12]}")


def _daemon() -> Iterator[Check]:
    try:
        found = read_connection(own_file())
    except errors.DaemonNotRunning:
        yield Check("daemon", "ok", "not running; 'vatt generate' and 'vatt daemon start' start it")
        return
    began = time.monotonic()
    try:
        with Client(name="doctor", timeout=5.0, connection_file=own_file()) as client:
            took = time.monotonic() - began
            worker = client.status().worker
    except errors.ClientError as error:
        alive = "runs" if process_exists(found.pid) else "is gone"
        yield Check("daemon", "problem", f"process {found.pid} {alive}: {error.message}",
                    "vatt daemon stop, then vatt daemon start")  # fmt: skip
        return
    yield Check("daemon", "ok", f"process {found.pid}, protocol {found.protocol}, connected in {took * 1000:.0f} ms")
    if worker.get("waits_before_restart"):
        yield Check("worker", "problem", f"died {worker['deaths']} times, the next start is in "
                    f"{worker['waits_before_restart']:.0f} s", f"see the end of {worker['log']}")  # fmt: skip
    elif worker.get("deaths"):
        yield Check("worker", "note", f"has died {worker['deaths']} times since the daemon started",
                    f"see {worker['log']}")  # fmt: skip
    else:
        yield Check("worker", "ok", f"process {worker['pid']}" if worker.get("pid") else "not started; a job starts it")


def _database() -> Iterator[Check]:
    file = folders().database
    if not file.exists():
        yield Check("job database", "ok", "none yet: the daemon makes it at its first start")
        return
    cure = "stop the daemon, then restore it from a backup or move it away"
    try:
        with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)) as found:
            version = int(found.execute("PRAGMA user_version").fetchone()[0])
            damage = " ".join(str(found.execute("PRAGMA quick_check(1)").fetchone()[0]).split())
            jobs = int(found.execute("SELECT COUNT(*) FROM jobs").fetchone()[0]) if version else 0
    except sqlite3.Error as error:
        yield Check("job database", "problem", f"{file}: {error}", cure)
        return
    if version > VERSION:
        yield Check("job database", "problem", f"of version {version}, this program knows {VERSION}", "update VATT")
    elif damage != "ok" or not version:
        yield Check("job database", "problem", f"{file}: {damage if version else 'of another program'}", cure)
    else:
        yield Check("job database", "ok", f"{jobs} jobs, {file.stat().st_size >> 10} KiB, version {version}")


def _cache() -> Iterator[Check]:
    settings = _readable_settings()
    if settings is None:
        return
    limit = settings.cache.bytes
    used = sum(path.stat().st_size for path in (folders().cache / "clips").glob("*/*.entry"))
    yield Check("cache", "ok", f"{used >> 20} of {limit >> 20} MiB at {folders().cache}; may be deleted at any time")


def _resolve() -> Iterator[Check]:
    from vatt_installers import resolve

    library = folders().data / "resolve"
    places = dict.fromkeys((resolve.scripts_folder(), *resolve.installed_in(library)))
    wrong = {seen: cure for scripts in places for seen, cure in resolve.problems(scripts, library).items()}
    for seen, cure in wrong.items():
        yield Check("DaVinci Resolve", "problem", seen, cure)
    if not wrong:
        there = [str(scripts) for scripts in places if any(True for _ in resolve.entries(scripts))]
        yield Check("DaVinci Resolve", "ok", f"scripts in {', '.join(there)}" if there else "no scripts installed")


def _watched_folders() -> Iterator[Check]:
    from vatt_watch import WatchState

    file = folders().data / "watch.sqlite"
    if not file.exists():
        return
    state = WatchState(file)
    try:
        for folder in state.folders():
            if folder.path.is_dir():
                yield Check("watched folder", "ok", str(folder.path))
            else:
                yield Check("watched folder", "note", f"{folder.path} is not there",
                            "mount it or make it again; or 'vatt watch remove' it")  # fmt: skip
    finally:
        state.close()


EXAMINATIONS = (
    _versions, _libraries, _settings, _folders, _keys, _database, _cache, _models, _daemon, _remote, _resolve, _watched_folders,
)  # fmt: skip
