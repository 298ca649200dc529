"""Settings: flag > environment > file > default. Unknown keys are errors.

The file is `config.toml` in the user's configuration folder. Each key `name` of a table `[table]` can also be given as
the environment variable `VATT_TABLE_NAME`. `VATT_HOME` moves every folder (configuration, data, runtime, log, cache)
below one folder, which is how tests and the demonstration leave nothing behind.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vatt_core.errors import BadRequest
from vatt_daemon.folders import folders


@dataclass(frozen=True)
class ServerSettings:
    """Ports (0: a free one is chosen), limits of what comes in. Sizes in bytes, times in seconds."""

    port: int = 0
    control_port: int = 0
    largest_message: int = 1 << 20
    handshake_timeout: float = 5.0


@dataclass(frozen=True)
class JobSettings:
    """queue: jobs that may wait. attempts: tries of a job whose worker dies. fair_share: interactive jobs in a row
    before a waiting batch job gets its turn. disk_wait: seconds that a batch job whose output disk is full waits for
    space before it fails; an interactive one fails at once. keep_days, keep_jobs, keep_bytes: how long, how many and
    how large ended jobs are kept in the database; the files of takes always stay."""

    queue: int = 20_000
    attempts: int = 3
    fair_share: int = 16
    disk_wait: float = 86_400.0
    keep_days: float = 90.0
    keep_jobs: int = 100_000
    keep_bytes: int = 256 << 20


@dataclass(frozen=True)
class WorkerSettings:
    """device: "auto" (every CUDA GPU, else the CPU), "cpu", "cuda", "cuda:1"; "cuda:0,cuda:1" is a worker on each.
    slots: jobs under way at once in a worker. batch_slots: how many of them may be batch jobs; more is faster on a GPU,
    and as many are done again when a worker dies. rows: takes and windows, of all jobs, that go through the model
    together. queue_delay: seconds that one waits for others to go with.
    keep_alive: seconds that an idle model stays in memory; -1: for ever. models: how many stay in memory at once.
    cancel_grace: seconds after which a worker that ignores a cancellation is killed; stuck: after which one that makes
    no step at all is. restarts: deaths of a worker within restart_window seconds after which there is a pause.
    threads: CPU threads of the model, 0 for all cores. precision, llm_bits, memory, codec: how models are held, see
    docs/models.md."""

    device: str = "auto"
    slots: int = 8
    batch_slots: int = 1
    rows: int = 16
    queue_delay: float = 0.05
    keep_alive: float = 300.0
    models: int = 2
    cancel_grace: float = 20.0
    stuck: float = 900.0
    restarts: int = 5
    restart_window: float = 60.0
    threads: int = 0
    precision: str = "auto"
    llm_bits: int = 0
    memory: str = "auto"
    codec: str = "transformers"
    pipeline: str = "vatt_daemon.shared:SharedPipeline"


@dataclass(frozen=True)
class MediaSettings:
    """Limits of reading a clip, which happens in a process of its own. file_bytes: size of a file. pixels: of a stored
    picture. source_seconds: how much of a clip one job reads. decoded_frames: pictures decoded for one job. memory:
    bytes that the reading process may take. cpu_seconds, wall_seconds: time for one reading."""

    file_bytes: int = 1 << 40
    pixels: int = 8192 * 8192
    source_seconds: int = 4 * 3600
    decoded_frames: int = 1_000_000
    memory: int = 4 << 30
    cpu_seconds: int = 3600
    wall_seconds: float = 3600.0


@dataclass(frozen=True)
class CacheSettings:
    """bytes: how much of frame features, captions and states is kept on disk, 0: nothing. Safe to delete any time."""

    bytes: int = 2 << 30


@dataclass(frozen=True)
class PathSettings:
    """Folders that jobs may read clips from and write to; empty: whatever the user may."""

    input_roots: tuple[str, ...] = ()
    output_roots: tuple[str, ...] = ()


@dataclass(frozen=True)
class RemoteSettings:
    """Clients on other machines (`vatt clients`); off until switched on. address: where to listen, an address of this
    machine or 0.0.0.0 for all of them. port, control_port: fixed. host: what other machines call this one, where that is
    not the address."""

    enabled: bool = False
    address: str = ""
    port: int = 0
    control_port: int = 0
    host: str = ""


@dataclass(frozen=True)
class TransferSettings:
    """file_bytes: largest upload. keep_bytes: what uploads, and takes that wait to be fetched, may take together.
    keep_days: how long they are kept after they were last used."""

    file_bytes: int = 64 << 30
    keep_bytes: int = 128 << 30
    keep_days: float = 7.0


@dataclass(frozen=True)
class LogSettings:
    """level: "debug", "info", "warning" or "error". format: "text", or "json" for one object per line. private: prompts,
    paths of clips and errors that quote them stay out."""

    level: str = "info"
    format: str = "text"
    private: bool = False


@dataclass(frozen=True)
class MetricsSettings:
    """port: where figures for Prometheus can be read on 127.0.0.1, 0: nowhere."""

    port: int = 0


@dataclass(frozen=True)
class WatchSettings:
    """Of watched folders. settle: seconds that a clip must stay the same before it is taken. rescan, polling: seconds
    between two looks through a folder, with events and without. patience: seconds after which a clip that cannot be
    decoded gets its second chance. window: clips that are with the daemon at once."""

    settle: float = 2.0
    rescan: float = 15.0
    polling: float = 5.0
    patience: float = 30.0
    window: int = 4


@dataclass(frozen=True)
class Settings:
    server: ServerSettings = field(default_factory=ServerSettings)
    jobs: JobSettings = field(default_factory=JobSettings)
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    media: MediaSettings = field(default_factory=MediaSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    paths: PathSettings = field(default_factory=PathSettings)
    remote: RemoteSettings = field(default_factory=RemoteSettings)
    transfers: TransferSettings = field(default_factory=TransferSettings)
    log: LogSettings = field(default_factory=LogSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)


_RANGES: dict[str, tuple[float, float]] = {
    "server.port": (0, 65_535),
    "server.control_port": (0, 65_535),
    "server.largest_message": (4096, 1 << 28),
    "server.handshake_timeout": (0.1, 600),
    "jobs.queue": (1, 10_000_000),
    "jobs.attempts": (1, 100),
    "jobs.fair_share": (1, 1_000_000),
    "jobs.disk_wait": (0, 31_536_000),
    "jobs.keep_days": (0, 36_500),
    "jobs.keep_jobs": (0, 100_000_000),
    "jobs.keep_bytes": (0, 1 << 40),
    "worker.slots": (1, 256),
    "worker.batch_slots": (1, 256),
    "worker.rows": (1, 1024),
    "worker.queue_delay": (0, 60),
    "worker.keep_alive": (-1, 31_536_000),
    "worker.models": (1, 64),
    "worker.cancel_grace": (0.1, 3600),
    "worker.stuck": (1, 86_400),
    "worker.restarts": (1, 1000),
    "worker.restart_window": (1, 86_400),
    "worker.threads": (0, 1024),
    "watch.settle": (0, 3600),
    "watch.rescan": (0.1, 86_400),
    "watch.polling": (0.1, 86_400),
    "watch.patience": (0, 86_400),
    "watch.window": (1, 1000),
    "media.file_bytes": (1, 1 << 50),
    "media.pixels": (1, 1 << 32),
    "media.source_seconds": (1, 1_000_000),
    "media.decoded_frames": (1, 1 << 32),
    "media.memory": (256 << 20, 1 << 44),
    "media.cpu_seconds": (1, 1_000_000),
    "media.wall_seconds": (1, 1_000_000),
    "cache.bytes": (0, 1 << 44),
    "remote.port": (0, 65_535),
    "remote.control_port": (0, 65_535),
    "transfers.file_bytes": (1, 1 << 50),
    "transfers.keep_bytes": (0, 1 << 50),
    "transfers.keep_days": (0, 36_500),
    "metrics.port": (0, 65_535),
}

_CHOICES: dict[str, tuple[str, ...]] = {
    "log.level": ("debug", "info", "warning", "error"),
    "log.format": ("text", "json"),
}


def load_settings(
    *, file: Path | None = None, environment: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Settings:
    """Read the settings. `flags` maps 'table.name' to values and wins over everything.

    Raises BadRequest that names the key and where it stands.
    """
    given = given_settings(file=file, environment=environment, flags=flags)
    kinds = {f"{table}.{name}": kind for table, names in _tables().items() for name, kind in names.items()}
    values: dict[str, dict[str, Any]] = {}
    for key, (value, source) in given.items():
        if key not in kinds:
            raise BadRequest(f"There is no setting '{key}' ({source}). There are: {', '.join(sorted(kinds))}.", key=key)
        table, name = key.split(".", 1)
        values.setdefault(table, {})[name] = _convert(key, value, kinds[key], source)
    defaults = Settings()
    settings = Settings(
        **{
            item.name: dataclasses.replace(getattr(defaults, item.name), **values.get(item.name, {}))
            for item in dataclasses.fields(Settings)
        }
    )
    _check_remote(settings.remote)
    return settings


def given_settings(
    *, file: Path | None = None, environment: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> dict[str, tuple[Any, str]]:
    """'table.name' → the value that counts, as it was given, and where it stands. Raises BadRequest."""
    file = folders().config_file if file is None else file
    environment = os.environ if environment is None else environment
    given: dict[str, tuple[Any, str]] = {}
    for key, value in _from_file(file).items():
        given[key] = (value, str(file))
    for key, value in _from_environment(environment).items():
        given[key] = (value, f"the environment variable {_variable(key)}")
    for key, value in (flags or {}).items():
        given[key] = (value, "the command line")
    return given


def _check_remote(remote: RemoteSettings) -> None:
    """What other machines connect to is said, never chosen."""
    if not remote.enabled:
        return
    if not remote.address:
        raise BadRequest(
            "remote.enabled needs remote.address: an address of this machine, or 0.0.0.0 for all of them.",
            key="remote.address",
        )
    for name in ("port", "control_port"):
        if not getattr(remote, name):
            raise BadRequest(f"remote.enabled needs remote.{name}: other machines must know it.", key=f"remote.{name}")
    if remote.port == remote.control_port:
        raise BadRequest("remote.port and remote.control_port must differ.", key="remote.control_port")


@functools.cache
def _tables() -> dict[str, dict[str, Any]]:
    hints = typing.get_type_hints(Settings)
    return {name: typing.get_type_hints(kind) for name, kind in hints.items()}


def _variable(key: str) -> str:
    return "VATT_" + key.replace(".", "_").upper()


def _from_file(file: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The settings file {file} is no valid TOML: {error}.") from error
    except OSError as error:
        raise BadRequest(f"The settings file {file} cannot be read: {error.strerror}.") from error
    found: dict[str, Any] = {}
    for table, names in tables.items():
        if not isinstance(names, dict):
            raise BadRequest(f"'{table}' in {file} must stand in one of the tables [{'], ['.join(_tables())}].")
        found.update({f"{table}.{name}": value for name, value in names.items()})
    return found


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Variables that begin like a table's must name a key of it; other VATT_ variables are none of ours."""
    found: dict[str, Any] = {}
    for variable, value in environment.items():
        for table in _tables():
            prefix = f"VATT_{table.upper()}_"
            if variable.startswith(prefix):
                found[f"{table}.{variable.removeprefix(prefix).lower()}"] = value
    return found


def _convert(key: str, value: Any, kind: Any, source: str) -> Any:
    """Bring a value from TOML, or a text from the environment, to the type of the setting."""
    wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}.get(
        kind, "a list of texts"
    )
    problem = BadRequest(f"The setting '{key}' ({source}) must be {wanted}, not {value!r}.", key=key)
    if isinstance(kind, types.GenericAlias):
        items = [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise problem
        return tuple(items)
    if isinstance(value, str) and kind in (int, float):
        try:
            value = kind(value)
        except ValueError:
            raise problem from None
    if isinstance(value, str) and kind is bool:
        value = {"true": True, "false": False, "1": True, "0": False}.get(value.strip().lower(), value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise problem
    if key in _CHOICES and value not in _CHOICES[key]:
        raise BadRequest(f"The setting '{key}' ({source}) must be one of {', '.join(_CHOICES[key])}.", key=key)
    low, high = _RANGES.get(key, (float("-inf"), float("inf")))
    if kind in (int, float) and not low <= value <= high:
        raise BadRequest(f"The setting '{key}' ({source}) must lie between {low:g} and {high:g}, not {value}.", key=key)
    return value
