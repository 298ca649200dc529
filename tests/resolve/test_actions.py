"""The menu entries from end to end: contract double, the real panel process, the real daemon."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import vatt_resolve
from vatt_daemon.cli import main
from vatt_installers import resolve as resolve_scripts
from vatt_resolve import actions, selftest, selftest_entry

from tests.resolve import double
from tests.resolve.double import (
    FREE_21_0,
    FREE_21_1,
    STUDIO_21_1,
    WITH_PYTHON,
    MediaPoolItem,
    Profile,
    Project,
    Resolve,
    TimelineItem,
    scriptapp,
)
from tests.resolve.timelines import build, film, installed, sounds_of

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize("profile", WITH_PYTHON, ids=lambda profile: profile.name)
def test_generate_puts_takes_under_every_selected_clip(
    home: Any, tmp_path: Path, profile: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    resolve, project, timeline = film(home, profile)
    assert actions.main("generate", resolve, installed(home, tmp_path), ["--no-window"]), capsys.readouterr()
    clips = [(86_400, 86_448), (86_500, 86_524), (86_600, 86_624)] if profile.selected_clips else [(86_400, 86_448)]
    assert sounds_of(timeline) == {"Audio 1": [], "VATT": clips, "VATT 2": clips}
    with home.client() as client:
        jobs = {job.id: client.get(job.id).request for job in client.list()}
    assert len(jobs) == len(clips)
    marked = [json.loads(marker["customData"]) for marker in timeline._markers.values()]
    assert {about["job"] for about in marked} == set(jobs)
    ranges = sorted((Fraction(request["start"]), Fraction(request["end"])) for request in jobs.values() if request)
    expected = [(0, 2), (Fraction(1, 2), Fraction(3, 2)), (0, 1)] if profile.selected_clips else [(0, 2)]
    assert ranges == sorted(expected)
    assert len(project._rendered) == (1 if profile.selected_clips else 0)
    wavs = [clip._properties["File Path"] for clip in project._pool._root._folders[0]._clips]
    assert all(Path(wav).is_file() and Path(wav).parent.name == "A_film_ 1" for wav in wavs)


def test_another_take_has_the_prompt_of_the_marker(home: Any, tmp_path: Path) -> None:
    resolve, _, timeline = film(home)
    timeline._selected = timeline._selected[:1]
    timeline._markers[3] = {"customData": json.dumps({"vatt": 1, "job": "old", "caption": "a bell"})}
    timeline._markers[5] = {"customData": "somebody else's"}
    assert actions.main("another", resolve, installed(home, tmp_path), ["--no-window"])
    with home.client() as client:
        request = client.get(client.list()[0].id).request
    assert request is not None and request["prompt"] == "a bell"


def test_captions_are_told_in_the_console_and_problems_too(
    home: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resolve, _, timeline = film(home)
    timeline._selected = timeline._selected[:1]
    found = installed(home, tmp_path)
    assert actions.main("suggest", resolve, found, ["--no-window"])
    assert "a clip 0" in capsys.readouterr().out
    home.write("clip.mp4", "broken")
    assert not actions.main("generate", resolve, found, ["--no-window"])
    assert "no picture" in capsys.readouterr().out
    home.write("clip.mp4", "good")
    timeline._drop_everything = True
    assert not actions.main("generate", resolve, found, ["--no-window"])
    assert "by hand" in capsys.readouterr().out
    timeline._selected, timeline._current = [], None
    assert not actions.main("generate", resolve, found, ["--no-window"])
    assert "Nothing is selected" in capsys.readouterr().out
    assert not actions.main("generate", resolve, found | {"command": ["/no/such/python"]}, ["--no-window"])
    assert "plugins install resolve" in capsys.readouterr().out


@pytest.mark.parametrize("profile", WITH_PYTHON, ids=lambda profile: profile.name)
def test_the_self_test_finds_nothing_in_what_it_was_written_for(tmp_path: Path, profile: Profile) -> None:
    clip, wav = tmp_path / "clip.mp4", tmp_path / "sound.wav"
    clip.write_bytes(b"film")
    wav.write_bytes(b"RIFF")
    mine = Project(profile, name="mine")
    resolve = Resolve(profile, mine)
    findings = selftest.run(resolve, str(clip), str(wav), str(tmp_path), frames=48)
    assert len(findings) > 8 and [one for one in findings if not one.same] == []
    # The user's own project is open again, and nothing is left.
    assert resolve._manager._open is mine and list(resolve._manager._projects) == ["mine"]


def test_the_self_test_says_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = tmp_path / "vatt"
    command.write_text(
        f"#!/bin/sh\ntouch {tmp_path}/clip.mp4 {tmp_path}/s.wav\necho {tmp_path}/clip.mp4\necho {tmp_path}/s.wav\n"
    )
    command.chmod(0o755)
    shorter = Resolve(STUDIO_21_1, None)
    create = shorter._manager.CreateProject

    def create_short(name: str, /) -> Any:
        project = create(name)
        assert project is not None
        project._frames = 47
        return project

    shorter._manager.CreateProject = create_short  # type: ignore[method-assign]
    assert not selftest_entry.main("selftest", shorter, {"command": [str(command)]})
    said = capsys.readouterr().out
    assert "DIFFERENT" in said and "47" in said
    assert selftest_entry.main("selftest", Resolve(STUDIO_21_1, None), {"command": [str(command)]})


def test_the_self_test_s_command_and_menu_entry_write_their_own_material(
    home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resolve = Resolve(STUDIO_21_1, None)
    module = type("module", (), {"scriptapp": staticmethod(lambda name: scriptapp(resolve))})
    monkeypatch.setitem(sys.modules, "DaVinciResolveScript", module)
    with pytest.raises(SystemExit) as ended:
        main(["resolve", "selftest"])
    assert ended.value.code == 0, capsys.readouterr()
    assert selftest_entry.main("selftest", Resolve(FREE_21_0, None), installed(home, tmp_path)), capsys.readouterr()
    capsys.readouterr()
    refused = Resolve(FREE_21_1, None)
    module.scriptapp = staticmethod(lambda name: scriptapp(refused))  # type: ignore[attr-defined]
    with pytest.raises(SystemExit) as ended:
        main(["resolve", "selftest"])
    assert ended.value.code != 0 and len(capsys.readouterr().err.splitlines()) == 1


# What Resolve does with a menu entry, and what a user of Studio does from outside.
RESOLVE = """
import json, runpy, sys
from tests.resolve import double
from tests.resolve.timelines import build, sounds_of

