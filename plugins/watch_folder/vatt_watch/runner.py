"""The loop that watches: clips that have settled are handed to the daemon, what comes back is moved into place.

Every step is stored before its consequence, so that a kill at any time loses and repeats nothing. The state is not locked
while the daemon is asked or results are moved: `vatt watch` commands must get through meanwhile.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from vatt_client import Client, messages
from vatt_client.errors import (
    BadMedia,
    Busy,
    ClientError,
    ConnectionProblem,
    InputNotVisible,
    Internal,
    NotFound,
    Unauthorised,
    from_wire,
)
from vatt_client.replies import DONE as JOB_DONE
from vatt_client.replies import Job

from vatt_watch import delivery
from vatt_watch.book import Book, Place, place_of
from vatt_watch.hints import Hints
from vatt_watch.intake import SLICE, UNREADABLE, Intake, Pace
from vatt_watch.options import read_options
from vatt_watch.scan import look
from vatt_watch.state import CAPTIONING, DONE, FAILED, SKIPPED, SOUNDING, Clip, WatchedFolder, WatchState

log = logging.getLogger(__name__)

SHORTEST_NAP, LONGEST_NAP = 0.005, 0.25
DELIVERY_TRIES = 5
RECONNECT = 1.0
"""Seconds between two attempts to reach the daemon."""
HOLD = 5.0
"""Seconds until the daemon is asked again after it was busy or its disk was full."""


class Runner:
    """Watches every folder of a `WatchState`. `connect` returns a client of the daemon, or raises a ClientError."""

    def __init__(self, state: WatchState, connect: Callable[[], Client], pace: Pace) -> None:
        self._connect = connect
        self._pace = pace
        self._wake = threading.Event()
        self._stopping = False
        self._hints = Hints(self._wake)
        self._book = Book(state)
        self._intake = Intake(self._book, self._hints, pace, self._abandon)
        self._client: Client | None = None
        self._retry_connection = 0.0
        self._hold = 0.0
        self._jobs: dict[str, str] = {}
        self._not_before: dict[Place, tuple[str, float]] = {}
        self._told: set[str] = set()

    # ---- the loop --------------------------------------------------------------------------------------------------

    def run(self, *, once: bool = False) -> int:
        """Watch until `stop`; `once`: until everything that lies there now is done. Returns how many clips failed."""
        nap = SHORTEST_NAP
        try:
            while not self._stopping:
                busy = self.step()
                if once and self.idle:
                    break
                nap = SHORTEST_NAP if busy else min(LONGEST_NAP, nap * 1.5)
                self._wake.wait(nap)
                self._wake.clear()
        finally:
            self._hints.close()
            self._disconnect()
        return sum(clip.state == FAILED for clip in self._book.clips.values())

    def stop(self) -> None:
        """End `run` after its present step. Jobs under way go on in the daemon and are taken up at the next start."""
        self._stopping = True
        self._wake.set()

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do in the folders that are there and not paused."""
        active = {folder.id for folder in self._book.folders.values() if not folder.paused}
        here = active - self._intake.offline
        return self._intake.rested(active) and not any(
            place[0] in here for place in (*self._book.waiting, *self._book.under_way)
        )

    def step(self) -> bool:
        """Do what is to be done now; returns whether anything was."""
        if self._book.state.changed_by_others():
            self._reload()
        self._intake.look_around()
        busy = self._intake.take_settled()
        try:
            busy |= self._collect()
            busy |= self._hand_in()
        except (ConnectionProblem, Unauthorised) as error:
            self._tell_once(f"The daemon cannot be reached: {error.message}")
            self._disconnect()
            self._retry_connection = time.monotonic() + RECONNECT
        return busy

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            log.warning("%s", text)

    def _reload(self) -> None:
        """Another program has changed what is watched, or we have just begun."""
        keys = {self._book.clips[place].key for place in self._book.under_way}
        self._book.reload()
        for key in keys - {self._book.clips[place].key for place in self._book.under_way}:
            self._cancel(key)
        self._intake.reloaded()

    def _connected(self) -> Client | None:
        if self._client is None and time.monotonic() >= self._retry_connection:
            self._client = self._connect()
            self._told.clear()
        return self._client

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _abandon(self, clip: Clip) -> None:
        """Stop the work on a content that is not there any more."""
        self._cancel(clip.key)
        if "destination" in clip.work:
            shutil.rmtree(delivery.staging_folder(Path(clip.work["destination"]), clip.key), ignore_errors=True)

    def _cancel(self, key: str) -> None:
        job = self._jobs.pop(key, None)
        if job is not None and self._client is not None:
            try:
                self._client.cancel(job)
            except ClientError as error:
                log.info("job %s was not cancelled: %s", job, error.message)

    def _delay(self, clip: Clip, seconds: float) -> None:
        """Leave a clip alone for a while, unless its content is replaced: that waits for nothing."""
        self._not_before[place_of(clip)] = clip.content, time.monotonic() + seconds

    def _is_delayed(self, place: Place) -> bool:
        content, until = self._not_before.get(place, ("", 0.0))
        return time.monotonic() < until and content == self._book.clips[place].content

    # ---- what is handed to the daemon ------------------------------------------------------------------------------

    def _hand_in(self) -> bool:
        """Begin with waiting clips, as many as the window takes. Their jobs are submitted once that is stored.

        Those that only get copies of what is made already take no room: after a while the jobs under way come first again.
        """
        now = time.monotonic()
        room = self._pace.window - len(self._book.under_way)
        if room <= 0 or not self._book.waiting or now < self._hold:
            return False
        begun = False
        for place in list(self._book.waiting):
            if room <= 0 or (begun and time.monotonic() - now >= SLICE):
                break
            folder = self._book.folders[place[0]]
            if folder.paused or folder.id in self._intake.offline or self._is_delayed(place):
                continue
            if self._begin(folder, self._book.clips[place]):
                begun = True
                room -= place in self._book.under_way
        return begun

    def _begin(self, folder: WatchedFolder, clip: Clip) -> bool:
        """Decide how a waiting clip is done. False: it has to wait for another one of the same content."""
        path = folder.path / clip.path
        try:
            if clip.content.startswith(UNREADABLE):
                raise InputNotVisible(f"The file {path} cannot be read: change its permissions.")
            options = read_options(folder.path, clip.path, folder.options)
            takes = int(options.sound.get("takes", 1))
            if not options.skip:
                delivery.check_name(path, takes)
        except ClientError as error:
            self._fail(folder, clip, error, None)
            return True
        if options.skip:
            clip.state = SKIPPED
            self._book.save(clip)
            return True
        recipe = options.recipe(clip.content)
        twins = self._book.others_of(clip, recipe)
        if any(place_of(twin) in self._book.under_way for twin in twins):
            return False
        destination = folder.destination(clip.path)
        clip.recipe = recipe
        clip.base = delivery.choose_base(
            path,
            destination,
            takes=takes,
            taken=lambda base: self._book.name_is_taken(clip, base),
            own=clip.outputs,
        )
        for twin in twins:
            if twin.state == DONE and twin.outputs and all(delivery.unchanged(output) for output in twin.outputs):
                self._copy(folder, clip, twin)
                return True
        clip.key = uuid.uuid4().hex
        clip.work = {
            "options": {"captions": options.captions, "mux": options.mux, **options.sound},
            "destination": str(destination),
        }
        clip.state = CAPTIONING if options.captions else SOUNDING
        self._book.save(clip)
        return True

    def _copy(self, folder: WatchedFolder, clip: Clip, twin: Clip) -> None:
        destination = folder.destination(clip.path)
        try:
            destination.mkdir(parents=True, exist_ok=True)
            clip.outputs = delivery.copy_results(
                twin.outputs, twin.base, destination, clip.base, clip=folder.path / clip.path, before=clip.outputs
            )
        except OSError as error:
            self._postpone(folder, clip, error)
            return
        log.info("%s: the same as %s, copied", clip.path, twin.path)
        self._finish(clip)

    def _message(self, folder: WatchedFolder, clip: Clip) -> messages.Submission:
        """The request of a clip under way. The same after a restart, as the daemon compares it by its key."""
        sound = dict(clip.work["options"])
        captions, mux = sound.pop("captions"), sound.pop("mux")
        path = str(folder.path / clip.path)
        if clip.state == CAPTIONING:
            shared = {name: sound[name] for name in ("start", "end", "seed", "model") if name in sound}
            return messages.Suggest(
                path=path, count=captions, priority="batch", idempotency_key=f"{clip.key}-captions", **shared
            )
        if "prompt" not in sound and clip.work.get("captions"):
            sound["prompt"] = clip.work["captions"][0]["text"]
        staging = delivery.staging_folder(Path(clip.work["destination"]), clip.key)
        return messages.Generate(
            path=path, output=str(staging), preview=mux, priority="batch", idempotency_key=f"{clip.key}-sound", **sound
        )

    # ---- what comes back -------------------------------------------------------------------------------------------

    def _collect(self) -> bool:
        """See what has become of the jobs under way; hand in those that the daemon does not have yet."""
        if not self._book.under_way or time.monotonic() < self._hold:
            return False
        client = self._connected()
        if client is None:
            return False
        busy = False
        for place in list(self._book.under_way):
            clip, folder = self._book.clips[place], self._book.folders[place[0]]
            if self._is_delayed(place):
                continue
            try:
                busy |= self._advance(client, folder, clip)
            except (ConnectionProblem, Unauthorised):
                raise
            except Busy as error:
                self._hold = time.monotonic() + (error.retry_after or HOLD)
                break
            except ClientError as error:
                self._problem(folder, clip, error)
                busy = True
        return busy

    def _advance(self, client: Client, folder: WatchedFolder, clip: Clip) -> bool:
        if clip.key not in self._jobs:
            self._jobs[clip.key] = client.submit(self._message(folder, clip))
            return True
        try:
            job = client.get(self._jobs[clip.key])
        except NotFound:
            self._jobs.pop(clip.key)  # another job store: hand it in there
            return True
        if not job.ended:
            return False
        if job.state != JOB_DONE:
            self._problem(folder, clip, from_wire(job.error or {"code": "cancelled", "message": "It was cancelled."}))
        elif clip.state == CAPTIONING:
            clip.work["captions"] = [{"text": one.text, "score": one.score} for one in job.suggestions().captions]
            clip.state = SOUNDING
            self._jobs.pop(clip.key)
            self._book.save(clip)
        else:
            self._deliver(folder, clip, job)
        return True

    def _deliver(self, folder: WatchedFolder, clip: Clip, job: Job) -> None:
        made = job.takes()
        try:
            clip.outputs = delivery.deliver(
                made.takes,
                Path(clip.work["destination"]),
                clip.base,
                clip=folder.path / clip.path,
                captions=clip.work.get("captions", ()),
                before=clip.outputs,
            )
        except delivery.LostResult as error:
            log.warning("%s is done again: %s", clip.path, error)
            self._jobs.pop(clip.key, None)
            self._intake.renew(clip)
            return
        except OSError as error:
            self._postpone(folder, clip, error)
            return
        log.info("%s: %d take(s), %r", clip.path, len(made.takes), made.caption)
        self._finish(clip)

    def _finish(self, clip: Clip) -> None:
        self._jobs.pop(clip.key, None)
        self._not_before.pop(place_of(clip), None)
        old_error, clip.error_file = clip.error_file, ""
        clip.state, clip.work, clip.error = DONE, {}, ""
        self._book.save(clip)
        delivery.remove_error(old_error)

    def _postpone(self, folder: WatchedFolder, clip: Clip, error: OSError) -> None:
        """The results could not be moved into place: the disk is full, or a player holds the old ones open."""
        tries = clip.work["tries"] = clip.work.get("tries", 0) + 1
        if tries >= DELIVERY_TRIES:
            where = f" ({error.filename})" if error.filename else ""
            cause = Internal(f"The results cannot be written{where}: {error.strerror}.")
            self._fail(folder, clip, cause, self._jobs.get(clip.key))
            return
        log.warning("%s: the results cannot be written yet (%s)", clip.path, error)
        self._delay(clip, min(60.0, self._pace.polling * 2**tries))
        self._book.save(clip)

    def _problem(self, folder: WatchedFolder, clip: Clip, error: ClientError) -> None:
        """A job was refused or has failed: try again what may pass, leave the cause of everything else."""
        job = self._jobs.pop(clip.key, None)
        now = look(folder.path, clip.path)
        if error.retryable:
            self._tell_once(f"{error.message} Trying again until it works.")
            self._intake.renew(clip)
            self._hold = time.monotonic() + (error.retry_after or HOLD)
        elif now != clip.seen:
            # It is being replaced, or gone: the next look tells.
            self._intake.renew(clip)
            self._delay(clip, self._pace.settle)
            self._intake.look_soon(folder.id)
        elif isinstance(error, BadMedia) and self._intake.may_still_grow(clip):
            # Its size and time stand still, but a slow copy may have paused.
            self._intake.renew(clip)
            self._delay(clip, self._pace.patience)
        else:
            self._fail(folder, clip, error, job)

    def _fail(self, folder: WatchedFolder, clip: Clip, error: ClientError, job: str | None) -> None:
        log.warning("%s failed: %s", folder.path / clip.path, error.message)
        destination = folder.destination(clip.path)
        self._jobs.pop(clip.key, None)
        if clip.key:
            shutil.rmtree(delivery.staging_folder(destination, clip.key), ignore_errors=True)
        clip.state, clip.work, clip.error = FAILED, {}, error.message
        clip.error_file = delivery.write_error(destination, folder.path / clip.path, error, job)
        self._book.save(clip)
