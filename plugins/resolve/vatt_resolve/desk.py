"""What the panel's window shows and what its buttons do, whatever draws it: one piece of work at a time, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vatt_client.errors import ClientError
from vatt_client.replies import Caption, Progress

from vatt_resolve.panel import ClipInfo, Conversation, PanelSettings, Work, clips_of

PATIENCE = 5.0
"""Seconds that a cancellation may take when the window is closed."""


class Desk:
    """One opening of the panel. All attributes may be read at any time; `version` rises whenever one has changed.

    action: what the user chose in Resolve's menu. captions: those suggested so far, by the clip's number. progress: share
    of the running job that is done, 0 to 1.
    """

    def __init__(self, opening: dict[str, Any], talk: Conversation, work: Work, settings_file: Path) -> None:
        self.action: str = opening["action"]
        self.clips: list[ClipInfo] = clips_of(opening)
        self.message: str = opening.get("message", "")
        self.prompt: str = ""
        if self.action == "another":
            self.prompt = str(self.clips[0].made.get("caption") or "")
        self.captions: dict[int, list[Caption]] = {}
        self.busy = False
        self.progress = 0.0
        self.version = 0
        self._beginning = threading.Lock()
        self._talk = talk
        self._work = work
        self._settings_file = settings_file

    @property
    def settings(self) -> PanelSettings:
        return self._work.settings

    def suggest(self, clip: int) -> None:
        """Ask for captions of a clip."""

        def work() -> str:
            found = self._work.captions(self.clips[clip], on_progress=self._on_progress)
            self.captions = {**self.captions, clip: found}
            return (
                "Click a caption to make it the prompt." if found else "The model has nothing to say about this clip."
            )

        self._start(work)

    def generate(self, clips: Sequence[int], *, prompt: str, negative: str, takes: int, seed: int | None) -> None:
        """Make takes for clips and have them put on the timeline."""

        def work() -> str:
            told = []
            for clip in (self.clips[number] for number in clips):
                job, made = self._work.generate(
                    clip, prompt=prompt, negative=negative, takes=takes, seed=seed, on_progress=self._on_progress
                )
                answer = self._talk.place(clip.clip, job, made)
                told += [f"{clip.name}: on track {one['track']}" for one in answer["placed"]] + answer["problems"]
            return "\n".join(told)

        self._start(work)

    def cancel(self) -> threading.Thread | None:
        """Cancel what runs. Returns at once, with the thread that does it, or None where nothing runs."""

        def work() -> None:
            try:
                self._work.cancel()
            except ClientError as error:
                self.say(error.message)

        if not self.busy:
            return None
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """The window is gone: cancel what runs before this process ends, and tell the script."""
        cancelling = self.cancel()
        if cancelling is not None:
            cancelling.join(PATIENCE)
        self._talk.say(type="close")

    def save(self, settings: PanelSettings) -> None:
        """Keep settings for the next time."""
        try:
            settings.save(self._settings_file)
        except OSError as error:
            self.say(f"Not saved: {error}")
            return
        kept = PanelSettings.load(self._settings_file) == settings
        self.say("Saved." if kept else "Not saved: there is no such number of takes or model name.")

    def say(self, message: str) -> None:
        self.message = message
        self.version += 1

    def _start(self, work: Callable[[], str]) -> None:
        with self._beginning:  # a page's orders come in threads of their own
            if self.busy:
                return
            self.busy, self.progress = True, 0.0
        self.say("Waiting for the daemon …")

        def run() -> None:
            try:
                said = work()
            except ClientError as error:
                said = error.message
            except (EOFError, OSError, ValueError):
                said = "The script in Resolve has ended: start it again from Workspace > Scripts > VATT."
            self.busy, self.progress = False, 0.0
            self.say(said)

        threading.Thread(target=run, daemon=True).start()

    def _on_progress(self, progress: Progress) -> None:
        self.progress = progress.done / max(1, progress.total)
        left = "" if progress.eta is None else f", {progress.eta:.0f} s left"
        self.say(f"{progress.stage}{left}")
