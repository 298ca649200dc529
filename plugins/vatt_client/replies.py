"""What the daemon answers, as typed, frozen dataclasses.

Fields that a client does not know are left out, so that a newer daemon can add some (minor versions do).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from vatt_client import errors

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
STATES = (QUEUED, RUNNING, DONE, FAILED, CANCELLED)
ENDED = (DONE, FAILED, CANCELLED)


@dataclass(frozen=True, kw_only=True)
class Reply:
    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> Self:
        known = {item.name for item in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in body.items() if key in known})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class Welcome(Reply):
    """Answer to `hello`."""

    instance: str
    daemon: str = ""
    protocol_minimum: list[int] = field(default_factory=list)
    protocol_maximum: list[int] = field(default_factory=list)
    capabilities: list[str] = field(default_factory=list)
    largest_message: int = 1 << 20
    pid: int = 0


@dataclass(frozen=True, kw_only=True)
class Pong(Reply):
    """Answer to `ping`. `uptime` in seconds."""

    instance: str
    uptime: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Progress(Reply):
    """How far a job is: `done` of `total` steps of `stage`. `elapsed` and `eta` in seconds; eta may be unknown."""

    job: str
    stage: str
    done: int
    total: int
    unit: str = "steps"
    elapsed: float = 0.0
    eta: float | None = None


@dataclass(frozen=True, kw_only=True)
class Caption(Reply):
    """One suggestion; `score` is how much it agrees with all that the model said of the clip (0 to 1) plus 0.04 for each word
    that matters, higher is better."""

    text: str
    score: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Suggestions(Reply):
    """Answer of a `suggest` job. `duration` of the range, `cuts` in it and `seconds` spent per stage, in seconds."""

    captions: list[Caption]
    seed: int | None = None
    model: str = ""
    duration: float = 0.0
    cuts: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> Self:
        found = super().from_wire(body)
        return dataclasses.replace(found, captions=[Caption.from_wire(item) for item in body["captions"]])


@dataclass(frozen=True, kw_only=True)
class Take(Reply):
    """One soundtrack: absolute paths of its files, and what it was made from.

    samples: length at `sample_rate` Hz. onsets: seconds in the range at which sounds begin. loudness: LUFS, None for
    silence. preview, muxed: only when they were asked for. scores: by name, None where not known, see docs/sound.md.
    """

    wav: str
    sidecar: str = ""
    preview: str | None = None
    muxed: str | None = None
    caption: str = ""
    seed: int = 0
    samples: int = 0
    sample_rate: int = 48_000
    onsets: list[float] = field(default_factory=list)
    loudness: float | None = None
    scores: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Takes(Reply):
    """Answer of a `generate` job, the best take first. `cuts`: seconds in the range at which shots change. `seconds`: time
    spent per stage, for all takes together."""

    takes: list[Take]
    caption: str = ""
    model: str = ""
    model_hash: str = ""
    duration: float = 0.0
    cuts: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> Self:
        found = super().from_wire(body)
        return dataclasses.replace(found, takes=[Take.from_wire(item) for item in body["takes"]])


@dataclass(frozen=True, kw_only=True)
class Job(Reply):
    """A job as it is. Times are seconds since 1970; `error` is an error map, see errors.from_wire. An item of a batch names
    the batch and its position in it, from 0. client: whose job it is, `local` for programs of the daemon's own user."""

    id: str
    kind: str
    state: str
    priority: str = "interactive"
    attempt: int = 0
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    seed: int | None = None
    progress: dict[str, Any] | None = None
    request: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    history: list[dict[str, Any]] | None = None
    batch: str | None = None
    position: int | None = None
    client: str = "local"

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def raise_for_state(self) -> None:
        """Raise the typed error of a job that failed or was cancelled."""
        if self.state == CANCELLED:
            raise errors.from_wire(self.error or {"code": "cancelled", "message": f"Job {self.id} was cancelled."})
        if self.state == FAILED:
            raise errors.from_wire(self.error or {"code": "internal", "message": f"Job {self.id} failed."})

    def suggestions(self) -> Suggestions:
        """The captions of a `suggest` job that is done; raises its error otherwise."""
        self.raise_for_state()
        return Suggestions.from_wire(self.result or {"captions": []})

    def takes(self) -> Takes:
        """The takes of a `generate` job that is done; raises its error otherwise."""
        self.raise_for_state()
        return Takes.from_wire(self.result or {"takes": []})


@dataclass(frozen=True, kw_only=True)
class BatchItem(Reply):
    """What became of one item. kept: an earlier job had made it, and its files were found whole. error: an error map."""

    position: int
    job: str
    state: str
    path: str | None = None
    kept: bool = False
    takes: list[Take] = field(default_factory=list)
    error: dict[str, Any] | None = None

    @classmethod
    def from_job(cls, job: Job) -> Self:
        return cls(
            position=job.position or 0,
            job=job.id,
            state=job.state,
            path=(job.request or {}).get("path"),
            kept=job.state == DONE and job.attempt == 0,
            takes=job.takes().takes if job.state == DONE else [],
            error=job.error,
        )


@dataclass(frozen=True, kw_only=True)
class BatchReport(Reply):
    """What became of a batch and of each of its items, in the order of the manifest.

    counts: items by state, and how many of those done were `kept`. created, finished: seconds since 1970.
    """

    job: str
    state: str
    counts: dict[str, int]
    items: list[BatchItem]
    created: float = 0.0
    finished: float | None = None

    @property
    def complete(self) -> bool:
        """Whether every item is done."""
        return all(item.state == DONE for item in self.items)

    @classmethod
    def from_jobs(cls, batch: Job, items: Iterable[Job]) -> Self:
        found = sorted((BatchItem.from_job(item) for item in items), key=lambda item: item.position)
        counts = {state: sum(item.state == state for item in found) for state in STATES}
        counts["kept"] = sum(item.kept for item in found)
        return cls(
            job=batch.id,
            state=batch.state,
            counts=counts,
            items=found,
            created=batch.created,
            finished=batch.finished,
        )


@dataclass(frozen=True, kw_only=True)
class DaemonStatus(Reply):
    """Answer to `status`. `worker` describes the model process; `counts` are jobs by state; `remote` says where other machines
    are listened to, none: nowhere."""

    instance: str
    pid: int = 0
    uptime: float = 0.0
    running: list[str] = field(default_factory=list)
    queued: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    worker: dict[str, Any] = field(default_factory=dict)
    watchers: int = 0
    remote: dict[str, Any] | None = None
