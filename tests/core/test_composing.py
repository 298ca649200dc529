"""Windows, shots and passes with a generator that writes down what it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from vatt_core.composing import (
    ROWS_AT_ONCE,
    ROWS_ON_A_CPU,
    Shot,
    compose,
    join_ends,
    plan_rows,
    shift_codes,
    window_features,
)
from vatt_core.model.choosing import DecodingOptions
from vatt_core.timing import Timing
from vatt_core.windows import plan_span, plan_windows, shot_borders

OFFICIAL = Timing()
NANO = Timing(frame_rate=Fraction(20), video_token_rate=Fraction(5), codebook_size=512)
MASK = OFFICIAL.mask


class Recorder:
    """Fills what is undecided with a number per call, and remembers each call."""

    def __init__(self, timing: Timing = OFFICIAL) -> None:
        self.timing = timing
        self.calls: list[dict[str, Any]] = []

    def sound_codes(self, features: Tensor, prompts: Sequence[str], *, known: Tensor, **more: Any) -> Tensor:
        number = len(self.calls)
        self.calls.append({"features": features, "prompts": list(prompts), "known": known.clone(), **more})
        assert features.shape[1] == self.timing.frames and known.shape[2] == self.timing.code_frames
        return torch.where(known == self.timing.mask, number, known)


def shot(first: int, last: int, timing: Timing = OFFICIAL, prompt: str = "x", level: float = 0.0) -> Shot:
    frames = timing.frames_in(Fraction(last - first) / timing.code_rate)
    features = torch.arange(frames, dtype=torch.float32)[:, None].expand(-1, 3) + level
    return Shot(first, last, features, prompt)


def blank(length: int, takes: int = 1, timing: Timing = OFFICIAL) -> Tensor:
    return torch.full((takes, timing.codebooks, length), timing.mask, dtype=torch.int64)


def made(
    codes: Tensor, shots: Sequence[Shot], seeds: Sequence[int] = (1,), *, device: str = "cpu", **options: Any
) -> Recorder:
    recorder = Recorder()
    reference = options.get("reference")
    lead = 0 if reference is None else reference.shape[1] // recorder.timing.codes_per_video_token
    groups = plan_rows(codes, shots, seeds, recorder.timing, device=torch.device(device), lead_tokens=lead)
    compose(recorder, codes, shots, groups, options=DecodingOptions(), **options)
    return recorder


@pytest.mark.parametrize(("device", "at_once"), [("cpu", ROWS_ON_A_CPU), ("cuda", ROWS_AT_ONCE)])
@pytest.mark.parametrize("seconds", [0.02, 1.3, 9.99, 10, 10.02, 13.7, 60, 3600])
def test_every_code_of_every_length_is_decided_in_two_passes_of_bounded_groups(
    seconds: float, device: str, at_once: int
) -> None:
    length = OFFICIAL.code_frames_in(Fraction(str(seconds)))
    codes = blank(length)
    recorder = made(codes, [shot(0, length)], device=device)
    assert bool((codes != MASK).all())
    windows = plan_windows(Fraction(str(seconds)), OFFICIAL)
    assert sum(len(call["prompts"]) for call in recorder.calls) == len(windows)
    assert all(len(call["prompts"]) <= at_once for call in recorder.calls)
    even, odd = len(windows[0::2]), len(windows[1::2])
    assert len(recorder.calls) == -(-even // at_once) + -(-odd // at_once)


def test_takes_of_a_clip_go_together_also_on_a_cpu() -> None:
    codes = blank(500, takes=6)
    assert [len(call["prompts"]) for call in made(codes, [shot(0, 500)], seeds=range(6)).calls] == [6]


def test_no_shot_sees_codes_or_pictures_of_another() -> None:
    borders = shot_borders([Fraction(7, 2), Fraction(1701, 100), Fraction(18)], 1500, OFFICIAL)
    assert borders == [(0, 175), (175, 851), (851, 900), (900, 1500)]
    shots = [shot(a, b, prompt=str(n), level=1000.0 * n) for n, (a, b) in enumerate(borders)]
    codes = blank(1500)
    recorder = made(codes, shots)
    assert bool((codes != MASK).all())
    for call in recorder.calls:
        for prompt, features in zip(call["prompts"], call["features"], strict=True):
            assert set((features // 1000).unique().tolist()) == {float(prompt)}
    # In the first pass nothing at all is known, whatever the neighbours have decided.
    assert bool((recorder.calls[0]["known"] == MASK).all())


def test_takes_differ_in_their_seeds_alone_and_windows_have_seeds_of_their_own() -> None:
    codes = blank(1000, takes=2)
    recorder = made(codes, [shot(0, 1000)], seeds=(5, 9))
    seeds = [seed for call in recorder.calls for seed in call["seeds"]]
    assert len(set(seeds)) == len(seeds)
    alone = made(blank(1000), [shot(0, 1000)], seeds=(9,))
    assert {seed for call in alone.calls for seed in call["seeds"]} < set(seeds)


@pytest.mark.parametrize("timing", [OFFICIAL, NANO], ids=["official", "nano"])
def test_a_small_region_takes_one_window_that_shows_both_sides(timing: Timing) -> None:
    for first, last, codes in ((700, 760, 3000), (0, 30, 3000), (2950, 3000, 3000), (10, 20, 90)):
        (window,) = plan_span(first, last, codes, timing)
        assert (window.keep_from, window.keep_to) == (first, last)
        assert window.first_code % timing.codes_per_video_token == 0 and window.first_code >= 0
        end = window.first_code + timing.code_frames
        assert window.first_code <= max(0, first - 50) and end >= min(codes, last + 50)
    assert plan_span(5, 5, 100, timing) == []


def test_a_large_region_is_tiled_between_what_is_known() -> None:
    codes = torch.zeros((1, 4, 4000), dtype=torch.int64)
    codes[:, :, 700:2300] = MASK
    before = codes.clone()
    recorder = made(codes, [shot(0, 4000)])
    assert bool((codes != MASK).all())
    assert torch.equal(codes[:, :, :700], before[:, :, :700]) and torch.equal(codes[:, :, 2300:], before[:, :, 2300:])
    rows = sum(len(call["prompts"]) for call in recorder.calls)
    assert rows <= len(plan_windows(Fraction(40), OFFICIAL))
    assert bool((recorder.calls[0]["known"] == 0).any())


def test_a_reference_stands_before_each_window_and_is_not_kept() -> None:
    reference = torch.full((4, 100), 77)
    codes = blank(1234)
    recorder = made(codes, [shot(0, 1234)], reference=reference)
    assert bool((codes != MASK).all()) and not bool((codes == 77).any())
    for call in recorder.calls:
        assert bool((call["known"][:, :, :100] == 77).all())
        # The first picture is held meanwhile.
        assert torch.equal(call["features"][:, :10], call["features"][:, 10:11].expand(-1, 10, -1))


def test_features_hold_the_last_frame() -> None:
    own = shot(0, 60)
    (window,) = plan_windows(Fraction(6, 5), OFFICIAL)
    features = window_features(own.features, window, OFFICIAL)
    assert features[:, 0].tolist() == [0, 1, 2, 3, 4, 5] + [5] * 44


def test_the_ends_of_a_loop_meet_in_the_middle() -> None:
    codes = torch.arange(400)[None, None].expand(1, 4, -1).clone()
    turned, own, by = join_ends(codes, shot(0, 400), OFFICIAL)
    hidden = (turned[0, 0] == MASK).nonzero()[:, 0].tolist()
    assert hidden == list(range(min(hidden), max(hidden) + 1)) and by % OFFICIAL.codes_per_video_token == 0
    back = torch.roll(turned, by, dims=2)[0, 0]
    kept = back != MASK
    assert torch.equal(back[kept], torch.arange(400)[kept]) and not kept[0] and not kept[-1]
    assert own.features[0, 0] == by / 10


def test_codes_are_shifted_within_their_shots() -> None:
    codes = torch.arange(100)[None].expand(4, -1)
    shots = [shot(0, 40), shot(40, 100)]
    later, earlier = (shift_codes(codes, shots, by, MASK)[0] for by in (5, -5))
    assert later[:5].eq(MASK).all() and later[40:45].eq(MASK).all()
    assert torch.equal(later[5:40], torch.arange(35)) and torch.equal(later[45:], torch.arange(40, 95))
    assert torch.equal(earlier[:35], torch.arange(5, 40)) and earlier[95:].eq(MASK).all()
