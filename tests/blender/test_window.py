"""A real Blender window under Xvfb: right-click, menu entry, captions, a click on one, generate, the strip, Ctrl+Z.

Blender comes from a Debian of its own, made once under build/window (about 2 GB). It needs root, debootstrap, Xvfb, xdotool and
ImageMagick. The pictures it takes lie in build/window/pictures; docs/images/blender holds some of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WINDOW = ROOT / "build" / "window"
SYSTEM = Path(os.environ.get("VATT_WINDOW_SYSTEM", WINDOW / "sid"))
DISPLAY = ":77"
WIDTH, HEIGHT = 1600, 1400
"""Pixels of the screen: high enough for the whole tab, captions and takes included, without scrolling."""
MIRROR = [mirror] if (mirror := os.environ.get("VATT_WINDOW_MIRROR")) else []
"""Of Debian; debootstrap knows one by itself."""
PACKAGES = ["blender", "libgl1", "libgl1-mesa-dri", "libegl1", "python3-cattr", "python3-requests"]
PATIENCE = 900.0
FIRST_CAPTION, GENERATE, LINE, EDGES = 124, 259, 20, 10
"""Pixels from the tab's upper edge to the first caption and, without captions, to the Generate button; of a line of a caption,
and of the edges of its box. Buttons are looked for around these places, as their sizes are the theme's."""
STEP, REACH = 9, 270
"""Pixels between two places that are tried, and to the farthest one."""

pytestmark = [pytest.mark.window, pytest.mark.timeout(3600)]


def debian() -> Path:
    """The Debian with Blender, made if it is not there."""
    if not (SYSTEM / "usr" / "bin" / "blender").exists():
        SYSTEM.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["debootstrap", "--variant=minbase", "sid", str(SYSTEM), *MIRROR], check=True)
        settings = 'Acquire::Check-Valid-Until "false";\nAPT::Install-Recommends "false";\nAPT::Sandbox::User "root";\n'
        (SYSTEM / "etc" / "apt" / "apt.conf.d" / "99window").write_text(settings)
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", *PACKAGES]):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(["chroot", str(SYSTEM), *command], check=True, env=environment)
    return SYSTEM


class Window:
    """Mouse, keyboard and pictures; `state` is what the script inside last told."""

    def __init__(self, shared: Path) -> None:
        self.shared = shared
        self.pictures = WINDOW / "pictures"
        self.pictures.mkdir(parents=True, exist_ok=True)

    @property
    def state(self) -> dict[str, Any]:
        return json.loads((self.shared / "state.json").read_text())  # type: ignore[no-any-return]

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError):
                if condition():
                    return
            if time.monotonic() > end:
                self.picture("stuck")
                raise AssertionError(f"it did not come true, see {self.pictures / 'stuck.png'}")
            time.sleep(0.5)

    def x(self, *command: str) -> None:
        subprocess.run(["xdotool", *command], check=True, env={**os.environ, "DISPLAY": DISPLAY})

    def move(self, x: float, y: float) -> None:
        # Blender wants to see the pointer arrive.
        self.x(
            "mousemove",
            str(int(x) - 2),
            str(int(y) - 1),
            "sleep",
            "1",
            "mousemove",
            str(int(x)),
            str(int(y)),
            "sleep",
            "1",
        )

    def click(self, x: float, y: float, button: int = 1) -> None:
        self.move(x, y)
        self.x("click", str(button))

    def button(self, operator: str, x: float, y: float) -> None:
        """Put the pointer on the button of an operator in the column at x, looking around y. Blender tells which button the
        pointer is on: Ctrl+C copies its operator."""
        for distance in range(0, REACH, STEP):
            for place in sorted({y - distance, y + distance}):
                self.move(x, place)
                before = self.state
                self.x("key", "ctrl+c")
                self.until(lambda: self.state["turn"] >= before["turn"] + 3)  # noqa: B023
                number, text = self.state["copied"]
                if number > before["copied"][0] and text.startswith(f"bpy.ops.{operator}("):
                    return
        self.picture("stuck")
        raise AssertionError(f"there is no button of {operator} around {y}, see {self.pictures / 'stuck.png'}")

    def settle(self) -> None:
        """Until two pictures are the same: a slow machine draws a menu in its own time."""
        before, end = b"", time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(2)
            now = self.picture("last").read_bytes()
            if now == before:
                return
            before = now

    def picture(self, name: str) -> Path:
        path = self.pictures / f"{name}.png"
        command = ["import", "-window", "root", "-define", "png:exclude-chunks=date,time", str(path)]
        subprocess.run(command, check=True, env={**os.environ, "DISPLAY": DISPLAY})
        return path


