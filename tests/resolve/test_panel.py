"""The panel's two faces, a Tk window and a page in the browser: what they order is done, by the real daemon."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from vatt_resolve import actions
from vatt_resolve.desk import Desk
from vatt_resolve.page import Page
from vatt_resolve.panel import Conversation, PanelSettings, Work

from tests.daemon.conftest import until
from tests.resolve.double import Timeline
from tests.resolve.timelines import film, installed, sounds_of

SOON = 120.0
"""Seconds after which what was ordered should have been done; it takes one or two."""


def desk_for(home: Any, folder: Path, incoming: str = "", **opening: Any) -> tuple[Desk, io.StringIO]:
    """A desk about one clip, and what it says to the script. incoming: what the script answers."""
    clip = {"clip": 0, "name": "clip.mp4", "path": str(home.write("clip.mp4", "a clip")), "start": "0", "end": "2",
            "frames": 48, "rendered": None, "made": {"caption": "a bell"}}  # fmt: skip
    said = io.StringIO()
    work = Work(home.client, PanelSettings(output=str(folder / "takes")), "film")
    whole = {"action": "generate", "clips": [clip], **opening}
    return Desk(whole, Conversation(io.StringIO(incoming), said), work, folder / "resolve.json"), said


def test_the_window_suggests_generates_and_cancels(home: Any, tmp_path: Path, screen: None) -> None:
    pytest.importorskip("tkinter")
    from vatt_resolve.window import Window

    answer = json.dumps({"type": "placed", "placed": [{"track": "VATT"}], "problems": []}) + "\n"
    desk, said = desk_for(home, tmp_path, answer)
    window = Window(desk)

    def turn(condition: Callable[[], Any]) -> None:
        def turned() -> Any:
            window.root.update()
            return condition()

        until(turned, seconds=SOON)

    try:
        window.suggest()
        turn(lambda: window.captions.size() == 3)
        turn(lambda: not desk.busy)
        window.captions.selection_set(1)
        window.captions.event_generate("<<ListboxSelect>>")
        turn(lambda: window.prompt.get() == "a clip 1")
        window.generate()
        turn(lambda: not desk.busy)
        order = json.loads(said.getvalue())
        assert order["type"] == "place" and Path(order["takes"][0]["wav"]).is_file()
        assert order["takes"][0]["caption"] == "a clip 1"
        turn(lambda: "VATT" in window.message.get())
        home.write("clip.mp4", "slow one")
        window.generate()
        turn(lambda: len(home.executions("sound")) == 2)
        desk.cancel()
        turn(lambda: not desk.busy)
        assert len(said.getvalue().splitlines()) == 1
    finally:
        window.close()


def test_the_window_shows_settings_and_problems(home: Any, tmp_path: Path, screen: None) -> None:
    pytest.importorskip("tkinter")
    from vatt_resolve.window import Window

    desk, _ = desk_for(home, tmp_path, action="settings", clips=[])
    window = Window(desk)
    window.takes.set(3)
    window.output.set(str(tmp_path / "elsewhere"))
    window.save()
    window.takes.set(99)
    window.save()
    window.close()
    assert desk.message.startswith("Not saved")
    desk, _ = desk_for(home, tmp_path, action="problem", clips=[], message="No timeline is open.")
    window = Window(desk)
    assert window.message.get() == "No timeline is open."
    window.close()


def test_settings_are_kept_and_wrong_ones_are_told(home: Any, tmp_path: Path) -> None:
    desk, _ = desk_for(home, tmp_path)
    wanted = PanelSettings(str(tmp_path / "elsewhere"), 3, "nano")
    desk.save(wanted)
    assert PanelSettings.load(tmp_path / "resolve.json") == wanted
    desk.save(PanelSettings(str(tmp_path), 99, "nano"))
    assert PanelSettings.load(tmp_path / "resolve.json") == PanelSettings()
    assert desk.message.startswith("Not saved")


def test_closing_the_window_cancels_what_runs(home: Any, tmp_path: Path) -> None:
    desk, said = desk_for(home, tmp_path)
    home.write("clip.mp4", "slow one")
    desk.generate([0], prompt="", negative="", takes=1, seed=None)
    until(lambda: home.executions("sound"), seconds=SOON)
    desk.close()
    assert json.loads(said.getvalue()) == {"type": "close"}
    with home.client() as client:
        until(lambda: [job.state for job in client.list()] == ["cancelled"], seconds=SOON)


# ---- the page in the browser ---------------------------------------------------------------------------------------


class Opened:
    """A menu entry whose panel is shown in a browser: here a script that notes the address."""

    def __init__(self, home: Any, folder: Path) -> None:
        self.resolve, _, self.timeline = film(home)
        browser = folder / "browser"
        browser.write_text(f'#!/bin/sh\necho "this goes to standard output"\nprintf %s "$1" > "{folder}/address"\n')
        browser.chmod(0o755)
        self._settings = installed(home, folder)
        self._settings["environment"]["BROWSER"] = str(browser)
        self._file = folder / "address"
        self._thread = threading.Thread(target=self._run)
        self.good: bool | None = None

    def _run(self) -> None:
        self.good = actions.main("generate", self.resolve, self._settings, ["--in-browser"])

    def open(self) -> str:
        self._thread.start()
        until(lambda: self._file.exists() and self._file.read_text().endswith("/"), seconds=SOON)
        return self._file.read_text()

    def wait(self) -> None:
        self._thread.join(SOON)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def opened(home: Any, folder: Path) -> Iterator[tuple[str, Timeline, Opened]]:
    """(address of the page, the timeline, the menu entry that runs)."""
    entry = Opened(home, folder)
    address = entry.open()
    try:
        yield address, entry.timeline, entry
    finally:
        with contextlib.suppress(OSError):  # it may be closed already
            ask(address + "close", {})
        entry.wait()


def ask(address: str, order: dict[str, Any] | None = None, **headers: str) -> Any:
    data = None if order is None else json.dumps(order).encode()
    with urllib.request.urlopen(urllib.request.Request(address, data=data, headers=headers), timeout=60) as answer:
        return json.loads(answer.read())


def rest(address: str) -> dict[str, Any]:
    """The page's state once nothing runs any more."""
    found: dict[str, Any] = {}

    def rested() -> bool:
        found.update(ask(address + "state"))
        return not found["busy"]

    until(rested, seconds=SOON)
    return found