profile, way, entry, clip = sys.argv[1:]
resolve, _, timeline = build(getattr(double, profile))
timeline._current = timeline._add(double.TimelineItem(double.MediaPoolItem(clip), 86_400, 86_448))
runpy.run_path(entry, init_globals={"resolve": resolve} if way == "menu" else {})
print(json.dumps(sounds_of(timeline)))
"""
MODULE = "def scriptapp(name):\n    import __main__\n    return __main__.double.scriptapp(__main__.resolve)\n"


@pytest.mark.parametrize(
    ("profile", "way"),
    [("FREE_21_0", "menu"), ("FREE_21_0", "outside"), ("STUDIO_20", "outside"), ("STUDIO_21_1", "outside")],
)
def test_installed_entries_work_from_the_menu_and_in_studio_from_outside(
    home: Any, tmp_path: Path, profile: str, way: str
) -> None:
    library = tmp_path / "library"
    resolve_scripts.install(tmp_path / "scripts", library, home=None)
    (library / "vatt_resolve.json").write_text(json.dumps(installed(home, tmp_path, takes=1)))
    module = tmp_path / "Scripting" / "Modules" / "DaVinciResolveScript.py"
    module.parent.mkdir(parents=True)
    module.write_text(MODULE)
    entry = tmp_path / "scripts" / "Utility" / "VATT" / "Generate Soundtrack.py"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    }
    ran = subprocess.run(
        [sys.executable, "-c", RESOLVE, profile, way, str(entry), str(home.write("clip.mp4", "a clip"))],
        env=environment | {"RESOLVE_SCRIPT_API": str(tmp_path / "Scripting")}, cwd=CHECKOUT, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    placed = {} if (profile, way) == ("FREE_21_0", "outside") else {"VATT": [[86_400, 86_448]]}
    assert json.loads(ran.stdout.splitlines()[-1]) == {"Audio 1": []} | placed, ran.stdout


def test_every_call_is_one_that_the_interface_has() -> None:
    """What Resolve does not know it answers with None: a wrong name would never be noticed."""
    known = {name for kind in vars(double).values() if isinstance(kind, type) for name in vars(kind)}
    called = set()
    for file in Path(vatt_resolve.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("ask", "need", "has"):
                name = node.args[1]
                if isinstance(name, ast.Constant):
                    called.add(name.value)
    assert len(called) > 50 and called <= known


def test_a_drop_frame_timeline_is_served_to_the_frame(home: Any, tmp_path: Path) -> None:
    resolve, _, timeline = build(rate="29.97 DF", first=107_892)
    media = MediaPoolItem(str(home.write("clip.mp4", "a clip")), FPS=29.97)
    timeline._current = timeline._add(TimelineItem(media, 108_000, 108_100, left=30))
    assert actions.main("generate", resolve, installed(home, tmp_path, takes=1), ["--no-window"])
    assert sounds_of(timeline) == {"Audio 1": [], "VATT": [(108_000, 108_100)]}
    assert list(timeline._markers) == [108]
    with home.client() as client:
        request = client.get(client.list()[0].id).request or {}
    frame = Fraction(1001, 30_000)
    assert (Fraction(request["start"]), Fraction(request["end"])) == (30 * frame, 130 * frame)


def test_what_runs_in_resolve_is_python_3_8_and_the_standard_library() -> None:
    from vatt_installers.resolve import _IN_RESOLVE

    folder = Path(vatt_resolve.__file__).parent
    for name in _IN_RESOLVE:
        tree = ast.parse((folder / f"{name}.py").read_text("utf-8"), feature_version=(3, 8))
        for node in ast.walk(tree):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [str(node.module)]
            for module in modules:
                first, _, rest = module.partition(".")
                assert first in sys.stdlib_module_names or (first == "vatt_resolve" and rest in _IN_RESOLVE), module
