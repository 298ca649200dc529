"""Where sounds go and which of them are heard, without Blender."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from vatt_sequencer import takes, targets
from vatt_sequencer.channels import HIGHEST, NoFreeChannel, Occupied, free_channel
from vatt_sequencer.takes import PlacedTake, Record

strips = some.lists(
    some.builds(
        lambda channel, first, length: Occupied(channel, first, first + length),
        some.integers(1, 12), some.integers(-50, 200), some.integers(1, 80),
    )
)  # fmt: skip


@settings(deadline=None)
@given(
    taken=strips,
    first=some.integers(-50, 200),
    length=some.integers(1, 100),
    beside=some.integers(1, 12),
    below=some.booleans(),
)
def test_never_over_another_strip(taken: list[Occupied], first: int, length: int, beside: int, below: bool) -> None:
    channel = free_channel(taken, first=first, last=first + length, beside=beside, below=below)
    assert not [item for item in taken if item.channel == channel and item.first < first + length and first < item.last]


def test_nearest_free_channel_on_the_side_that_is_wanted() -> None:
    film = Occupied(5, 0, 100)
    assert free_channel([film], first=0, last=100, beside=5, below=True) == 4
    assert free_channel([film], first=0, last=100, beside=5, below=False) == 6
    assert free_channel([film, Occupied(4, 99, 120)], first=0, last=100, beside=5, below=True) == 3
    assert free_channel([film, Occupied(4, 100, 120)], first=0, last=100, beside=5, below=True) == 4


def test_other_side_when_the_wanted_one_is_full() -> None:
    assert free_channel([Occupied(1, 0, 100)], first=0, last=100, beside=1, below=True) == 2


def test_channels_of_our_name_come_first_and_blocked_ones_never() -> None:
    assert free_channel([], first=0, last=9, beside=5, below=True, named={2}) == 2
    assert free_channel([Occupied(5, 0, 9), Occupied(2, 0, 3)], first=0, last=9, beside=5, below=True, named={2}) == 4
    assert free_channel([], first=0, last=9, beside=5, below=True, blocked={4, 3}) == 2


def test_no_channel_is_an_error() -> None:
    full = [Occupied(channel, 0, 10) for channel in range(1, HIGHEST + 1)]
    with pytest.raises(NoFreeChannel):
        free_channel(full, first=5, last=6, beside=1, below=True)


def test_sound_stays_with_its_pictures() -> None:
    where = dict(offset=10, length=50, content_start=100)
    assert targets.place(**where, left=110, right=160) == targets.Place(110, 110, 160)
    moved = targets.place(offset=10, length=50, content_start=300, left=310, right=360)
    assert moved == targets.Place(310, 310, 360)
    trimmed = targets.place(**where, left=120, right=150)
    assert trimmed == targets.Place(110, 120, 150)
    elsewhere = targets.place(**where, left=400, right=450)
    assert elsewhere == targets.Place(110, 110, 160)


def test_strip_between_two_frames_takes_its_sound_along_by_whole_frames() -> None:
    for start in (-1.5, -0.5, 0.5, 1.5, 2.5, 7.25, 7.75):
        assert targets.whole_frame(start + 1) == targets.whole_frame(start) + 1
        assert abs(targets.whole_frame(start) - start) <= 0.5


def test_strip_is_found_again() -> None:
    wanted = targets.Target("a", "Scene", "film", "/film.mp4")
    other = targets.Candidate("", "Scene", "other", "/film.mp4")
    renamed = targets.Candidate("a", "Scene", "renamed", "/film.mp4")
    duplicate = targets.Candidate("a", "Scene", "film.001", "/film.mp4")
    original = targets.Candidate("a", "Scene", "film", "/film.mp4")
    undone = targets.Candidate("", "Scene", "film", "/film.mp4")
    namesake = targets.Candidate("b", "Scene", "film", "/film.mp4")
    assert targets.find(wanted, [other, renamed]) == 1
    assert targets.find(wanted, [duplicate, original]) == 1
    assert targets.find(wanted, [other, undone]) == 1
    assert targets.find(wanted, [other, namesake]) is None
    assert targets.find(wanted, [targets.Candidate("", "Scene", "film", "/film.mp4", "/another.blend")]) is None


def record(take: int = 0, offset: int = 0, length: int = 100, **more: object) -> Record:
    return Record(
        of="a", job="j", take=take, caption="rain", seed=take, model="nano", wav="/rain.wav", offset=offset,
        length=length, **more,
    )  # type: ignore[arg-type]  # fmt: skip


def test_record_survives_as_text() -> None:
    kept = record(request={"prompt": "Regen, „leise“", "loudness": None, "takes": 2})
    assert Record.from_text(kept.to_text()) == kept
    for damaged in (
        None,
        3,
        "",
        "[]",
        "null",
        "{",
        '{"of": "a"}',
        kept.to_text().replace('"version": 1', '"version": 9'),
    ):
        assert Record.from_text(damaged) is None


def test_only_one_take_of_the_same_pictures_is_heard() -> None:
    first, second = PlacedTake("rain", record(0), False), PlacedTake("rain 2", record(1), True)
    apart = PlacedTake("later", record(0, offset=100), False)
    assert takes.only([first, second, apart], "rain 2") == {"rain": True, "rain 2": False}
    assert takes.picked([first, second]) == first
    assert takes.picked([second]) == second
    assert takes.picked([]) is None


@settings(deadline=None)
@given(caption=some.text(), take=some.integers(0, 15))
def test_strip_names_fit_blender(caption: str, take: int) -> None:
    name = takes.strip_name(caption, take)
    assert 0 < len(name.encode("utf-8", "surrogatepass")) <= 63