@pytest.fixture
def window(nano: Any, film: Path, tmp_path: Path) -> Iterator[Window]:
    for tool in ("debootstrap", "chroot", "Xvfb", "xdotool", "import"):
        assert shutil.which(tool), f"{tool} is missing"
    system, shared = debian(), tmp_path / "shared"
    extension = next((ROOT / "dist" / "blender").glob("vatt-*-linux_x64.zip"), None)
    assert extension is not None, "make plugins"
    shared.mkdir()
    shutil.copy(film, shared / "film.mp4")
    shutil.copy(extension, shared / "extension.zip")
    shutil.copy(Path(__file__).parent / "inside" / "window.py", shared)
    home = Path(nano.environment["VATT_HOME"])
    mounts = [(shared, shared), (home, home), (Path("/tmp/.X11-unix"), Path("/tmp/.X11-unix"))]
    mounts += [(Path("/proc"), Path("/proc")), (Path("/dev"), Path("/dev"))]
    display = subprocess.Popen(["Xvfb", DISPLAY, "-screen", "0", f"{WIDTH}x{HEIGHT}x24", "-ac", "+extension", "GLX"])
    blender, mounted = None, []
    try:
        for source, target in mounts:
            inside = system / target.relative_to("/")
            inside.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", str(source), str(inside)], check=True)
            mounted.append(inside)
        environment = {
            "PATH": "/usr/bin:/bin:/usr/sbin", "HOME": str(shared), "DISPLAY": DISPLAY, "LIBGL_ALWAYS_SOFTWARE": "1",
            "VATT_HOME": str(home), "VATT_TEST_SHARED": str(shared),
        }  # fmt: skip
        install = ["--background", "--command", "extension", "install-file", "-r", "user_default", "--enable"]
        run = ["chroot", str(system), "blender"]
        subprocess.run([*run, *install, str(shared / "extension.zip")], check=True, env=environment)
        options = ["-noaudio", "--gpu-backend", "opengl", "--window-geometry", "0", "0", str(WIDTH), str(HEIGHT)]
        options += ["--app-template", "Video_Editing", "-P", str(shared / "window.py")]
        blender = subprocess.Popen([*run, *options], env=environment)
        found = Window(shared)
        found.until((shared / "state.json").exists)
        yield found
    finally:
        for process in (blender, display):
            if process is not None:
                process.kill()
                process.wait()
        for inside in reversed(mounted):
            subprocess.run(["umount", "--lazy", str(inside)], check=False)


def test_from_the_right_click_to_the_sound_and_back(window: Window) -> None:
    window.settle()
    window.x("key", "Escape")
    x, y = window.state["strip"]
    window.click(x, y)
    window.settle()
    window.click(x, y, button=3)
    window.settle()
    window.picture("menu")
    # Taller than what is below the pointer, the menu stands on the window's lower edge: count its entries from there.
    window.click(x - 100, HEIGHT - 88)
    window.until(lambda: window.state["captions"])
    window.settle()
    left, top = window.state["tab"]
    window.picture("suggested")
    window.button("vatt.use_caption", left + 100, top + FIRST_CAPTION)
    window.x("click", "1")
    window.until(lambda: window.state["prompt"])
    window.settle()
    window.picture("captions")
    captions = sum(LINE * lines + EDGES for lines in window.state["captions"])
    window.button("vatt.generate", left + 180, top + GENERATE + captions)
    window.x("click", "1")
    window.until(lambda: len(window.state["strips"]) == 2)
    assert "VATT" in window.state["channels"]
    window.settle()
    window.picture("placed")
    window.move(x, y)
    window.x("key", "ctrl+z")
    window.until(lambda: window.state["strips"] == ["film"])
    assert window.state["prompt"], "one step back takes the placement alone"
    window.settle()
    window.picture("undone")
