"""Which parts lie on the device: all of them, or the one at work."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


class Residence:
    """Moves parts to the device when they are used. With `swapped`, whatever else lies there goes first."""

    def __init__(self, parts: Mapping[str, nn.Module], device: torch.device, *, swapped: bool) -> None:
        self._parts = dict(parts)
        self._device = device
        self.swapped = swapped
        self._there = set() if swapped else set(parts)
        self._using: list[str] = []
        self._lock = threading.RLock()

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Hold the part on the device. One part at a time when parts are swapped; the same thread may nest."""
        if not self.swapped:
            yield
            return
        with self._lock:
            for other in self._there - {name, *self._using}:
                self._parts[other].to("cpu")
                self._there.discard(other)
            if name not in self._there:
                self._parts[name].to(self._device)
                self._there.add(name)
            self._using.append(name)
            try:
                yield
            finally:
                self._using.remove(name)
