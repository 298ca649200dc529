"""A contract double of Resolve's scripting interface, built from what its documentation says and others have measured.

It knows documented names alone, takes positional arguments alone, answers None for an unknown attribute while claiming to
have it, raises for what is documented and not modelled, and has the traps: `recordFrame` is absolute, `endFrame` is
exclusive from 21 on and inclusive before, a fractional frame makes the whole batch fail, what overlaps or lies on a locked
track is dropped without a word, imports go to the current bin, frames of markers come back as floats, the render mode of
single clips makes a file of each, and 'Export Video', once off, stays off until a preset is loaded. It proves nothing about
the real Resolve.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ids = itertools.count(1)


@dataclass(frozen=True)
class Profile:
    """One version of the product. menu, external: where Python is offered."""

    name: str
    version: tuple[int, int]
    menu: bool
    external: bool
    selected_clips: bool
    exclusive_end: bool


FREE_21_0 = Profile("Free 21.0", (21, 0), menu=True, external=False, selected_clips=True, exclusive_end=True)
FREE_21_1 = Profile("Free 21.1", (21, 1), menu=False, external=False, selected_clips=True, exclusive_end=True)
STUDIO_20 = Profile("Studio 20", (20, 3), menu=True, external=True, selected_clips=False, exclusive_end=False)
STUDIO_21_1 = Profile("Studio 21.1", (21, 1), menu=True, external=True, selected_clips=True, exclusive_end=True)
WITH_PYTHON = (FREE_21_0, STUDIO_20, STUDIO_21_1)


class Bridge:
    """An object as the bridge shows it. Attributes of the double itself begin with an underscore."""

    _unmodelled: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self._unmodelled:
            raise NotImplementedError(f"{type(self).__name__}.{name} is documented and not modelled")
        return None

    def __dir__(self) -> list[str]:
        return [*(name for name in vars(type(self)) if not name.startswith("_")), *self._unmodelled]


class MediaPoolItem(Bridge):
    _unmodelled = ("GetMetadata", "LinkProxyMedia", "GetMarkers")

    def __init__(self, path: str, **properties: Any) -> None:
        self._properties = {"File Path": path, "FPS": 24.0, "Type": "Video", **properties}

    def GetName(self, /) -> str:
        return Path(self._properties["File Path"]).name

    def GetClipProperty(self, name: str, /) -> Any:
        return self._properties.get(name, "")


class Folder(Bridge):
    _unmodelled = ("Export", "TranscribeAudio")

    def __init__(self, name: str) -> None:
        self._name, self._clips, self._folders = name, [], []  # type: ignore[var-annotated]

    def GetName(self, /) -> str:
        return str(self._name)

    def GetClipList(self, /) -> list[MediaPoolItem]:
        return list(self._clips)

    def GetSubFolderList(self, /) -> list[Folder]:
        return list(self._folders)


class TimelineItem(Bridge):
    _unmodelled = ("SetProperty", "GetProperty", "AddFusionComp", "GetTakesCount")

    def __init__(self, media: MediaPoolItem | None, start: int, end: int, *, kind: str = "video", **more: Any) -> None:
        self._media, self._start, self._end, self._kind = media, start, end, kind
        self._more = {"left": 0, "source": None, "fusion": 0, "name": None, "track": 1, **more}
        self._id = f"item-{next(_ids)}"

    def GetName(self, /) -> str:
        return str(self._more["name"] or (self._media.GetName() if self._media else "Title"))

    def GetStart(self, subframe_precision: bool = False, /) -> int:
        return self._start

    def GetEnd(self, subframe_precision: bool = False, /) -> int:
        return self._end

    def GetDuration(self, subframe_precision: bool = False, /) -> int:
        return self._end - self._start

    def GetLeftOffset(self, subframe_precision: bool = False, /) -> int:
        return int(self._more["left"])

    def GetSourceStartFrame(self, /) -> int:
        # Off by one, as measured; GetLeftOffset is exact.
        return int(self._more["left"]) + 1

    def GetSourceEndFrame(self, /) -> int:
        frames = self._more["source"] if self._more["source"] is not None else self._end - self._start
        return int(self._more["left"]) + 1 + int(frames)

    def GetMediaPoolItem(self, /) -> MediaPoolItem | None:
        return self._media

    def GetFusionCompCount(self, /) -> int:
        return int(self._more["fusion"])

    def GetTrackTypeAndIndex(self, /) -> list[Any]:
        return [self._kind, self._more["track"]]

    def GetUniqueId(self, /) -> str:
        return str(self._id)


class Timeline(Bridge):
    _unmodelled = ("Export", "CreateCompoundClip", "GrabStill", "InsertTitleIntoTimeline", "DetectSceneCuts")

    def __init__(self, profile: Profile, *, rate: str, first: int, name: str = "Timeline 1") -> None:
        self._profile, self._rate, self._first, self._name = profile, rate, first, name
        self._tracks: dict[str, list[dict[str, Any]]] = {"video": [_track("Video 1")], "audio": [_track("Audio 1")]}
        self._selected: list[TimelineItem] = []
        self._current: TimelineItem | None = None
        self._marks: dict[str, Any] = {}
        self._markers: dict[int, dict[str, Any]] = {}
        self._drop_everything = False

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name != "GetSelectedClips" or self._profile.selected_clips]

    def _add(self, item: TimelineItem) -> TimelineItem:
        self._tracks[item._kind][0]["items"].append(item)
        return item

    def GetName(self, /) -> str:
        return str(self._name)

    def GetStartFrame(self, /) -> int:
        return int(self._first)

    def GetSetting(self, name: str, /) -> str:
        known = {"timelineFrameRate": str(self._rate), "timelineResolutionWidth": "3840",
                 "timelineResolutionHeight": "2160"}  # fmt: skip
        return known.get(name, "")

    def GetSelectedClips(self, /) -> list[TimelineItem]:
        return list(self._selected)

    def GetCurrentVideoItem(self, /) -> TimelineItem | None:
        return self._current

    def GetMarkInOut(self, /) -> dict[str, Any]:
        return dict(self._marks)

    def SetMarkInOut(self, begin: int, end: int, kind: str = "all", /) -> bool:
        self._marks = {"video": {"in": begin, "out": end}}
        return True

    def ClearMarkInOut(self, kind: str = "all", /) -> bool:
        self._marks = {}
        return True

    def GetTrackCount(self, kind: str, /) -> int:
        return len(self._tracks[kind])

    def GetTrackName(self, kind: str, index: int, /) -> str:
        return str(self._tracks[kind][index - 1]["name"])

    def SetTrackName(self, kind: str, index: int, name: str, /) -> bool:
        self._tracks[kind][index - 1]["name"] = name
        return True

    def GetIsTrackLocked(self, kind: str, index: int, /) -> bool:
        return bool(self._tracks[kind][index - 1]["locked"])

    def GetItemListInTrack(self, kind: str, index: int, /) -> list[TimelineItem]:
        return list(self._tracks[kind][index - 1]["items"])

    def AddTrack(self, kind: str, layout: str = "mono", /) -> bool:
        name = f"{kind.title()} {len(self._tracks[kind]) + 1}"
        self._tracks[kind].append(_track(name) | {"layout": layout})
        return True

    def DeleteClips(self, items: list[TimelineItem], ripple: bool = False, /) -> bool:
        for track in (*self._tracks["video"], *self._tracks["audio"]):
            track["items"] = [item for item in track["items"] if item not in items]
        return True

    def AddMarker(self, frame: int, colour: str, name: str, note: str, duration: int, data: str = "", /) -> bool:
        if frame in self._markers or not isinstance(frame, int) or frame < 0:
            return False
        about = {"color": colour, "name": name, "note": note, "duration": float(duration), "customData": data}
        self._markers[frame] = about
        return True

    def GetMarkers(self, /) -> dict[float, dict[str, Any]]:
        return {float(frame): dict(about) for frame, about in self._markers.items()}


def _track(name: str) -> dict[str, Any]:
    return {"name": name, "locked": False, "items": [], "layout": "stereo"}


class MediaPool(Bridge):
    _unmodelled = ("ImportTimelineFromFile", "AutoSyncAudio", "DeleteClips", "ExportMetadata")

    def __init__(self, project: Project, importable: Callable[[str], bool]) -> None:
        self._project, self._importable = project, importable
        self._root = self._current = Folder("Master")

    def GetRootFolder(self, /) -> Folder:
        return self._root

    def GetCurrentFolder(self, /) -> Folder:
        return self._current

    def SetCurrentFolder(self, folder: Folder, /) -> bool:
        self._current = folder
        return True

    def AddSubFolder(self, parent: Folder, name: str, /) -> Folder | None:
        if any(one._name == name for one in parent._folders):
            return None
        parent._folders.append(Folder(name))
        return parent._folders[-1]

    def ImportMedia(self, paths: list[str], /) -> list[MediaPoolItem]:
        known = {clip._properties["File Path"] for clip in self._current._clips}
        sounds = (".wav",)
        made = [
            MediaPoolItem(path, Type="Audio" if path.endswith(sounds) else "Video", FPS=float(self._project._rate.split()[0]))
            for path in paths if path not in known and self._importable(path)
        ]  # fmt: skip
        self._current._clips += made
        return made

    def CreateTimelineFromClips(self, name: str, clips: list[MediaPoolItem], /) -> Timeline:
        timeline = Timeline(self._project._profile, rate=self._project._rate, first=self._project._first, name=name)
        at = timeline._first
        for clip in clips:
            timeline._current = timeline._add(TimelineItem(clip, at, at + self._project._frames))
            at += self._project._frames
        self._project._timeline = timeline
        return timeline

    def AppendToTimeline(self, orders: list[dict[str, Any]], /) -> list[Any] | None:
        timeline = self._project._timeline
        assert timeline is not None
        if any(
            not isinstance(order[name], int) for order in orders for name in ("startFrame", "endFrame", "recordFrame")
        ):
            return None
        answer: list[Any] = []
        for order in orders:
            frames = order["endFrame"] - order["startFrame"] + (0 if timeline._profile.exclusive_end else 1)
            begin, end = order["recordFrame"], order["recordFrame"] + frames
            kind = {1: "video", 2: "audio"}[order["mediaType"]]
            track = timeline._tracks[kind][order["trackIndex"] - 1]
            overlaps = any(item._start < end and begin < item._end for item in track["items"])
            if track["locked"] or overlaps or timeline._drop_everything:
                answer.append(None)
                continue
            item = TimelineItem(order["mediaPoolItem"], begin, end, kind=kind, track=order["trackIndex"])
            track["items"].append(item)
            answer.append(item)
        return answer


class Project(Bridge):
    _unmodelled = ("ExportCurrentFrameAsStill", "LoadBurnInPreset", "GetGallery")

    def __init__(self, profile: Profile, *, name: str = "A film", rate: str = "24", first: int = 86_400) -> None:
        self._profile, self._name, self._rate, self._first = profile, name, rate, first
        self._frames = 48
        self._timeline: Timeline | None = None
        self._pool = MediaPool(self, lambda path: Path(path).is_file())
        self._format = {"format": "mov", "codec": "ProRes422"}
        self._mode = 0
        # As after a rendering of sound alone.
        self._settings: dict[str, Any] = {"ExportVideo": False, "TargetDir": "/films", "CustomName": "final"}
        self._presets: dict[str, tuple[dict[str, str], int, dict[str, Any]]] = {
            "H.264 Master": ({"format": "mov", "codec": "H264"}, 1, {"ExportVideo": True})
        }
        self._keeps_presets = True
        self._render_jobs: dict[str, dict[str, Any]] = {}
        self._rendering_fails = ""
        self._rendering_hangs = False
        self._rendered: list[dict[str, Any]] = []
        self._write: Callable[[Path, dict[str, Any]], None] = lambda path, settings: path.write_bytes(b"film") and None
        self._resolve: Resolve | None = None

    def GetName(self, /) -> str:
        return str(self._name)

    def GetSetting(self, name: str, /) -> str:
        return str(self._rate) if name == "timelineFrameRate" else ""

    def GetCurrentTimeline(self, /) -> Timeline | None:
        return self._timeline

    def GetMediaPool(self, /) -> MediaPool:
        return self._pool

    def GetCurrentRenderFormatAndCodec(self, /) -> dict[str, str]:
        return dict(self._format)

    def SetCurrentRenderFormatAndCodec(self, form: str, codec: str, /) -> bool:
        self._format = {"format": form, "codec": codec}
        return True

    def _deliver_page(self) -> Any:
        """Everything that is set there, and the presets."""
        return dict(self._format), self._mode, dict(self._settings), sorted(self._presets)

    def GetCurrentRenderMode(self, /) -> int:
        return self._mode

    def SetCurrentRenderMode(self, mode: int, /) -> bool:
        self._mode = mode
        return True

    def SaveAsNewRenderPreset(self, name: str, /) -> bool:
        if name in self._presets or not self._keeps_presets:
            return False
        self._presets[name] = (dict(self._format), self._mode, dict(self._settings))
        return True

    def LoadRenderPreset(self, name: str, /) -> bool:
        if name not in self._presets:
            return False
        form, self._mode, settings = self._presets[name]
        self._format, self._settings = dict(form), dict(settings)
        return True

    def DeleteRenderPreset(self, name: str, /) -> bool:
        return self._presets.pop(name, None) is not None

    def SetRenderSettings(self, settings: dict[str, Any], /) -> bool:
        shown = self._settings.get("ExportVideo", True) and settings.get("ExportVideo", True)
        self._settings = {**self._settings, **settings, "ExportVideo": shown}
        return True

    def AddRenderJob(self, /) -> str:
        identity = f"render-{next(_ids)}"
        self._render_jobs[identity] = {**self._settings, "mode": self._mode}
        return identity

    def StartRendering(self, jobs: list[str], interactive: bool = False, /) -> bool:
        assert self._resolve is not None and self._timeline is not None
        self._resolve._page = "deliver"
        for job in jobs:
            settings = self._render_jobs[job]
            self._timeline._marks = {"video": {"in": settings["MarkIn"], "out": settings["MarkOut"]}}
            self._rendered.append(settings)
            if not self._rendering_fails:
                name = settings["CustomName"] if settings["mode"] == 1 else "A001_C002"
                suffix = self._format["format"] if settings["ExportVideo"] else "wav"
                self._write(Path(settings["TargetDir"]) / f"{name}.{suffix}", settings)
        return True

    def GetRenderJobStatus(self, job: str, /) -> dict[str, Any]:
        if self._rendering_hangs:
            return {"JobStatus": "Rendering", "CompletionPercentage": 3}
        if self._rendering_fails:
            return {"JobStatus": "Failed", "Error": self._rendering_fails}
        return {"JobStatus": "Complete", "CompletionPercentage": 100}

    def StopRendering(self, /) -> None:
        self._rendering_hangs = False

    def DeleteRenderJob(self, job: str, /) -> bool:
        if self._rendering_hangs:
            return False
        return self._render_jobs.pop(job, None) is not None


class ProjectManager(Bridge):
    _unmodelled = ("ArchiveProject", "RestoreProject", "GetDatabaseList")

    def __init__(self, profile: Profile, project: Project | None) -> None:
        self._profile = profile
        self._projects = {} if project is None else {project._name: project}
        self._open = project
        self._resolve: Resolve | None = None

    def GetCurrentProject(self, /) -> Project | None:
        return self._open

    def SaveProject(self, /) -> bool:
        return True

    def CreateProject(self, name: str, /) -> Project | None:
        if name in self._projects:
            return None
        self._open = self._projects[name] = Project(self._profile, name=name)
        self._open._resolve = self._resolve
        return self._open

    def LoadProject(self, name: str, /) -> Project | None:
        self._open = self._projects.get(name)
        return self._open

    def CloseProject(self, project: Project, /) -> bool:
        self._open = None
        return True

    def DeleteProject(self, name: str, /) -> bool:
        return self._projects.pop(name, None) is not None


class Resolve(Bridge):
    _unmodelled = ("LoadLayoutPreset", "GetMediaStorage", "Quit")

    def __init__(self, profile: Profile, project: Project | None) -> None:
        self._profile, self._page = profile, "edit"
        self._manager = ProjectManager(profile, project)
        self._manager._resolve = self
        if project is not None:
            project._resolve = self

    def GetProductName(self, /) -> str:
        return "DaVinci Resolve Studio" if self._profile.external else "DaVinci Resolve"

    def GetVersion(self, /) -> list[Any]:
        return [*self._profile.version, 0, 1, ""]

    def GetVersionString(self, /) -> str:
        return ".".join(map(str, [*self._profile.version, 0, 1]))

    def GetProjectManager(self, /) -> ProjectManager:
        return self._manager

    def GetCurrentPage(self, /) -> str:
        return str(self._page)

    def OpenPage(self, page: str, /) -> bool:
        self._page = page
        return True


def scriptapp(resolve: Resolve) -> Any:
    """What the vendor's module answers to a program outside of Resolve."""
    return resolve if resolve._profile.external else None
