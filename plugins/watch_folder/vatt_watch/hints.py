"""Events of the file system, taken as hints that a look is worth while. Which files are there, only a scan says.

Events get lost (full queues, network shares, a root that is removed and made again), so nothing depends on them but
how soon a clip is noticed.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

from vatt_watch.scan import OWN_OUTPUT, STAGING

log = logging.getLogger(__name__)

_READING = ("opened", "closed_no_write")


class Hints:
    """Watches roots. `hinted` holds the ids of folders in which something happened; `wake` is set with it."""

    def __init__(self, wake: threading.Event) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._hinted: set[int] = set()
        self._observer: BaseObserver | None = None
        self._watches: dict[int, tuple[ObservedWatch, tuple[int, int]]] = {}
        self._refused: dict[int, tuple[int, int]] = {}

    def take(self) -> set[int]:
        """The folders in which something has happened since the last call."""
        with self._lock:
            hinted, self._hinted = self._hinted, set()
        return hinted

    def arm(self, folder: int, root: Path, *, recursive: bool) -> None:
        """Watch a root; one that was removed and made again since is watched anew. Raises nothing: where it cannot be
        watched, its regular scans remain."""
        try:
            status = os.stat(root)
        except OSError:
            self.disarm(folder)
            return
        identity = (status.st_dev, status.st_ino)
        if folder in self._watches:
            if self._watches[folder][1] == identity:
                return
            self.disarm(folder)
        if self._refused.get(folder) == identity:
            return
        try:
            if self._observer is None:
                self._observer = Observer()
                self._observer.daemon = True
                self._observer.start()
            watch = self._observer.schedule(_Handler(folder, self), str(root), recursive=recursive)
        except (OSError, RuntimeError) as error:
            log.warning("%s cannot be watched for events (%s): it is looked through regularly instead", root, error)
            self._refused[folder] = identity
            return
        self._watches[folder] = (watch, identity)

    def disarm(self, folder: int) -> None:
        watch = self._watches.pop(folder, None)
        if watch is not None and self._observer is not None:
            try:
                self._observer.unschedule(watch[0])
            except (KeyError, OSError):
                log.debug("a watch was gone already", exc_info=True)

    def close(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(5.0)

    def _hint(self, folder: int) -> None:
        with self._lock:
            self._hinted.add(folder)
        self._wake.set()


class _Handler(FileSystemEventHandler):
    def __init__(self, folder: int, hints: Hints) -> None:
        self._folder = folder
        self._hints = hints

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in _READING:
            return
        # A file that gets its final name arrives as a move: its new name counts.
        path = os.fsdecode(event.dest_path or event.src_path)
        if STAGING in path or OWN_OUTPUT.search(path) or (event.is_directory and event.event_type == "modified"):
            return
        self._hints._hint(self._folder)
