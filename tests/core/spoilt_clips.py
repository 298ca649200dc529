"""Clips with damage: truncated, bits flipped, pieces put elsewhere."""

from __future__ import annotations

import random
from pathlib import Path

import av


def spoilt(data: bytes, chance: random.Random) -> bytes:
    """The file with a part missing, bits flipped, or a piece put elsewhere."""
    kind, size = chance.choice(["truncate", "flip", "splice"]), len(data)
    if kind == "truncate":
        return data[: chance.randrange(1, size)]
    changed = bytearray(data)
    if kind == "flip":
        for _ in range(chance.choice([1, 10, 200])):
            changed[chance.randrange(size)] ^= 1 << chance.randrange(8)
        return bytes(changed)
    start, length, to = chance.randrange(size), chance.randrange(1, size // 2), chance.randrange(size)
    piece = changed[start : start + length]
    del changed[start : start + length]
    return bytes(changed[:to] + piece + changed[to:])


def remuxed(clip: Path, suffix: str) -> bytes:
    path = clip.with_name(f"copy{suffix}")
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    return path.read_bytes()
