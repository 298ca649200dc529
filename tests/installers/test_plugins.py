"""Plugins put where the editors look, replaced, found stale and removed."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from vatt_daemon.cli import doctor, plugins
from vatt_installers import blender, resolve

from tests.installers.conftest import Call
from vatt_core.errors import BadRequest, NotFound


@pytest.mark.parametrize(
    ("platform", "below"),
    [
        ("linux", ".local/share/DaVinciResolve/Fusion/Scripts"),
        ("darwin", "Library/Application Support/Blackmagic Design/DaVinci Resolve/Fusion/Scripts"),
        ("win32", "AppData/Roaming/Blackmagic Design/DaVinci Resolve/Support/Fusion/Scripts"),
    ],
)
def test_resolve_s_folders_are_these(platform: str, below: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_DATA_HOME", "APPDATA"):
        monkeypatch.delenv(name, raising=False)
    assert resolve.scripts_folder(platform, Path("/home/u")) == Path("/home/u") / below


def test_resolve_s_scripts_are_installed_replaced_and_removed(call: Call, tmp_path: Path) -> None:
    scripts = resolve.scripts_folder("linux", tmp_path / "user")
    stale = scripts / "Edit" / "VATT" / "Old Entry.py"
    stale.parent.mkdir(parents=True)
    foreign = scripts / "Utility" / "VATT" / "mine.py"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("print('mine')\n")
    for _ in range(2):
        code, said, complained = call("plugins", "install", "resolve")
        assert code == 0, complained
        menu = {Path(line).name for line in said.splitlines()}
        assert menu == {f"{name}.py" for name in resolve.ENTRIES}
        assert {file.name for file in (scripts / "Utility" / "VATT").glob("*.py")} == menu | {"mine.py"}
        assert resolve.problems(scripts, tmp_path / "vatt home" / "data" / "resolve") == {}
        # What an earlier version left in another category goes with the next installation.
        stale.parent.mkdir(parents=True, exist_ok=True)
        stale.write_text((scripts / "Utility" / "VATT" / "Settings.py").read_text())
    library = tmp_path / "vatt home" / "data" / "resolve"
    assert len(resolve.problems(scripts, library)) == 1
    told = list(doctor._resolve())
    assert [check.state for check in told] == ["problem"] and str(stale) in told[0].seen
    assert "vatt plugins install resolve" in told[0].cure
    (library / "vatt_resolve" / "api.py").write_text("")
    (scripts / "Utility" / "VATT" / "Settings.py").unlink()
    assert len(resolve.problems(scripts, library)) == 3
    assert call("plugins", "uninstall", "resolve")[0] == 0
    assert not library.exists() and list(resolve.entries(scripts)) == [] and foreign.exists()
    assert not stale.parent.exists()
    assert call("plugins", "uninstall", "resolve")[0] == 0
    assert [check.state for check in doctor._resolve()] == ["ok"]


def test_menu_entries_in_a_folder_of_the_user_s_choice_do_not_stay_behind(call: Call, tmp_path: Path) -> None:
    one, two, usual = tmp_path / "one", tmp_path / "two", resolve.scripts_folder("linux", tmp_path / "user")
    for folder in (one, two):
        assert call("plugins", "install", "resolve", "--path", str(folder))[0] == 0
    assert list(resolve.entries(one)) == [] and len(list(resolve.entries(two))) == len(resolve.ENTRIES)
    assert [(check.state, str(two) in check.seen) for check in doctor._resolve()] == [("ok", True)]
    (two / "Utility" / "VATT" / "Settings.py").unlink()
    (told,) = doctor._resolve()
    assert told.state == "problem" and str(two) in told.seen and f"--path {two}" in told.cure
    assert call("plugins", "install", "resolve")[0] == 0
    assert list(resolve.entries(two)) == [] and len(list(resolve.entries(usual))) == len(resolve.ENTRIES)
    assert call("plugins", "install", "resolve", "--path", str(one))[0] == 0
    assert call("plugins", "uninstall", "resolve")[0] == 0
    assert list(resolve.entries(one)) == list(resolve.entries(usual)) == []


@pytest.mark.parametrize("option", ["--from", "--program"])
def test_what_belongs_to_blender_is_refused_for_resolve(call: Call, tmp_path: Path, option: str) -> None:
    code, said, complained = call("plugins", "install", "resolve", option, "something")
    assert code == 2 and said == "" and option in complained
    assert not (tmp_path / "user").exists()


def test_an_installed_entry_runs_in_a_bare_python(call: Call, tmp_path: Path) -> None:
    scripts = tmp_path / 'it\'s a "folder" with ü'
    assert call("plugins", "install", "resolve", "--path", str(scripts))[0] == 0
    library = tmp_path / "vatt home" / "data" / "resolve"
    config = json.loads((library / "vatt_resolve.json").read_text())
    assert config["command"][0] == sys.executable and config["environment"] == {
        "VATT_HOME": str(tmp_path / "vatt home")
    }
    # The panel is not reached: there is no Resolve. What stands in the way is said, without a traceback.
    (library / "vatt_resolve.json").write_text(json.dumps(config | {"command": ["/bin/true"]}))
    for name in resolve.ENTRIES:
        ran = subprocess.run([sys.executable, "-I", "-S", str(scripts / "Utility" / "VATT" / f"{name}.py")],
                             capture_output=True, text=True, check=False)  # fmt: skip
        assert ran.returncode == 0 and "Traceback" not in ran.stderr, ran.stderr
        assert name == "Settings" or "VATT: " in ran.stdout


def extension(file: Path, *, version: str = "1.0.0", platforms: tuple[str, ...] = (), more: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        chosen = f"[build.generated]\nplatforms = {json.dumps(platforms)}\n" if platforms else ""
        archive.writestr("blender_manifest.toml", f'id = "vatt"\nversion = "{version}"\n{chosen}')
        archive.writestr("__init__.py", f"# {version}\n")
        if more:
            archive.writestr(more, "x")
    return file


def test_the_extension_goes_into_every_blender_from_4_2_on(call: Call, tmp_path: Path) -> None:
    configuration = blender.configuration_folder("linux", tmp_path / "user")
    for version in ("3.6", "4.1", "4.2", "5.0", "5.10", "notes"):
        (configuration / version).mkdir(parents=True)
    first = extension(tmp_path / "one.zip")
    code, _, complained = call("plugins", "install", "blender", "--from", str(first))
    assert code == 0, complained
    places = [configuration / version / "extensions" / "user_default" / "vatt" for version in ("4.2", "5.0", "5.10")]
    assert sorted(configuration.rglob("__init__.py")) == sorted(place / "__init__.py" for place in places)
    (places[0] / "left over.py").write_text("")
    second = extension(tmp_path / "two.zip", version="1.1.0")
    assert call("plugins", "install", "blender", "--from", str(second))[0] == 0
    assert all((place / "__init__.py").read_text() == "# 1.1.0\n" for place in places)
    assert not (places[0] / "left over.py").exists()
    assert call("plugins", "uninstall", "blender")[0] == 0
    assert list(configuration.rglob("__init__.py")) == []


def test_the_extension_goes_into_and_out_of_a_named_folder(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "my extensions"
    file = extension(tmp_path / "one.zip")
    assert call("plugins", "install", "blender", "--from", str(file), "--path", str(folder))[0] == 0
    assert (folder / "vatt" / "__init__.py").is_file()
    assert call("plugins", "uninstall", "blender", "--path", str(folder))[0] == 0
    assert not (folder / "vatt").exists()


def test_a_blender_that_can_be_run_installs_it_itself(call: Call, tmp_path: Path) -> None:
    program = tmp_path / "blender"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
    program.chmod(0o755)
    file = extension(tmp_path / "one.zip")
    assert call("plugins", "install", "blender", "--from", str(file), "--program", str(program))[0] == 0
    called = (tmp_path / "called").read_text().split()
    assert called == ["--command", "extension", "install-file", "--repo", "user_default", "--enable", str(file)]
    program.write_text("#!/bin/sh\necho 'no such repository' >&2\nexit 1\n")
    code, _, said = call("plugins", "install", "blender", "--from", str(file), "--program", str(program))
    assert code == 9 and "no such repository" in said
    program.chmod(0o644)
    for wrong in (program, tmp_path / "missing"):
        code, _, said = call("plugins", "install", "blender", "--from", str(file), "--program", str(wrong))
        assert code == 9 and str(wrong) in said and "--path" in said and len(said.splitlines()) == 1


def test_the_extension_of_this_platform_is_chosen(tmp_path: Path) -> None:
    here = blender.this_platform()
    files = [
        extension(tmp_path / "a.zip", version="1.9.0", platforms=(here,)),
        extension(tmp_path / "b.zip", version="1.10.0", platforms=(here,)),
        extension(tmp_path / "c.zip", version="2.0.0", platforms=("amiga-68k",)),
    ]
    assert blender.choose(files).version == "1.10.0"
    with pytest.raises(NotFound):
        blender.choose(files[2:])
    assert blender.this_platform("darwin", "arm64") == "macos-arm64"
    assert blender.this_platform("win32", "AMD64") == "windows-x64"


def test_the_extension_that_was_built_in_this_folder_is_found_from_elsewhere(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed `vatt`, as the README's lines make it, does not lie in a checkout; its user stands in one."""
    monkeypatch.setattr(plugins, "_checkout", lambda: tmp_path / "site-packages")
    checkout, folder = tmp_path / "checkout", tmp_path / "extensions"
    checkout.mkdir()
    monkeypatch.chdir(checkout)
    code, _, said = call("plugins", "install", "blender", "--path", str(folder))
    assert code == 3 and "make plugins" in said
    extension(checkout / "dist" / "blender" / "one.zip", platforms=(blender.this_platform(),))
    assert call("plugins", "install", "blender", "--path", str(folder))[0] == 0
    assert (folder / "vatt" / "__init__.py").is_file()


@pytest.mark.parametrize("name", ["../outside.py", "/outside.py", "C:\\outside.py", "a/../../outside.py"])
def test_an_archive_that_reaches_outside_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRequest):
        blender.read_extension(extension(tmp_path / "bad.zip", more=name))


def test_what_is_no_extension_is_told(call: Call, tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no archive")
    for file in (tmp_path / "text.zip", tmp_path / "missing.zip"):
        code, _, said = call("plugins", "install", "blender", "--from", str(file))
        assert code in (2, 3) and len(said.splitlines()) == 1
    file = extension(tmp_path / "one.zip")
    code, _, said = call("plugins", "install", "blender", "--from", str(file))
    assert code == 3 and "--path" in said
