"""The page of `vatt preview`: what is in it, and in a real browser (marker: browser) that it plays, switches and seeks."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vatt_core.errors import LimitsExceeded
from vatt_core.media.page import PageTake, write_page
from vatt_core.media.preview import write_preview
from vatt_core.media.spool import Held
from vatt_core.media.time_map import TimeMap
from vatt_core.media.waves import write_wave
from vatt_core.world.scene import describe
from vatt_core.world.write import write_clip

SECONDS = 4


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pa ge ü#")
    clip = folder / "clip.mp4"
    write_clip(describe(2_000_600, kind="ball", layout="single", seconds=SECONDS), clip, fps=Fraction(25), size=96)
    takes = []
    for number, pitch in enumerate((300, 600)):
        wave = (0.2 * np.sin(2 * np.pi * pitch * np.arange(SECONDS * 48_000) / 48_000)).astype(np.float32)
        sound = write_wave(folder / f"clip-take-{number}.wav", wave, sample_rate=48_000)
        frames = np.full((2, 36, 64, 3), 90, np.uint8)
        picture = write_preview(folder / f"p{number}.png", frames, [0, 2], Held(wave, 48_000))
        facts = {"seed": number, "loudness (LUFS)": -23.04, "prompt": None}
        takes.append(
            PageTake(f"take-{number}", f"a <b>ball</b> & {pitch} Hz", sound, picture if number else None, facts)
        )
    made = write_page(
        folder / "takes.html", clip, TimeMap.identity(0, SECONDS), takes, rate=Fraction(25), title="clip </title> & Co"
    )
    for path in folder.iterdir():
        if path != made:
            path.unlink()  # the page needs nothing beside it
    return made


def test_the_page_holds_the_whole_clip_and_each_take(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert "http:" not in text and "https:" not in text
    assert [take["name"] for take in data["takes"]] == ["take-0", "take-1"]
    assert data["takes"][0]["facts"] == {"seed": "0", "loudness (LUFS)": "-23"}
    for number, media in enumerate((data["video"], data["takes"][0]["sound"], data["takes"][1]["sound"])):
        file = tmp_path / f"{number}.webm"
        file.write_bytes(base64.b64decode(media.partition(",")[2]))
        with av.open(str(file)) as container:
            if number == 0:
                assert sum(1 for _ in container.decode(video=0)) == SECONDS * 25
            else:
                seconds = sum(frame.samples for frame in container.decode(audio=0)) / 48_000
                assert abs(seconds - SECONDS) < 0.05


def test_a_page_too_large_for_a_browser_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LimitsExceeded):
        write_page(tmp_path / "x.html", "clip.mp4", TimeMap.identity(0, 3600), [], rate=Fraction(25), title="x")
    assert not list(tmp_path.iterdir())


@pytest.mark.browser
def test_it_plays_and_switches_in_a_browser_from_the_file_system(page: Path) -> None:
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser_path = os.environ.get("VATT_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    assert browser_path, "no Chromium is installed; VATT_CHROMIUM may name one"
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--autoplay-policy=user-gesture-required"]
        )
        tab = browser.new_page()
        tab.on(
            "console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None
        )
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("requestfailed", lambda request: problems.append(request.url[:80]))
        tab.goto(page.as_uri())
        tab.wait_for_function("video.readyState >= 2 && sounds.every(sound => sound.readyState >= 2)")
        assert tab.title() == "clip </title> & Co"

        def heard() -> list[int]:
            return list(tab.evaluate("sounds.map((s, n) => s.muted ? -1 : n).filter(n => n >= 0)"))

        assert heard() == [0] and "300 Hz" in tab.inner_text("#caption") and tab.locator("#picture").is_hidden()
        tab.click("#play")
        tab.wait_for_function("video.currentTime > 0.5")
        assert tab.evaluate("sounds.every(sound => !sound.paused)")
        # As soon as they have settled, every take is in step with the picture, also the muted ones.
        tab.wait_for_function("sounds.every(s => Math.abs(s.currentTime - video.currentTime) < 0.08)")
        tab.click("#takes button >> nth=1")
        assert heard() == [1] and "600 Hz" in tab.inner_text("#caption") and tab.locator("#picture").is_visible()
        assert "-23" in tab.inner_text("#facts") and not tab.evaluate("video.paused")
        tab.click("#play")
        tab.wait_for_function("video.paused && sounds.every(sound => sound.paused)")
        tab.evaluate("go(1.5)")
        tab.wait_for_function(
            "!video.seeking && Math.abs(video.currentTime - 1.5) < 0.05"
            " && sounds.every(s => Math.abs(s.currentTime - video.currentTime) < 0.02)"
        )
        tab.keyboard.press("1")
        assert heard() == [0]
        browser.close()
    assert problems == []
