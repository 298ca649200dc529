"""The cache on disk: bounded, never wrong, never in the way."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from vatt_core import files
from vatt_core.cache import Cache, ClipIdentity, cache_key


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_entries_come_back_until_the_folder_is_deleted_and_again_after(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", limit=1 << 20)
    keys = [cache_key(clip="a", number=number) for number in range(5)]
    for number, key in enumerate(keys):
        cache.put(key, b"x" * number)
    assert [cache.get(key) for key in keys] == [b"x" * number for number in range(5)]
    shutil.rmtree(tmp_path / "cache")
    assert cache.get(keys[1]) is None
    cache.put(keys[1], b"again")
    assert Cache(tmp_path / "cache", limit=1 << 20).get(keys[1]) == b"again"


def test_the_limit_holds_and_what_was_used_last_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=100_000)
    wanted = cache_key(n="wanted")
    cache.put(wanted, b"w" * 1000)
    os.utime(cache._path(wanted), (0, 0))
    for number in range(300):
        if number % 10 == 0:
            assert cache.get(wanted) is not None
        cache.put(cache_key(n=number), os.urandom(1000))
        assert size(tmp_path) <= 100_000
    assert cache.get(cache_key(n=299)) is not None and cache.get(cache_key(n=0)) is None
    cache.put(cache_key(n="large"), b"l" * 100_001)
    assert cache.get(cache_key(n="large")) is None and cache.get(wanted) is not None


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data[:20], lambda data: b"",
                                   lambda data: data[:40] + b"?" + data[41:]])  # fmt: skip
def test_a_damaged_entry_is_none(tmp_path: Path, spoil: object) -> None:
    cache = Cache(tmp_path, limit=1 << 20)
    cache.put(cache_key(n=1), b"value" * 10)
    path = cache._path(cache_key(n=1))
    path.write_bytes(spoil(path.read_bytes()))  # type: ignore[operator]
    assert cache.get(cache_key(n=1)) is None
    cache.put(cache_key(n=1), b"value")
    assert cache.get(cache_key(n=1)) == b"value"


def test_a_disk_that_refuses_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    cache = Cache(tmp_path / "file", limit=1 << 20)
    cache.put(cache_key(n=1), b"value")
    assert cache.get(cache_key(n=1)) is None


def test_several_writers_and_a_deleter_get_right_values_or_none(tmp_path: Path) -> None:
    wrong: list[bytes] = []

    def work(seed: int) -> None:
        cache = Cache(tmp_path / "cache", limit=20_000)
        for number in range(150):
            value = b"%d" % (number % 20) * 200
            cache.put(cache_key(n=number % 20), value)
            found = cache.get(cache_key(n=number % 20))
            if found not in (None, value):
                wrong.append(found)
            if seed == 0 and number % 30 == 0:
                shutil.rmtree(tmp_path / "cache", ignore_errors=True)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_file_that_changes_under_its_name_is_another_even_with_size_and_time_kept(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"first " * 100)
    before, times = ClipIdentity(clip), clip.stat()
    clip.write_bytes(b"second" * 100)
    os.utime(clip, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert clip.stat().st_mtime_ns == times.st_mtime_ns and clip.stat().st_size == times.st_size
    assert not before.unchanged()
    assert ClipIdentity(clip).content != before.content
    other = tmp_path / "other.mp4"
    other.write_bytes(b"second" * 100)
    os.replace(other, clip)
    assert ClipIdentity(clip).content == ClipIdentity(clip).content != before.content


def test_of_a_large_file_a_change_between_the_samples_counts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "WHOLE", 1 << 10)
    monkeypatch.setattr(files, "_SAMPLE", 8)
    clip = tmp_path / "large.mov"
    clip.write_bytes(bytes(4096))
    before = ClipIdentity(clip)
    data = bytearray(4096)
    data[300] = 1
    clip.write_bytes(data)
    assert files.fingerprint(clip) in before.content and ClipIdentity(clip).content != before.content