def test_the_page_s_orders_put_takes_under_the_clips(home: Any, tmp_path: Path) -> None:
    with opened(home, tmp_path) as (address, timeline, entry):
        state = ask(address + "state")
        assert state["clips"] == ["clip.mp4", "clip.mp4", "Title"] and state["settings"]["takes"] == 2
        ask(address + "suggest", {"clip": 1})
        assert [caption["text"] for caption in rest(address)["captions"]["1"]] == ["a clip 0", "a clip 1", "a clip 2"]
        ask(address + "generate", {"clips": [0, 1], "prompt": "a bell", "negative": "", "takes": 1, "seed": 7})
        assert "VATT" in rest(address)["message"]
        assert sounds_of(timeline) == {"Audio 1": [], "VATT": [(86_400, 86_448), (86_500, 86_524)]}
        made = [json.loads(marker["customData"]) for marker in timeline._markers.values()]
        assert [(about["caption"], about["seed"]) for about in made] == [("a bell", 7)] * 2
    assert entry.good


def test_the_page_answers_its_secret_address_and_whole_orders_alone(home: Any, tmp_path: Path) -> None:
    desk, _ = desk_for(home, tmp_path)
    page = Page(desk)
    serving = threading.Thread(target=page.serve)
    serving.start()
    begin = page.address.rsplit("/", 2)[0]
    wrong: list[tuple[str, dict[str, Any] | None, dict[str, str]]] = [
        (f"{begin}/", None, {}), (f"{begin}/guess/state", None, {}), (page.address + "nothing", None, {}),
        (page.address + "state", None, {"Host": "evil.example"}), (page.address + "settings", {}, {}),
        (page.address + "suggest", {"clip": 5}, {}), (page.address + "generate", {"clips": [0]}, {}),
        (page.address + "suggest", {"clip": "x" * 70_000}, {}),
    ]  # fmt: skip
    try:
        for address, order, headers in wrong:
            with pytest.raises(urllib.error.HTTPError) as refused:
                ask(address, order, **headers)
            assert 400 <= refused.value.code < 500, address
            refused.value.close()
        assert not desk.busy and not home.executions("captions")
        with urllib.request.urlopen(page.address, timeout=60) as answer:
            assert b"<!doctype html>" in answer.read()
    finally:
        ask(page.address + "close", {})
        serving.join(SOON)
    assert not serving.is_alive()


def test_without_screen_and_browser_the_order_is_carried_out_all_the_same(
    home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    resolve, _, timeline = film(home)
    assert actions.main("generate", resolve, installed(home, tmp_path))
    assert len(sounds_of(timeline)["VATT 2"]) == 3


@pytest.mark.parametrize("name", [("resolve", "panel"), ("resolve-panel",)])
def test_a_panel_that_no_script_has_started_says_so(home: Any, name: tuple[str, ...]) -> None:
    for given in ("", "hello\n", "[1]\n", "{}\n", '{"clips": []}\n', '{"action": "suggest", "clips": [{}]}\n',
                  '{"action": "another", "clips": []}\n'):  # fmt: skip
        ran = subprocess.run(
            [sys.executable, "-m", "vatt_daemon.cli", *name, "--no-window"],
            input=given, env=home.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ran.returncode == 2 and ran.stdout == "" and "scripts in DaVinci Resolve" in ran.stderr, ran.stderr
        assert len(ran.stderr.splitlines()) == 1


@pytest.mark.browser
def test_the_page_works_in_a_browser(home: Any, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = os.environ.get("VATT_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    assert found, "no Chromium is installed; VATT_CHROMIUM may name one"
    problems: list[str] = []
    with opened(home, tmp_path) as (address, timeline, entry), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 620, "height": 470})
        tab.set_default_timeout(SOON * 1000)
        tab.on(
            "console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None
        )
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(address)
        assert tab.locator("#clip option").count() == 3
        tab.select_option("#clip", "1")
        tab.click("#suggest")
        tab.click("#captions button >> nth=2")
        assert tab.input_value("#prompt") == "a clip 2"
        tab.reload()  # the panel is still there
        tab.wait_for_selector("#suggest:enabled")
        tab.select_option("#clip", "1")
        tab.click("#captions button >> nth=1")
        tab.fill("#takes", "1")
        tab.click("#generate")
        tab.locator("#message", has_text="VATT").wait_for()
        assert sounds_of(timeline) == {"Audio 1": [], "VATT": [(86_500, 86_524)]}
        home.write("clip.mp4", "slow one")
        tab.click("#all")
        until(lambda: len(home.executions("sound")) == 2, seconds=SOON)
        tab.click("#cancel")
        tab.wait_for_selector("#generate:enabled")
        tab.click("#close")
        entry.wait()
        browser.close()
    assert problems == []
