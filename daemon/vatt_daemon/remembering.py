"""A pipeline that keeps on disk what it has worked out about a clip: captions, and the states that sound is made from.

Loaded in worker processes only; imports torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vatt_core.cache import Cache, ClipIdentity, cache_key
from vatt_core.media.guarded import receive, send
from vatt_core.media.probe import ClipInfo
from vatt_core.media.time_map import TimeMap
from vatt_core.media.watching import Watched
from vatt_core.model.decoding import Condition
from vatt_core.requests import Suggestion
from vatt_core.work import Work
from vatt_daemon.gate import current


class Remembering:
    """Stands before a pipeline class. Entries depend on the features of the clip bit by bit, and on the model's files."""

    _cache: Cache | None = None
    _model_hash = ""

    def remember(self, cache: Cache) -> None:
        """Keep results in this cache from now on."""
        self._cache = cache
        self._model_hash = str(self.model_hash)  # type: ignore[attr-defined]

    def caption(
        self, features: Tensor, *, count: int, seed: int, temperature: float | None = None, **more: Any
    ) -> list[Suggestion]:
        """As :meth:`Pipeline.caption`; the same question about the same picture is answered from the cache."""
        asked = {"count": count, "seed": seed, "temperature": temperature, **more}
        if self._cache is None:
            return list(super().caption(features, **asked))  # type: ignore[misc]
        key = self._key("captions", features=_digest(features), asked=asked)
        found = self._cache.get(key)
        if found is not None:
            return [Suggestion(**item) for item in json.loads(found)]
        made = list(super().caption(features, **asked))  # type: ignore[misc]
        self._cache.put(key, json.dumps([dataclasses.asdict(item) for item in made]).encode())
        return made

    def condition(self, features: Tensor, prompts: Sequence[str]) -> list[Condition]:
        """As :meth:`Pipeline.condition`, each different row once and by itself: what a row becomes does not depend on
        what it is asked beside, today or tomorrow."""
        known: dict[str, Condition] = {}
        keys: list[str] = []
        for row, prompt in enumerate(prompts):
            key = self._key("states", features=_digest(features[row]), prompt=prompt)
            keys.append(key)
            if key not in known:
                known[key] = self._stored(key) or self._made(key, features[row : row + 1], prompt)
        return [known[key] for key in keys]

    def _watch(self, info: ClipInfo, time_map: TimeMap, work: Work) -> Watched:
        """As the pipeline's own; a clip that was watched before is not even opened."""
        clip = _identity(info.path)
        key = cache_key(kind="watched", clip=clip.content, map=time_map.to_list(), rate=str(info.frame_rate))
        data = None if self._cache is None else self._cache.get(key)
        if data is not None:
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, AssertionError):
                found = (receive(io.BytesIO(data)) or {})["watched"]
                assert isinstance(found, Watched)
                return found
        made: Watched = super()._watch(info, time_map, work)  # type: ignore[misc]
        if self._cache is not None and clip.unchanged():
            told = io.BytesIO()
            send(told, {"watched": made})
            self._cache.put(key, told.getvalue())
        return made

    def _part_features(self, path: Path, part: TimeMap, step: Callable[[], None], work: Work) -> Tensor:
        """As the pipeline's own; a part of a clip that was looked at before is not even opened."""
        clip = _identity(path)
        key = self._key("features", clip=clip.content, part=part.to_list())
        found = self._tensors(key)
        if found is not None and "features" in found:
            features = found["features"].to(self.device)  # type: ignore[attr-defined]
            for _ in range(0, len(features), self.timing.frames):  # type: ignore[attr-defined]
                step()
            return features
        made: Tensor = super()._part_features(path, part, step, work)  # type: ignore[misc]
        if self._cache is not None and clip.unchanged():
            self._cache.put(key, save({"features": made.contiguous().cpu()}))
        return made

    def _made(self, key: str, features: Tensor, prompt: str) -> Condition:
        made: Condition = super().condition(features, [prompt])[0]  # type: ignore[misc]
        if self._cache is not None:
            states, mask = made.states.contiguous().cpu(), made.pad_mask.contiguous().cpu()
            self._cache.put(key, save({"states": states, "pad_mask": mask}))
        return made

    def _stored(self, key: str) -> Condition | None:
        found = self._tensors(key)
        if found is None or not {"states", "pad_mask"} <= found.keys():
            return None
        device = self.device  # type: ignore[attr-defined]
        return Condition(found["states"].to(device), found["pad_mask"].to(device))

    def _key(self, kind: str, **parts: Any) -> str:
        # Other devices and versions round differently: what they made is not mixed with ours.
        held = self.model.held  # type: ignore[attr-defined]
        return cache_key(kind=kind, model=self._model_hash, device=held, torch=torch.__version__, **parts)

    def _tensors(self, key: str) -> dict[str, Tensor] | None:
        data = None if self._cache is None else self._cache.get(key)
        if data is None:
            return None
        try:
            # Copied to where torch lays its own: matrix products of tensors that begin elsewhere are rounded otherwise.
            return {name: tensor.clone() for name, tensor in load(data).items()}
        except SafetensorError:
            return None


def _identity(path: Path) -> ClipIdentity:
    """What the file holds, read while others may compute."""
    turn = current()
    with contextlib.nullcontext() if turn is None else turn.away():
        return ClipIdentity(path)


def _digest(tensor: Tensor) -> str:
    array = np.ascontiguousarray(tensor.detach().float().cpu().numpy())
    return hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()
