"""What runs: jobs, the thread to the daemon, proxies being rendered. One per Blender, driven by a timer."""

from __future__ import annotations

import contextlib
import json
import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy

from . import daemon_thread, jobs, placing, proxy, reading, runtime, targets
from .jobs import Job, State

ACTIVE, IDLE = 0.1, 0.5
"""Seconds between two turns."""
RENDER_BUDGET = 0.05
"""Seconds of a turn that rendering a proxy may begin another frame in."""
REMEMBERED = 20
"""Ended jobs that the panel can still tell of."""


class Session:
    """below: whether sounds go below their strip. autostart: the daemon is started when a request needs it."""

    def __init__(self, preferences: Callable[[], Any]) -> None:
        self._preferences = preferences
        self.thread = daemon_thread.DaemonThread()
        self.daemon = daemon_thread.DaemonState(False, "Looking for the daemon …")
        self.jobs: list[Job] = []
        self.problem = ""
        self._renders: list[tuple[Job, proxy.ProxyRender]] = []
        self._look_for_homes = False

    def start(self) -> None:
        self.thread.start()
        self.adopt()

    def stop(self) -> None:
        for _, render in self._renders:
            render.close()
        self._renders.clear()
        self.thread.stop()

    # ---- orders from operators -------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Send a job whose fields are complete."""
        self._remember(job)
        self._send(job)

    def submit_rendered(self, job: Job, render: proxy.ProxyRender) -> None:
        """Render first, then send the film."""
        job.state = State.RENDERING
        self._remember(job)
        self._renders.append((job, render))

    def cancel(self, job: Job) -> None:
        if job.state is State.RENDERING:
            self._end_render(job)
            job.turn(State.CANCELLED)
        elif job.state is State.HOMELESS:
            job.turn(State.CANCELLED, "The sound was made but not placed.")
        elif not job.ended:
            job.cancel_wanted = True
            self.thread.cancel(job.key)

    def start_daemon(self) -> None:
        self.daemon = daemon_thread.DaemonState(False, "Starting the daemon …")
        self.thread.start_daemon(self._preferences().command)

    def open_jobs(self, uid: str | None = None) -> list[Job]:
        """Jobs that have not ended; of one strip, or all."""
        return [job for job in self.jobs if not job.ended and (uid is None or job.target.uid == uid)]

    def last_job(self, uid: str) -> Job | None:
        return next((job for job in reversed(self.jobs) if job.target.uid == uid), None)

    # ---- the timer -------------------------------------------------------------------------------------------------

    def tick(self) -> float:
        """One turn on the main thread; returns the seconds until the next. Never waits, never raises."""
        changed = False
        try:
            changed = self._hear() | self._render() | self._place()
        except Exception as error:  # a timer that raises is removed by Blender, and every job would hang
            self.problem = f"{type(error).__name__}: {error}"
            changed = True
        if changed:
            redraw()
        return ACTIVE if self.open_jobs() or changed else IDLE

    def _hear(self) -> bool:
        heard = False
        while True:
            try:
                event = self.thread.events.get_nowait()
            except queue.Empty:
                return heard
            heard = True
            if isinstance(event, daemon_thread.DaemonState):
                self.daemon = event
                continue
            job = next((job for job in self.jobs if job.key == event.key), None)
            if job is not None:
                with contextlib.suppress(jobs.WrongTurn):
                    self._apply(job, event)

    def _apply(self, job: Job, event: daemon_thread.Event) -> None:
        if isinstance(event, daemon_thread.Accepted):
            job.id = event.job
            job.turn(State.QUEUED)
            self._note_pending(job)
        elif isinstance(event, daemon_thread.Queued):
            job.turn(State.QUEUED)
        elif isinstance(event, daemon_thread.Progressed):
            job.progress(event.stage, event.done, event.total, event.eta)
        elif isinstance(event, daemon_thread.Ended):
            if event.state == "done":
                job.result = event.result
                job.turn(State.PLACING)
            else:
                job.turn(State.CANCELLED if event.state == "cancelled" else State.FAILED, event.message)
                self._forget_pending(job)

    def _render(self) -> bool:
        if not self._renders or bpy.app.is_job_running("RENDER"):
            return False
        job, render = self._renders[0]
        end = time.monotonic() + RENDER_BUDGET
        try:
            whole = render.step()
            while not whole and time.monotonic() < end:
                whole = render.step()
        except proxy.ProxyFailed as error:
            self._end_render(job)
            job.turn(State.FAILED, str(error))
            return True
        job.progress("render", render.done, render.total, None)
        if whole:
            job.fields["path"] = str(render.path)
            self._end_render(job)
            job.turn(State.SENDING)
            self._send(job)
        return True

    def _place(self) -> bool:
        waiting = [job for job in self.jobs if job.state is State.PLACING]
        if self._look_for_homes:
            waiting += [job for job in self.jobs if job.state is State.HOMELESS]
            self._look_for_homes = False
            for job in self.jobs:
                if job.ended:  # an undo may bring back the note that it is under way
                    self._forget_pending(job)
        for job in waiting:
            self._place_one(job)
        return bool(waiting)

    def _place_one(self, job: Job) -> None:
        found = reading.all_targets()
        index = targets.find(job.target, [candidate for _, _, candidate in found])
        if index is None:
            if job.state is State.PLACING:
                job.turn(State.HOMELESS, f"'{job.target.name}' is gone; its result is kept until it is back.")
            return
        scene, strip, _ = found[index]
        try:
            if job.kind == jobs.SUGGEST:
                settings = strip.vatt_settings
                settings.captions = json.dumps((job.result or {})["captions"])
                job.turn(State.DONE, "Captions are there")
            else:
                names = placing.place_takes(scene, strip, job, below=self._preferences().below)
                job.turn(State.DONE, f"Placed {', '.join(names)}")
        except placing.CannotPlace as error:
            job.turn(State.FAILED, str(error))
        except Exception as error:  # else it would be tried at every turn, for ever
            job.turn(State.FAILED, f"The result could not be used ({type(error).__name__}: {error}).")
        self._forget_pending(job)
        bpy.ops.ed.undo_push(message="VATT: captions" if job.kind == jobs.SUGGEST else "VATT: place soundtrack")

    # ---- files -----------------------------------------------------------------------------------------------------

    def file_loaded(self) -> None:
        """Another file is open: half rendered proxies are of no use; what it still waits for is asked after."""
        runtime.count_load()
        for job, _ in list(self._renders):
            self._end_render(job)
            job.turn(State.FAILED, "The file was closed while its proxy was rendered: start again.")
        self.history_changed()
        self.adopt()

    def history_changed(self) -> None:
        """After an undo, a redo or a file: strips may be back, and so may copied scenes."""
        self._look_for_homes = True
        proxy.sweep({proxy.scene_name(render) for _, render in self._renders})

    def adopt(self) -> None:
        """Follow again what the open file still waits for, also where it was placed but never saved."""
        for scene, strip, _ in reading.all_targets():
            placed = {take.record.job for _, take in reading.placed_takes(scene, str(strip.get(reading.UID, "")))}
            for entry in pending(strip):
                if entry["key"] in {job.key for job in self.open_jobs()} or entry["id"] in placed:
                    continue
                self.jobs = [job for job in self.jobs if job.key != entry["key"]]
                job = Job(
                    kind=entry["kind"], target=reading.target_of(strip, scene), offset=entry["offset"],
                    length=entry["length"], fields=entry["fields"], key=entry["key"], id=entry["id"], state=State.QUEUED,
                )  # fmt: skip
                self._remember(job)
                self.thread.follow(job.key, job.id)

    def _note_pending(self, job: Job) -> None:
        entry = {
            "key": job.key, "id": job.id, "kind": job.kind, "offset": job.offset, "length": job.length,
            "fields": job.fields,
        }  # fmt: skip
        self._change_pending(job, lambda entries: [*entries, entry])

    def _forget_pending(self, job: Job) -> None:
        self._change_pending(job, lambda entries: [entry for entry in entries if entry["key"] != job.key])

    def _change_pending(self, job: Job, change: Callable[[list[Any]], list[Any]]) -> None:
        found = reading.all_targets()
        index = targets.find(job.target, [candidate for _, _, candidate in found])
        if index is not None:
            strip = found[index][1]
            entries = change(pending(strip))
            if entries:
                strip[reading.PENDING] = json.dumps(entries)
            elif reading.PENDING in strip:
                del strip[reading.PENDING]

    # ---- inner -----------------------------------------------------------------------------------------------------

    def _send(self, job: Job) -> None:
        if not self.daemon.running and self._preferences().autostart:
            self.start_daemon()
        self.thread.submit(job.key, job.kind, dict(job.fields))

    def _remember(self, job: Job) -> None:
        self.problem = ""
        self.jobs.append(job)
        ended = [old for old in self.jobs if old.ended]
        for old in ended[: max(0, len(ended) - REMEMBERED)]:
            self.jobs.remove(old)

    def _end_render(self, job: Job) -> None:
        for other, render in list(self._renders):
            if other is job:
                render.close()
                self._renders.remove((other, render))


def pending(strip: Any) -> list[dict[str, Any]]:
    """What the daemon still works on for a strip, as its file remembers it."""
    try:
        entries = json.loads(strip.get(reading.PENDING, "[]"))
        return [entry for entry in entries if {"key", "id", "kind", "offset", "length", "fields"} <= entry.keys()]
    except (ValueError, TypeError, AttributeError):
        return []


def redraw() -> None:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "SEQUENCE_EDITOR":
                area.tag_redraw()


def output_folder(preference: str) -> Path:
    """Where sounds and proxies go: the preference, beside the saved file, else the extension's own folder."""
    if preference:
        return Path(bpy.path.abspath(preference))
    if bpy.data.filepath:
        return Path(bpy.data.filepath).parent / "vatt"
    return Path(bpy.utils.user_resource("DATAFILES", path="vatt", create=True))
