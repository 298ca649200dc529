"""From a clip on disk to what composing needs of it: shots with the features of their pictures, read in pieces."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vatt_core.composing import Shot
from vatt_core.errors import BadRequest
from vatt_core.media.frames import read_frames
from vatt_core.media.probe import ClipInfo, clip_range, probe
from vatt_core.media.time_map import TimeMap
from vatt_core.media.watching import Watched, watch
from vatt_core.model.folder import LoadedModel
from vatt_core.requests import ClipRequest, Suggestion
from vatt_core.steps import Steps
from vatt_core.windows import shot_borders
from vatt_core.work import Work

REMEMBERED_CLIPS = 8
REMEMBERED_BYTES = 512 << 20


@dataclasses.dataclass(frozen=True)
class SeenClip:
    """A clip that has been read. lag: seconds from its begin back to code frame 0. cuts: seconds in the range."""

    info: ClipInfo
    time_map: TimeMap
    watched: Watched
    cuts: tuple[Fraction, ...]
    shots: list[Shot]
    lag: Fraction

    @property
    def duration(self) -> Fraction:
        return self.time_map.duration


class Seeing(Steps):
    """Watches clips and looks at their pictures. Those of the last few clips are remembered while their files stay the same."""

    def __init__(self, model: LoadedModel, name: str) -> None:
        super().__init__(model, name)
        self._features: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()
        self._watched: OrderedDict[tuple[Any, ...], Watched] = OrderedDict()

    def _range(self, request: ClipRequest, work: Work) -> tuple[ClipInfo, TimeMap]:
        """The clip's facts and the range that is meant."""
        info = probe(request.path)
        time_map = clip_range(info, request.start, request.end) if request.time_map is None else request.time_map
        if time_map.source_range[0] >= info.duration:
            raise BadRequest(
                f"The time map begins at {float(time_map.source_range[0]):g} s of the source, but {info.path.name} "
                f"lasts {float(info.duration):.3f} s.",
                field="time_map",
            )
        return info, time_map

    def _see(
        self,
        request: ClipRequest,
        work: Work,
        *,
        cuts: Sequence[Fraction] | None = None,
        lag: Fraction = Fraction(0),
    ) -> SeenClip:
        """Watch the clip and compute the features of its shots. Those of the last few clips are remembered while their
        files stay the same. cuts: where shots change, None: as seen."""
        with work.stage("read", 1):
            info, time_map = self._range(request, work)
            status = info.path.stat()
            file = (info.path, status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
            key = (*file, time_map.points)
            if key not in self._watched:
                self._watched[key] = self._watch(info, time_map, work)
            self._watched.move_to_end(key)
            watched = self._watched[key]
            while len(self._watched) > REMEMBERED_CLIPS:
                self._watched.popitem(last=False)
        duration, rate = time_map.duration, self.timing.code_rate
        if cuts and cuts[-1] >= duration:
            raise BadRequest(
                f"There is a cut at {float(cuts[-1]):g} s, but the clip lasts {float(duration):.3f} s.", field="cuts"
            )
        chosen = tuple(watched.cuts if cuts is None else cuts)
        borders = shot_borders([cut + lag for cut in chosen], self.timing.code_frames_in(duration + lag), self.timing)
        parts = [
            time_map.slice(max(Fraction(0), first / rate - lag), min(duration, last / rate - lag))
            for first, last in borders
        ]
        # Held here as well: other jobs may use this pipeline, and its memory, while this one reads.
        own = {part.points: self._features.get((*file, part.points)) for part in parts}
        missing = [part for part in parts if own[part.points] is None]
        chunks = sum(-(-self.timing.frames_in(part.duration) // self.timing.frames) for part in missing)
        if missing:
            with work.stage("look", chunks) as step:
                for part in missing:
                    own[part.points] = self._part_features(info.path, part, step, work)
        shots = []
        for (first, last), part in zip(borders, parts, strict=True):
            features = own[part.points]
            assert features is not None
            self._features[(*file, part.points)] = features
            self._features.move_to_end((*file, part.points))
            shots.append(Shot(first, last, features))
        while len(self._features) > len(shots) and _bytes(self._features.values()) > REMEMBERED_BYTES:
            self._features.popitem(last=False)
        return SeenClip(info, time_map, watched, chosen, shots, lag)

    def _watch(self, info: ClipInfo, time_map: TimeMap, work: Work) -> Watched:
        """What the picture tells without weights."""
        return watch(info.path, time_map, rate=info.frame_rate, cancelled=work.cancelled)

    def _part_features(self, path: Path, part: TimeMap, step: Callable[[], None], work: Work) -> Tensor:
        """Features [frames, D] of a part of the clip, which is never in memory as a whole."""
        found = []
        begin = Fraction(0)
        while begin < part.duration:
            end = min(part.duration, begin + self.timing.window)
            frames = read_frames(
                path,
                part.slice(begin, end),
                rate=self.timing.frame_rate,
                shortest_side=self.config.vision.image_size,
                cancelled=work.cancelled,
            )
            found.append(self.look(frames)[0, : len(frames)])
            step()
            begin = end
        return torch.cat(found)

    def _captions(self, shot: Shot, count: int, seed: int, temperature: float | None) -> list[Suggestion]:
        """Captions of the middle of a shot."""
        frames = self.timing.frames
        first = max(0, (len(shot.features) - frames) // 2)
        middle = shot.features[first : first + frames]
        held = middle[-1:].expand(frames - len(middle), -1)
        return self.caption(torch.cat([middle, held])[None], count=count, seed=seed, temperature=temperature)


def _bytes(features: Iterable[Tensor]) -> int:
    return sum(one.nbytes for one in features)
