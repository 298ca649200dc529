"""Codes of a whole clip, shot by shot and window by window: new, or what is missing in codes that are there already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vatt_core.model.choosing import DecodingOptions
from vatt_core.timing import Timing
from vatt_core.windows import AROUND, Window, plan_span
from vatt_core.work import Stop

ROWS_AT_ONCE = 8
"""Rows (takes times windows) that go through the audio transformer together."""

ROWS_ON_A_CPU = 4
"""The same on a CPU, unless there are more takes. Eight are a tenth faster there, and take twice the memory beyond the model's:
it would be the length of the clip that decides, as ten seconds are one row."""

WINDOW_SEED = 1_000_003
"""Distance between the seeds of two windows of one take."""


class Generator(Protocol):
    """What composes the codes of single windows: a pipeline."""

    timing: Timing

    def sound_codes(
        self,
        features: Tensor,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        options: DecodingOptions | None = None,
        negative_prompts: Sequence[str | None] | None = None,
        known: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Stop | None = None,
    ) -> Tensor: ...


@dataclass(frozen=True)
class Shot:
    """One shot. first, last: its code frames [first, last) in the clip. features: [frames, D], of its own pictures only."""

    first: int
    last: int
    features: Tensor
    prompt: str = ""
    negative_prompt: str | None = None

    @property
    def codes(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class Row:
    """One window of one take, and the seed of what is drawn for it."""

    take: int
    shot: int
    window: Window
    seed: int


def plan_rows(
    codes: Tensor,
    shots: Sequence[Shot],
    seeds: Sequence[int],
    timing: Timing,
    *,
    device: torch.device,
    lead_tokens: int = 0,
) -> list[tuple[Row, ...]]:
    """What fills the undecided places of codes [takes, K, T], in groups that go through the model on its `device` together:
    two passes, in which all shots and takes go side by side."""
    at_once = ROWS_AT_ONCE if device.type != "cpu" else max(ROWS_ON_A_CPU, min(len(codes), ROWS_AT_ONCE))
    passes: tuple[list[Row], list[Row]] = ([], [])
    offset = 0
    for number, shot in enumerate(shots):
        missing = (codes[:, :, shot.first : shot.last] == timing.mask).any(1)  # [takes, T of the shot]
        anywhere = missing.any(0).nonzero()[:, 0]
        if not len(anywhere):
            continue
        first, last = int(anywhere[0]), int(anywhere[-1]) + 1
        windows = plan_span(first, last, shot.codes, timing, lead_tokens=lead_tokens)
        for window in windows:
            for take, seed in enumerate(seeds):
                if bool(missing[take, window.keep_from : window.keep_to].any()):
                    own = (seed + WINDOW_SEED * (offset + window.index)) % 2**62
                    passes[window.index % 2].append(Row(take, number, window, own))
        offset += windows[-1].index + 1
    return [tuple(rows[i : i + at_once]) for rows in passes for i in range(0, len(rows), at_once)]


def compose(
    generator: Generator,
    codes: Tensor,
    shots: Sequence[Shot],
    groups: Sequence[Sequence[Row]],
    *,
    options: DecodingOptions,
    reference: Tensor | None = None,
    step: Callable[[], None] = lambda: None,
    cancelled: Stop | None = None,
) -> Tensor:
    """Fill the undecided places of codes [takes, K, T] by the groups of `plan_rows`, in place; returns them.

    reference: [K, lead] codes that stand before each window, a whole number of video tokens long: what is composed
    continues them. step: called after each decoding step.
    """
    timing = generator.timing
    for rows in groups:
        known = torch.stack([_known(codes, shots[row.shot], row, timing, reference) for row in rows])
        lead = 0 if reference is None else reference.shape[1]
        made = generator.sound_codes(
            torch.stack([window_features(shots[row.shot].features, row.window, timing, lead=lead) for row in rows]),
            [shots[row.shot].prompt for row in rows],
            seeds=[row.seed for row in rows],
            options=options,
            negative_prompts=[shots[row.shot].negative_prompt or None for row in rows],
            known=known,
            progress=lambda done, total: step(),
            cancelled=cancelled,
        ).cpu()
        for row, filled in zip(rows, made, strict=True):
            window, first = row.window, shots[row.shot].first
            kept = filled[:, lead + window.keep_from - window.first_code : lead + window.keep_to - window.first_code]
            codes[row.take, :, first + window.keep_from : first + window.keep_to] = kept
    return codes


def _known(codes: Tensor, shot: Shot, row: Row, timing: Timing, reference: Tensor | None) -> Tensor:
    """What a window knows, [K, code frames of the window]; undecided beyond the end of its shot."""
    known = torch.full((timing.codebooks, timing.code_frames), timing.mask, dtype=torch.int64)
    lead = 0
    if reference is not None:
        lead = reference.shape[1]
        known[:, :lead] = reference
    begin = shot.first + row.window.first_code
    own = codes[row.take, :, begin : min(shot.last, begin + timing.code_frames - lead)]
    known[:, lead : lead + own.shape[1]] = own
    return known


def window_features(features: Tensor, window: Window, timing: Timing, *, lead: int = 0) -> Tensor:
    """Features [F, D] of a window of a shot [frames, D]; its last frame is held where the shot ends, its first one while
    `lead` code frames of something else go before."""
    before = lead // timing.codes_per_video_token * timing.frames_per_video_token
    own = features[window.first_frame : window.first_frame + timing.frames - before]
    held = own[-1:].expand(timing.frames - before - len(own), -1)
    return torch.cat([own[:1].expand(before, -1), own, held])


def join_ends(codes: Tensor, shot: Shot, timing: Timing) -> tuple[Tensor, Shot, int]:
    """The clip turned so that its end and its beginning meet in the middle, what lies around the joint undecided.

    codes: [takes, K, T] of one shot. Returns the turned codes, the turned shot and by how many code frames it was turned,
    a whole number of video tokens.
    """
    length, per_token = codes.shape[2], timing.codes_per_video_token
    turned_by = length // 2 // per_token * per_token
    frames = turned_by // per_token * timing.frames_per_video_token
    turned = torch.roll(codes, -turned_by, dims=2)
    joint = length - turned_by
    around = min(int(AROUND / 2 * timing.code_rate), length // 4)
    turned[:, :, joint - around : joint + around] = timing.mask
    features = torch.cat([shot.features[frames:], shot.features[:frames]])
    return turned, Shot(0, length, features, shot.prompt, shot.negative_prompt), turned_by


def shift_codes(codes: Tensor, shots: Sequence[Shot], by: int, mask: int) -> Tensor:
    """Codes [K, T] later by `by` code frames (earlier where negative) within each shot; what comes free is undecided."""
    shifted = torch.full_like(codes, mask)
    for shot in shots:
        room = shot.codes - abs(by)
        if room <= 0:
            continue
        to, origin = shot.first + max(0, by), shot.first + max(0, -by)
        shifted[:, to : to + room] = codes[:, origin : origin + room]
    return shifted
