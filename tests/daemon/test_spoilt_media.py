"""Damaged clips through the whole daemon: an answer in words for each, nothing grows, and the next job is right."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import psutil
import pytest
from vatt_client import Client

from tests.core.spoilt_clips import remuxed, spoilt
from vatt_core.world.write import write_world

MIB = 1 << 20


def memory(client: Client) -> int:
    """Resident bytes of the front and the worker."""
    status = client.status()
    return sum(psutil.Process(pid).memory_info().rss for pid in (status.pid, status.worker["pid"]))


@pytest.mark.parametrize("count", [16, pytest.param(500, marks=pytest.mark.soak)])
def test_spoilt_clips_are_told_in_words_and_leave_the_daemon_well(home: Any, count: int) -> None:
    clip = home.root / "good.mp4"
    write_world(clip, seed=2_000_021, seconds=1.0, size=64)
    sources = [(suffix, remuxed(clip, suffix)) for suffix in (".mkv", ".mov", ".ts", ".mp4")]
    chance, home.clip = random.Random(3), clip
    home.start()
    with home.client() as client:
        right = client.run(home.generate("read"), timeout=200).takes().caption
        worker, size = client.status().worker["pid"], memory(client)
        codes: dict[str, int] = {}
        for number in range(count):
            suffix, data = sources[number % len(sources)]
            home.clip = Path(home.root / f"spoilt-{number}{suffix}")
            home.clip.write_bytes(spoilt(data, chance))
            ended = client.run(home.generate("read"), timeout=200)
            code = "done" if ended.state == "done" else ended.error["code"]
            codes[code] = codes.get(code, 0) + 1
            home.clip.unlink()
        grown = memory(client) - size
        print(f"\n{count} spoilt clips: {codes}, {grown / MIB:.1f} MiB more")
        assert set(codes) <= {"done", "bad_media", "limits_exceeded", "bad_request"}
        home.clip = clip
        assert client.run(home.generate("read"), timeout=200).takes().caption == right
        assert client.status().worker["pid"] == worker
        assert grown < 50 * MIB
