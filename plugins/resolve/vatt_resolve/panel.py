"""`vatt resolve panel`: the other end of a menu script. Runs in VATT's own Python, knows the daemon and no Resolve.

Both ends write JSON, a line each. The script opens with the clips; the panel answers `place` with takes for one of them,
hears `placed` with what became of them, may `say` something for Resolve's console, and ends with `close`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from vatt_client import Client, messages
from vatt_client.errors import ClientError
from vatt_client.replies import Caption, Progress, Takes

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class PanelSettings:
    """output: folder for the takes of all projects. takes: how many. model: its name."""

    output: str = str(Path.home() / "VATT")
    takes: int = 1
    model: str = "nano"

    @classmethod
    def load(cls, file: Path) -> PanelSettings:
        """The user's choices; defaults where there are none, or where they are damaged."""
        try:
            found = json.loads(file.read_text("utf-8"))
            known = {name: found[name] for name in ("output", "takes", "model") if name in found}
            settings = cls(**known)
            messages.Generate(path="/clip", output=settings.output, takes=settings.takes, model=settings.model)
        except (OSError, ValueError, TypeError, AttributeError, ClientError):
            return cls()
        return settings

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(vars(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class ClipInfo:
    """A clip of the timeline as the script describes it. start, end: seconds in its file, as exact texts. made: what its
    newest VATT marker says. rendered: why it is a proxy, or None."""

    clip: int
    name: str
    path: str
    start: str
    end: str
    frames: int
    rendered: str | None = None
    made: dict[str, Any] = field(default_factory=dict)


class Conversation:
    """The script's end of the line."""

    def __init__(self, incoming: TextIO, outgoing: TextIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    def read(self) -> dict[str, Any]:
        """The next message. Raises EOFError when the script is gone."""
        line = self._incoming.readline()
        if not line:
            raise EOFError
        return dict(json.loads(line))

    def say(self, **message: Any) -> None:
        self._outgoing.write(json.dumps(message) + "\n")
        self._outgoing.flush()

    def place(self, clip: int, job: str, takes: Takes) -> dict[str, Any]:
        """Have takes put on the timeline; returns the script's answer."""
        self.say(
            type="place",
            clip=clip,
            takes=[
                {"wav": take.wav, "sidecar": take.sidecar, "caption": take.caption, "seed": take.seed, "job": job}
                for take in takes.takes
            ],
        )
        return self.read()


class Work:
    """Jobs about the clips of one opening. `connect` gives a client of the daemon."""

    def __init__(self, connect: Callable[[], Client], settings: PanelSettings, project: str) -> None:
        self._connect = connect
        self.settings = settings
        self._folder = Path(settings.output).expanduser() / (
            re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", project) or "project"
        )
        self._job: str | None = None
        self._cancelled = False

    def captions(self, clip: ClipInfo, *, count: int = 3, on_progress: OnProgress | None = None) -> list[Caption]:
        """Raises ClientError."""
        message = messages.Suggest(
            path=clip.path, start=clip.start, end=clip.end, count=count, model=self.settings.model  # type: ignore[arg-type]
        )  # fmt: skip
        with self._connect() as client:
            return self._run(client, message, on_progress).suggestions().captions

    def generate(
        self,
        clip: ClipInfo,
        *,
        prompt: str | None,
        takes: int,
        seed: int | None = None,
        negative: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> tuple[str, Takes]:
        """The job's id and its takes. Raises ClientError."""
        message = messages.Generate(
            path=clip.path, start=clip.start, end=clip.end, output=str(self._folder), prompt=prompt or None,  # type: ignore[arg-type]
            negative_prompt=negative or None, takes=takes, seed=seed, model=self.settings.model,
        )  # fmt: skip
        with self._connect() as client:
            job = self._run(client, message, on_progress)
            return job.id, job.takes()

    def _run(self, client: Client, message: messages.Submission, on_progress: OnProgress | None) -> Any:
        self._cancelled = False
        self._job = client.submit(message)
        try:
            return client.wait(self._job, on_progress=on_progress)
        finally:
            self._job = None

    def cancel(self) -> None:
        """Cancel what runs; may be called from another thread. Raises ClientError."""
        job = self._job
        if job is not None:
            with self._connect() as client:
                client.cancel(job)


def clips_of(opening: dict[str, Any]) -> list[ClipInfo]:
    return [ClipInfo(**clip) for clip in opening["clips"]]


def run_without_window(opening: dict[str, Any], talk: Conversation, work: Work) -> bool:
    """Carry out an opening with the settings as they are: where no window can be shown. Returns whether all went well."""
    good = True
    action = opening["action"]
    if action in ("settings", "problem"):
        talk.say(type="say", message=opening.get("message") or "The settings need a window: install Tk for Python.")
    for clip in clips_of(opening):
        try:
            if action == "suggest":
                for caption in work.captions(clip):
                    talk.say(type="say", message=f"{clip.name}: {caption.text} ({caption.score:.2f})")
                continue
            prompt = str(clip.made.get("caption") or "") if action == "another" else None
            job, takes = work.generate(clip, prompt=prompt, takes=work.settings.takes)
            good &= not talk.place(clip.clip, job, takes)["problems"]
        except ClientError as error:
            talk.say(type="failed", message=f"{clip.name}: {error.message}")
            good = False
    talk.say(type="close")
    return good
