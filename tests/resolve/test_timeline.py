"""What the scripts read from a timeline and put onto it, against the contract double in several versions."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from vatt_resolve import api, placement, rendering, selection
from vatt_resolve.api import ResolveProblem

from tests.resolve.double import (
    FREE_21_1,
    STUDIO_20,
    WITH_PYTHON,
    MediaPoolItem,
    Profile,
    Project,
    Resolve,
    TimelineItem,
    scriptapp,
)
from tests.resolve.timelines import build, sounds_of


@pytest.fixture
def wav(tmp_path: Path) -> str:
    file = tmp_path / "take.wav"
    file.write_bytes(b"RIFF")
    return str(file)


@pytest.fixture(params=WITH_PYTHON, ids=lambda profile: profile.name)
def profile(request: Any) -> Profile:
    return request.param  # type: ignore[no-any-return]


def test_rates_are_exact_however_resolve_says_them() -> None:
    for said, rate in [("24", 24), (24.0, 24), (25, 25), ("29.97", Fraction(30_000, 1001)), (29.97, Fraction(30_000, 1001)),
                       ("29.97 DF", Fraction(30_000, 1001)), ("23.976", Fraction(24_000, 1001)), ("60", 60),
                       ("59.94 DF", Fraction(60_000, 1001)), (16, 16)]:  # fmt: skip
        assert api.exact_rate(said) == rate
    for wrong in (None, "", "fast", 0, "1e9"):
        with pytest.raises(ResolveProblem):
            api.exact_rate(wrong)


def test_an_attribute_that_claims_to_be_there_is_not_called() -> None:
    resolve, _, timeline = build(STUDIO_20)
    assert hasattr(timeline, "NoSuchCall") and api.ask(timeline, "NoSuchCall", 1) is None
    assert hasattr(timeline, "GetSelectedClips") and not api.has(timeline, "GetSelectedClips")
    assert api.version_of(resolve) == (20, 3)


def test_selected_clips_are_found_once_and_in_order(profile: Profile) -> None:
    resolve, _, timeline = build(profile)
    first = timeline._add(TimelineItem(MediaPoolItem("/a.mov"), 86_400, 86_448))
    second = timeline._add(TimelineItem(MediaPoolItem("/a.mov"), 86_500, 86_524, left=10))
    sound = TimelineItem(MediaPoolItem("/a.mov"), 86_400, 86_448, kind="audio")
    timeline._selected, timeline._current = [second, sound, first, first], first
    session = selection.open_session(resolve)
    found = selection.targets(session)
    if profile.selected_clips:
        assert [(target.start, target.end) for target in found] == [(86_400, 86_448), (86_500, 86_524)]
    else:
        assert [(target.start, target.end) for target in found] == [(86_400, 86_448)]


def test_without_a_selection_the_playhead_and_then_the_marks_count() -> None:
    resolve, _, timeline = build()
    session = selection.open_session(resolve)
    with pytest.raises(ResolveProblem):
        selection.targets(session)
    for marks in ({"in": 86_410, "out": 86_419}, {"in": 10, "out": 19}):
        timeline._marks = {"video": marks}
        assert [(target.start, target.end) for target in selection.targets(session)] == [(86_410, 86_420)]
    timeline._current = timeline._add(TimelineItem(MediaPoolItem("/a.mov"), 86_400, 86_448))
    assert selection.targets(session)[0].end == 86_448


def test_a_plain_clip_is_read_from_its_own_file_to_the_frame() -> None:
    resolve, _, timeline = build(rate="29.97 DF", first=107_892)
    media = MediaPoolItem("/clips/a.mov", FPS=29.97)
    timeline._current = timeline._add(TimelineItem(media, 108_000, 108_100, left=30))
    session = selection.open_session(resolve)
    source, why = selection.own_source(session, selection.targets(session)[0])
    assert why is None and source is not None
    frame = Fraction(1001, 30_000)
    assert (source.path, source.start, source.end) == ("/clips/a.mov", 30 * frame, 130 * frame)


@pytest.mark.parametrize(
    ("media", "item"),
    [
        (None, {}),
        ({"Type": "Compound"}, {}),
        ({"Type": "Still"}, {}),
        ({"FPS": 25.0}, {}),
        ({"FPS": ""}, {}),
        ({}, {"fusion": 1}),
        ({}, {"source": 96}),
        ({}, {"source": -48}),
    ],
)
def test_what_a_file_does_not_show_is_rendered(
    media: dict[str, Any] | None, item: dict[str, Any], tmp_path: Path
) -> None:
    resolve, project, timeline = build()
    pool_item = None if media is None else MediaPoolItem("/clips/a.mov", **media)
    timeline._current = timeline._add(TimelineItem(pool_item, 86_400, 86_448, **item))
    timeline._marks = {"video": {"in": 5, "out": 9}}
    deliver = project._deliver_page()
    session = selection.open_session(resolve)
    target = selection.targets(session)[0]
    source, why = selection.own_source(session, target)
    assert source is None and why
    made = rendering.render(session, target, str(tmp_path / "proxies"), why=why)
    assert Path(made.path).is_file() and (made.start, made.end) == (0, 2) and made.why_rendered == why
    assert Path(made.path).suffix == ".mp4"
    settings = project._rendered[0]
    assert (settings["MarkIn"], settings["MarkOut"], settings["SelectAllFrames"]) == (86_400, 86_447, False)
    assert (settings["FormatWidth"], settings["FormatHeight"]) == (640, 360)
    # Page, marks, queue and the Deliver page are as before.
    assert resolve._page == "edit" and timeline._marks == {"video": {"in": 5, "out": 9}}
    assert project._deliver_page() == deliver and project._render_jobs == {}


def test_a_rendering_that_fails_is_told_and_leaves_everything_as_it_was(tmp_path: Path) -> None:
    resolve, project, timeline = build()
    timeline._current = timeline._add(TimelineItem(None, 86_400, 86_448))
    project._rendering_fails = "no licence for this codec"
    deliver = project._deliver_page()
    session = selection.open_session(resolve)
    with pytest.raises(ResolveProblem, match="licence"):
        rendering.render(session, selection.targets(session)[0], str(tmp_path), why="a title")
    assert resolve._page == "edit" and timeline._marks == {} and project._render_jobs == {}
    assert project._deliver_page() == deliver


def test_a_rendering_that_does_not_end_is_stopped_and_leaves_everything_as_it_was(tmp_path: Path) -> None:
    resolve, project, timeline = build()
    timeline._current = timeline._add(TimelineItem(None, 86_400, 86_448))
    project._rendering_hangs = True
    deliver = project._deliver_page()
    session = selection.open_session(resolve)
    with pytest.raises(ResolveProblem, match="Rendering"):
        rendering.render(
            session, selection.targets(session)[0], str(tmp_path), why="a title", sleep=lambda seconds: None
        )
    assert not project._rendering_hangs and project._render_jobs == {}
    assert resolve._page == "edit" and project._deliver_page() == deliver


def test_a_folder_for_proxies_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    resolve, project, timeline = build()
    timeline._current = timeline._add(TimelineItem(None, 86_400, 86_448))
    (tmp_path / "proxies").write_text("a file")
    session = selection.open_session(resolve)
    with pytest.raises(ResolveProblem, match="proxies"):
        rendering.render(session, selection.targets(session)[0], str(tmp_path / "proxies"), why="a title")
    assert project._rendered == []


def test_where_no_preset_can_be_kept_the_size_that_is_set_stays_as_it_is(tmp_path: Path) -> None:
    resolve, project, timeline = build()
    timeline._current = timeline._add(TimelineItem(None, 86_400, 86_448))
    project._keeps_presets = False
    project._settings = {"FormatWidth": 3840}
    session = selection.open_session(resolve)
    made = rendering.render(session, selection.targets(session)[0], str(tmp_path), why="a title")
    assert Path(made.path).is_file()
    assert project._settings["FormatWidth"] == 3840 and "FormatHeight" not in project._settings
    assert (project._format["codec"], project._mode) == ("ProRes422", 0)


def test_sounds_get_tracks_of_their_own_of_exact_length_with_a_marker(
    profile: Profile, wav: str, tmp_path: Path
) -> None:
    resolve, project, timeline = build(profile)
    timeline._tracks["audio"][0]["items"].append(
        TimelineItem(MediaPoolItem("/music.wav"), 86_400, 90_000, kind="audio")
    )
    timeline._current = timeline._add(TimelineItem(MediaPoolItem("/a.mov"), 86_400, 86_448))
    session = selection.open_session(resolve)
    target = selection.targets(session)[0]
    second = tmp_path / "second.wav"
    second.write_bytes(b"RIFF")
    bin_before = project._pool._current
    for number, file in enumerate([wav, str(second), wav], 1):
        found = placement.place(session, target, file, about={"job": f"job-{number}", "caption": "rain"})
        name = "VATT" if number == 1 else f"VATT {number}"
        assert (found.track, found.start, found.frames, found.marked) == (name, 86_400, 48, True)
        assert sounds_of(timeline)[name] == [(86_400, 86_448)]
    assert sounds_of(timeline)["Audio 1"] == [(86_400, 90_000)]
    assert timeline._tracks["audio"][1]["layout"] == "mono"
    assert project._pool._current is bin_before
    assert [folder._name for folder in project._pool._root._folders] == ["VATT"]
    # The second import of one file finds the first.
    assert len(project._pool._root._folders[0]._clips) == 2
    assert json.loads(timeline._markers[0]["customData"])["job"] == "job-1"
    assert (placement.last_made(session, target) or {})["job"] == "job-3"


def test_a_free_stretch_of_the_track_is_used_and_a_locked_track_is_not(wav: str) -> None:
    resolve, _, timeline = build()
    session = selection.open_session(resolve)
    early, late = selection.Target("a", 86_400, 86_448), selection.Target("b", 86_448, 86_500)
    assert placement.place(session, early, wav, about={}).track == "VATT"
    assert placement.place(session, late, wav, about={}).track == "VATT"
    timeline._tracks["audio"][1]["locked"] = True
    assert placement.place(session, selection.Target("c", 87_000, 87_010), wav, about={}).track == "VATT 2"


def test_a_version_that_counts_the_end_otherwise_is_corrected_by_what_is_read_back(wav: str) -> None:
    for exclusive in (True, False):
        for version in ((20, 0), (21, 0), (22, 0)):
            odd = Profile("odd", version, menu=True, external=True, selected_clips=True, exclusive_end=exclusive)
            resolve, _, timeline = build(odd)
            session = selection.open_session(resolve)
            found = placement.place(session, selection.Target("a", 86_400, 86_448), wav, about={})
            assert found.frames == 48 and sounds_of(timeline)["VATT"] == [(86_400, 86_448)]


def test_a_silent_refusal_is_told(wav: str) -> None:
    resolve, _, timeline = build()
    timeline._drop_everything = True
    session = selection.open_session(resolve)
    with pytest.raises(ResolveProblem, match="86400"):
        placement.place(session, selection.Target("a", 86_400, 86_448), wav, about={})
    with pytest.raises(ResolveProblem, match="import"):
        placement.place(session, selection.Target("a", 86_400, 86_448), "/no/such.wav", about={})


def test_what_is_not_there_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    for profile in (FREE_21_1, STUDIO_20):
        resolve = Resolve(profile, None)
        module = type("module", (), {"scriptapp": staticmethod(lambda name, resolve=resolve: scriptapp(resolve))})
        monkeypatch.setitem(__import__("sys").modules, "DaVinciResolveScript", module)
        if profile.external:
            with pytest.raises(ResolveProblem, match="project"):
                selection.open_session(api.find_resolve())
        else:
            with pytest.raises(ResolveProblem, match="free version"):
                api.find_resolve()
    with pytest.raises(ResolveProblem, match="timeline"):
        selection.open_session(Resolve(STUDIO_20, Project(STUDIO_20)))
