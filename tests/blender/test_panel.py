"""What the panel and the menus offer, drawn by a real Blender's own lists of names, in every version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.editors, pytest.mark.timeout(1600)]

ENTRIES = {"vatt.generate", "vatt.suggest", "vatt.another_take", "vatt.regenerate_range", "vatt.cancel"}


@pytest.fixture(scope="module")
def drawn(blender: Any, numbered: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return blender.run("panel.py", tmp_path_factory.mktemp("panel"), film=str(numbered("24")))


def operators(calls: list[list[str]]) -> set[str]:
    return {call[1] for call in calls if call[0] == "operator"}


def test_context_menu_and_strip_menu_hold_every_entry(drawn: Any) -> None:
    assert drawn["menus"] == {"SEQUENCER_MT_context_menu": True, "SEQUENCER_MT_strip": True}
    assert operators(drawn["menu"]) == ENTRIES
    assert drawn["left"] == [], "none stays when the extension is switched off"


def test_panel_without_a_strip_offers_to_start_the_daemon(drawn: Any) -> None:
    assert operators(drawn["nothing"]) == {"vatt.start_daemon"}


def test_panel_of_a_strip(drawn: Any) -> None:
    shown = {call[1] for call in drawn["plain"] if call[0] == "prop"}
    assert shown == {"prompt", "negative_prompt", "model", "takes", "seed", "lock_seed", "normalise", "loudness"}
    assert operators(drawn["plain"]) == ENTRIES - {"vatt.cancel"} | {"vatt.start_daemon"}


def test_captions_are_a_list_to_click_and_stand_there_whole(drawn: Any) -> None:
    assert "vatt.start_daemon" not in operators(drawn["busy"])
    lines: dict[str, list[str]] = {}
    for kind, *call in drawn["busy"]:
        if kind == "operator" and call[0] == "vatt.use_caption":
            lines.setdefault(call[2], []).append(call[1])
    long, short = lines
    assert " ".join(lines[long]) == long and len(lines[long]) > 1 and lines[short] == [short]
    assert drawn["prompt"] == long


def test_progress_with_its_stage_and_a_way_to_cancel(drawn: Any) -> None:
    assert ["progress", drawn["line"]] in drawn["busy"]
    assert "vatt.cancel" in operators(drawn["busy"])


def test_takes_can_be_heard_alone_muted_remembered_and_thinned_out(drawn: Any) -> None:
    named = {(call[1], call[3]) for call in drawn["takes"] if call[0] == "operator" and len(call) > 3}
    for strip in ("take 0", "take 1"):
        assert {("vatt.pick_take", strip), ("vatt.mute_take", strip), ("vatt.remember_take", strip)} <= named
    assert ("vatt.delete_other_takes", "take 1") in named


def test_range_is_the_preview_range_or_the_selected_markers(drawn: Any) -> None:
    assert drawn["ranges"] == [None, [12, 33], [15, 20]]


def test_folder_that_cannot_be_made_is_told(drawn: Any, numbered: Callable[[str], Path]) -> None:
    assert str(numbered("24") / "sounds") in drawn["no folder"] and "Errno" not in drawn["no folder"]


def test_sequencer_without_a_scene(drawn: Any, blender: Any) -> None:
    if blender.version < (5, 0):
        pytest.skip("until 5.0 the sequencer always shows the window's scene")
    calls, offered = drawn["unset"]
    assert not offered and "vatt.generate" not in operators(calls)


def test_missing_libraries_are_told(drawn: Any) -> None:
    assert {call[0] for call in drawn["unfit"]} == {"label"}
