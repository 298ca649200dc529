"""From what lies in the folders to clips that wait to be done: looking through, letting settle, telling contents apart."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vatt_client.errors import BadRequest

from vatt_watch import delivery
from vatt_watch.book import Book, Place, place_of
from vatt_watch.hints import Hints
from vatt_watch.scan import Seen, content_mark, look, note_mark, scan
from vatt_watch.state import DONE, FAILED, SKIPPED, UNDER_WAY, WAITING, Clip, WatchedFolder

log = logging.getLogger(__name__)

SLICE = 0.5
"""Seconds that one step may spend on reading new clips, or on copies, before running jobs are looked after again."""
OLD_STAGING = 86_400.0
"""Seconds after which hidden results that nobody has touched are removed."""
UNREADABLE = "unreadable: "
"""Begin of the mark of a clip whose content could not be read."""


@dataclass(frozen=True)
class Pace:
    """settle: a clip is taken when it stayed the same for so long. rescan, polling: between two looks through a folder,
    with and without events. patience: a clip that cannot be decoded gets a second chance after so long (it may still be
    copied). All in seconds. window: how many clips are with the daemon at once."""

    settle: float = 2.0
    rescan: float = 15.0
    polling: float = 5.0
    patience: float = 30.0
    window: int = 4


@dataclass
class _Settling:
    seen: Seen
    since: float
    first: float


class Intake:
    """Looks through the folders of a book. `abandon` is called with a clip whose content is replaced or gone while jobs
    about it are under way."""

    def __init__(self, book: Book, hints: Hints, pace: Pace, abandon: Callable[[Clip], None]) -> None:
        self._book = book
        self._hints = hints
        self._pace = pace
        self._abandon = abandon
        self._settling: dict[Place, _Settling] = {}
        self._due: dict[int, float] = {}
        self._looked: set[int] = set()
        self._doubted: set[Place] = set()
        self.offline: set[int] = set()

    def reloaded(self) -> None:
        """The book was read again: look through everything soon."""
        for folder in self._due.keys() - self._book.folders.keys():
            self._hints.disarm(folder)
            del self._due[folder]
        self._settling = {place: one for place, one in self._settling.items() if place[0] in self._book.folders}
        for folder in self._book.folders:
            self.look_soon(folder)

    def look_soon(self, folder: int) -> None:
        self._due[folder] = 0.0

    def rested(self, active: set[int]) -> bool:
        """Whether these folders have all been looked through and nothing in them is settling."""
        return self._looked >= active and not any(place[0] in active for place in self._settling)

    def may_still_grow(self, clip: Clip) -> bool:
        """Whether a clip that cannot be decoded gets a second chance: true once for each content."""
        first = place_of(clip) not in self._doubted
        self._doubted.add(place_of(clip))
        return first

    # ---- looking through -------------------------------------------------------------------------------------------

    def look_around(self) -> None:
        """Look through the folders whose time has come, or in which something has happened."""
        now = time.monotonic()
        for hinted in self._hints.take() & self._book.folders.keys():
            self._due[hinted] = min(self._due.get(hinted, 0.0), now + min(1.0, self._pace.settle / 2))
        for folder in list(self._book.folders.values()):
            if not folder.paused and self._due.get(folder.id, 0.0) <= now:
                self._look_through(folder)

    def _look_through(self, folder: WatchedFolder) -> None:
        began = time.monotonic()
        interval = self._pace.polling if folder.polling else self._pace.rescan
        results = folder.output if folder.output != folder.path else None
        self._looked.add(folder.id)
        try:
            found = scan(folder.path, recursive=folder.recursive, leave_out=results)
        except OSError as error:
            if folder.id not in self.offline:
                log.warning("%s is not there (%s): waiting for it to come back", folder.path, error.strerror)
                self.offline.add(folder.id)
            self._hints.disarm(folder.id)
            self._due[folder.id] = began + min(interval, self._pace.polling)
            return
        if folder.id in self.offline:
            log.info("%s is there again", folder.path)
            self.offline.discard(folder.id)
        if not folder.polling:
            self._hints.arm(folder.id, folder.path, recursive=folder.recursive)
        now = time.monotonic()
        with self._book.state.transaction():
            for path, seen in found.clips.items():
                self._notice((folder.id, path), seen, now)
            for place, clip in list(self._book.clips.items()):
                if place[0] == folder.id and clip.path not in found.clips and found.could_see(clip.path):
                    self._gone(clip)
        for file in found.unnameable:
            _refuse_name(folder, file)
        _remove_old(found.staging)
        # A folder that takes long to look through is looked through less often.
        self._due[folder.id] = now + max(interval, 10 * (now - began))

    def _notice(self, place: Place, seen: Seen, now: float) -> None:
        clip = self._book.clips.get(place)
        if clip is not None and clip.seen == seen:
            self._settling.pop(place, None)
            if clip.state == FAILED and clip.error_file and not Path(clip.error_file).exists():
                self.renew(clip)  # its text was removed: that asks for another try
            return
        known = self._settling.get(place)
        if known is None:
            self._settling[place] = _Settling(seen, now, now)
        elif known.seen != seen:
            known.seen, known.since = seen, now

    def _gone(self, clip: Clip) -> None:
        """A clip that is not there any more. What was made of it stays, and is known if it comes back."""
        self._settling.pop(place_of(clip), None)
        if clip.state in UNDER_WAY:
            self._abandon(clip)
        if clip.state not in (DONE, SKIPPED):
            delivery.remove_error(clip.error_file)
            self._book.forget(clip)

    # ---- taking in -------------------------------------------------------------------------------------------------

    def take_settled(self) -> bool:
        """Take in clips that have stayed the same for long enough. Returns whether there were any."""
        began = time.monotonic()
        taken = False
        ready = [place for place, one in self._settling.items() if began - one.since >= self._pace.settle]
        if not ready:
            return False
        with self._book.state.transaction():
            for place in ready:
                if time.monotonic() - began > SLICE:
                    break
                folder, settling = self._book.folders[place[0]], self._settling[place]
                seen = look(folder.path, place[1])
                if seen is None:
                    del self._settling[place]
                elif seen != settling.seen:
                    settling.seen, settling.since = seen, time.monotonic()
                else:
                    taken |= self._take_in(folder, place, settling)
        return taken

    def _take_in(self, folder: WatchedFolder, place: Place, settling: _Settling) -> bool:
        path = place[1]
        clip = self._book.clips.get(place)
        now = time.monotonic()
        try:
            content = content_mark(folder.path / path)
        except OSError as error:
            # On Windows a file that is still copied cannot be opened; a forbidden one never can.
            if now - settling.first < self._pace.patience:
                settling.since = now
                return False
            content = f"{UNREADABLE}{error.strerror}"
        del self._settling[place]
        note = note_mark(folder.path, path)
        if clip is None:
            clip = Clip(folder=folder.id, path=path, seen=settling.seen, content=content)
        elif (clip.content, clip.note_content) == (content, note) and clip.state not in (FAILED, SKIPPED):
            clip.seen = settling.seen  # touched, or copied over itself
            self._book.save(clip)
            return True
        elif clip.state in UNDER_WAY:
            self._abandon(clip)
        clip.seen, clip.content, clip.note_content = settling.seen, content, note
        self._doubted.discard(place)
        self.renew(clip)
        return True

    def renew(self, clip: Clip) -> None:
        """Have a clip done (again), as a new piece of work."""
        clip.state, clip.key, clip.recipe, clip.work, clip.error = WAITING, "", "", {}, ""
        self._book.save(clip)


def _refuse_name(folder: WatchedFolder, file: Path) -> None:
    error = BadRequest("The name of this file is no valid Unicode: rename it.")
    target = folder.destination(str(file.relative_to(folder.path)))
    if not delivery.error_file(target, file).exists():
        delivery.write_error(target, file, error, None)


def _remove_old(staging: list[Path]) -> None:
    for path in staging:
        try:
            if time.time() - path.lstat().st_mtime > OLD_STAGING:
                path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue
