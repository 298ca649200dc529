"""Settings: where they come from, in which order, and how wrong ones are refused."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest
from vatt_daemon.folders import folders
from vatt_daemon.settings import Settings, load_settings

from vatt_core.errors import BadRequest


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    assert load_settings(file=file, environment={}) == Settings()
    file.write_text("[server]\nport = 1001\ncontrol_port = 1002\n[worker]\ncancel_grace = 3\n")
    environment = {"VATT_SERVER_PORT": "2001", "VATT_PATHS_INPUT_ROOTS": os.pathsep.join(["/a", "/b"])}
    found = load_settings(file=file, environment=environment, flags={"server.control_port": 3002})
    assert (found.server.port, found.server.control_port) == (2001, 3002)
    assert found.worker.cancel_grace == 3.0
    assert found.paths.input_roots == ("/a", "/b")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[server]\nprot = 1", "server.prot"),
        ("[sever]\nport = 1", "sever.port"),
        ("port = 1", "port"),
        ("[server]\nport = 'x'", "server.port"),
        ("[server]\nport = true", "server.port"),
        ("[server]\nport = 70000", "server.port"),
        ("[jobs]\nqueue = 0", "jobs.queue"),
        ("[worker]\ncancel_grace = nan", "worker.cancel_grace"),
        ("[paths]\ninput_roots = [1]", "paths.input_roots"),
        ("[server", "config.toml"),
    ],
)
def test_wrong_files_are_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(BadRequest) as caught:
        load_settings(file=file, environment={})
    assert named in caught.value.message


def test_unknown_variables_of_our_tables_are_refused_and_others_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "none.toml"
    assert load_settings(file=file, environment={"VATT_RECORDED": "/x", "VATT_DEBUG": "1"}) == Settings()
    with pytest.raises(BadRequest):
        load_settings(file=file, environment={"VATT_SERVER_PORTT": "1"})


def test_one_variable_moves_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VATT_HOME", str(tmp_path))
    found = folders()
    assert all(folder.is_relative_to(tmp_path) for folder in (found.config, found.data, found.runtime, found.log,
                                                              found.cache))  # fmt: skip


def test_every_setting_and_its_default_stand_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `([a-z]+\.[a-z_]+)` \| (.*?) ?\| .+ \|$", page, flags=re.MULTILINE))
    real = {
        f"{table.name}.{item.name}": "" if item.default == () else str(item.default)
        for table in dataclasses.fields(Settings)
        for item in dataclasses.fields(getattr(Settings(), table.name))
    }
    assert told == real
