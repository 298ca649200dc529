"""Clip → frames → features → captions → codes → wave → files. The only place that knows the order.

:class:`Pipeline` has two levels: the steps on tensors (:class:`vatt_core.steps.Steps`), which training and evaluation use, and
`suggest` and `generate`, which are what an editor asks for, on files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vatt_core import scores as scoring
from vatt_core.clap import installed_clap
from vatt_core.composing import compose, join_ends, plan_rows, shift_codes
from vatt_core.earlier import EarlierTake, Ground, ground, load_earlier
from vatt_core.errors import BadRequest
from vatt_core.files import all_or_nothing
from vatt_core.media.probe import ClipInfo
from vatt_core.media.spool import Spool
from vatt_core.media.time_map import TimeMap
from vatt_core.media.watching import motion_curve
from vatt_core.media.waves import read_wave, resample
from vatt_core.model.choosing import DecodingOptions
from vatt_core.model.text import CAPTION_INSTRUCTION
from vatt_core.regions import Splice, border_samples, region_frames, varied
from vatt_core.rendering import looped, rendered
from vatt_core.requests import (
    MAX_SEED,
    PRESETS,
    GenerateRequest,
    GenerateResult,
    SuggestRequest,
    SuggestResult,
)
from vatt_core.seeing import Seeing, SeenClip
from vatt_core.sidecar import request_from_sidecar
from vatt_core.takes import Composed, TakeWriter
from vatt_core.work import Progress, Stop, Work

REFERENCE_SECONDS = Fraction(3)
"""Of a reference sound: the last ones count."""

ENCODE_SECONDS = 30
"""Of an earlier sound that are encoded at once."""


class Pipeline(Seeing):
    """A loaded model and the way from a clip to its soundtrack."""

    # ---- what an editor asks for -----------------------------------------------------------------------------------

    def suggest(
        self, request: SuggestRequest, *, progress: Progress | None = None, cancelled: Stop | None = None
    ) -> SuggestResult:
        """Captions of a clip; of one with several shots, those of the longest. Raises the errors of the media package,
        Cancelled, BadRequest."""
        work = Work(progress, cancelled)
        seed = _seed(request.seed)
        clip = self._see(request, work)
        longest = max(clip.shots, key=lambda shot: shot.codes)
        with work.stage("caption", 1):
            captions = self._captions(longest, request.count, seed, request.temperature)
        return SuggestResult(
            captions=tuple(captions),
            model=self.name,
            seed=seed,
            duration=float(clip.duration),
            cuts=tuple(float(cut) for cut in clip.cuts),
            seconds=work.seconds,
        )

    def generate(
        self, request: GenerateRequest, *, progress: Progress | None = None, cancelled: Stop | None = None
    ) -> GenerateResult:
        """Soundtracks of a clip, written to `request.output`. They have the seeds from `request.seed` on, and come ranked.

        Nothing is left behind when it fails or is cancelled, and no earlier file is touched. Raises the errors of the
        media package, Cancelled, BadRequest, DiskFull, ForbiddenPath.
        """
        work = Work(progress, cancelled)
        seed = _seed(request.seed)
        info, time_map = self._range(request, work)
        earlier, laid = self._earlier(request, info, time_map)
        if earlier is not None and request.prompt is None and not request.prompts:
            # A region without words of its own is filled with what was asked for before.
            kept = {name: value for name, value in earlier.said.items() if getattr(request, name) in (None, ())}
            if request.cuts is not None:
                kept["cuts"] = request.cuts
            request = dataclasses.replace(request, **kept)
        clip = self._see(request, work, cuts=request.cuts, lag=laid.lag if laid else Fraction(0))
        clip, request = self._worded(clip, request, seed, work)
        seeds = [(seed + take) % (MAX_SEED + 1) for take in range(request.takes)]
        codes = self._start(clip, request, laid)
        codes = self._composed(clip, request, codes, seeds, work)
        motion = motion_curve(clip.watched, float(clip.duration))
        nudges: list[float | None] = [None] * len(seeds)
        if request.nudge:
            codes, nudges = self._nudged(clip, request, codes, seeds, motion, work)
        caption = ", then ".join(dict.fromkeys(shot.prompt for shot in clip.shots))
        writer = TakeWriter(
            info=clip.info,
            time_map=clip.time_map,
            request=request,
            caption=caption,
            watched=clip.watched,
            model={"name": self.name, "hash": self.model_hash, "device": self.device.type},
            earlier=earlier,
        )
        with all_or_nothing(request.output.absolute()) as written, contextlib.ExitStack() as spools:
            composed: list[Composed] = []
            with work.stage("sound", len(seeds)) as step:
                for number, take_seed in enumerate(seeds):
                    raw = spools.enter_context(Spool(self.timing.sample_rate, request.output))
                    self._render(codes[number], clip, raw, work, loop=request.loop)
                    agreement = scoring.agreement(scoring.sound_curve(raw), motion)
                    likelihood = self._likelihood(clip, codes[number], work)
                    found: scoring.Scores = {
                        "agreement": None if agreement is None else round(agreement, 4),
                        "likelihood": round(likelihood, 4),
                        "silence": round(scoring.silent_share(raw), 4),
                    }
                    if (clap := installed_clap()) is not None:
                        found["caption"] = round(clap.agreement(raw, caption), 4)
                    if nudges[number] is not None:
                        found["nudge"] = nudges[number]
                    composed.append(
                        Composed(
                            seed=take_seed,
                            raw=raw,
                            codes=codes[number].numpy(),
                            onsets=tuple(round(time, 4) for time in scoring.heard_onsets(raw)),
                            scores=found,
                            lag=clip.lag,
                            splice=self._splice(request, earlier, laid, codes[number].numpy()),
                        )
                    )
                    step()
            order = scoring.ranking([take.scores for take in composed]) if request.rank else range(len(composed))
            takes = []
            with work.stage("write", len(seeds)) as step:
                for number in order:
                    takes.append(writer.write(composed[number], written))
                    step()
        return GenerateResult(
            takes=tuple(takes),
            caption=caption,
            model=self.name,
            model_hash=self.model_hash,
            duration=float(clip.duration),
            cuts=tuple(float(cut) for cut in clip.cuts),
            seconds=work.seconds,
        )

    # ---- wording ---------------------------------------------------------------------------------------------------

    def _worded(
        self, clip: SeenClip, request: GenerateRequest, seed: int, work: Work
    ) -> tuple[SeenClip, GenerateRequest]:
        """The clip with prompts for its shots, and the request with those that were found."""
        count = len(clip.shots)
        for name in ("prompts", "negative_prompts"):
            given = getattr(request, name)
            if given and len(given) != count:
                places = ", ".join(f"{float(cut):.2f} s" for cut in clip.cuts) or "nowhere"
                told = "negative prompts" if name == "negative_prompts" else "prompts"
                raise BadRequest(
                    f"The clip has {count} shot{'s' if count > 1 else ''} (cuts: {places}), and the number of {told} is "
                    f"{len(given)}: give one per shot, or say where the cuts are.",
                    field=name,
                )
        prompts: Sequence[str] = request.prompts or ([request.prompt] * count if request.prompt else [])
        if not prompts:
            with work.stage("caption", count) as step:
                said = []
                for shot in clip.shots:
                    captions = self._captions(shot, 1, seed, None)
                    # A model that has nothing to say is asked for sound as it is in training without captions.
                    said.append(captions[0].text if captions else CAPTION_INSTRUCTION[self.config.converter.template])
                    step()
            prompts = said
        negatives: Sequence[str | None] = request.negative_prompts or [request.negative_prompt] * count
        shots = [
            dataclasses.replace(shot, prompt=text, negative_prompt=negative or None)
            for shot, text, negative in zip(clip.shots, prompts, negatives, strict=True)
        ]
        alike = len(set(prompts)) == 1
        used = dataclasses.replace(
            request,
            prompt=prompts[0] if alike else None,
            prompts=() if alike else tuple(prompts),
            # The same take again must not depend on how cuts are found.
            cuts=clip.cuts,
        )
        return dataclasses.replace(clip, shots=shots), used

    # ---- composing -------------------------------------------------------------------------------------------------

    def _options(self, request: GenerateRequest) -> DecodingOptions:
        preset = dict(PRESETS[request.preset]) if request.preset else {}
        share = preset.pop("steps_share", 1.0)
        if share != 1.0:
            preset["steps"] = max(1, round(self.config.decoding.steps * share))
        names = ("steps", "guidance_scale", "guidance_schedule", "temperature", "mask_temperature", "top_k")
        given = {name: getattr(request, name) for name in names if getattr(request, name) is not None}
        if request.vary is not None:
            # Where only finer codebooks are filled anew, nothing but the draw makes them others.
            given["drawn_codebooks"] = self.timing.codebooks
        return DecodingOptions.from_defaults(self.config.decoding, **{**preset, **given})

    def _earlier(
        self, request: GenerateRequest, info: ClipInfo, time_map: TimeMap
    ) -> tuple[EarlierTake | None, Ground | None]:
        """The earlier take that the request builds on, and what of it lies under the clip."""
        if request.region is not None:
            region_frames(request.region, time_map.duration, self.timing)
        if request.base is None:
            return None, None
        earlier = load_earlier(request, time_map, self.timing, clip=info.path, model_hash=self.model_hash)
        codes = earlier.codes
        if codes is None:
            wave = resample(earlier.sound.wave, earlier.sound.sample_rate, self.timing.sample_rate)
            second = self.timing.sample_rate
            codes = np.concatenate(
                [
                    self.encode(wave[i : i + ENCODE_SECONDS * second]).numpy()
                    for i in range(0, len(wave), ENCODE_SECONDS * second)
                ],
                axis=1,
            )
        return earlier, ground(earlier, codes, time_map.duration, self.timing)

    def _start(self, clip: SeenClip, request: GenerateRequest, laid: Ground | None) -> Tensor:
        """Codes [takes, K, T] to begin with: undecided where something shall be made."""
        mask, frames = self.timing.mask, clip.shots[-1].last
        if laid is None:
            return torch.full((request.takes, self.timing.codebooks, frames), mask, dtype=torch.int64)
        codes = torch.from_numpy(laid.codes.copy())
        chosen = np.zeros(tuple(codes.shape), bool)
        if request.region is not None or request.vary is not None:
            first, last = 0, frames
            if request.region is not None:
                start, end = (time + laid.lag for time in request.region)
                first, last = region_frames((start, end), clip.duration + laid.lag, self.timing)
            share = 1.0 if request.vary is None else request.vary
            chosen[:, first:last] = varied(self.timing.codebooks, last - first, share, request.vary_by)
        elif not bool((codes == mask).any()) and not (request.loop and len(clip.shots) == 1):
            if request.loop:
                raise BadRequest(
                    "The clip has cuts, and a loop is joined within one shot: say that there are none (cuts 'off'), with "
                    "one prompt for all.",
                    field="loop",
                )
            raise BadRequest(
                "The earlier take is as long as the clip: say what shall be made anew (region, vary or loop).",
                field="base",
            )
        codes[torch.from_numpy(chosen)] = mask
        return codes[None].repeat(request.takes, 1, 1)

    def _composed(
        self, clip: SeenClip, request: GenerateRequest, codes: Tensor, seeds: Sequence[int], work: Work
    ) -> Tensor:
        """What is undecided in codes [takes, K, T], filled; in place."""
        options = self._options(request)
        reference = self._reference(request)
        per_token = self.timing.codes_per_video_token
        lead = 0 if reference is None else reference.shape[1] // per_token
        groups = plan_rows(codes, clip.shots, seeds, self.timing, device=self.device, lead_tokens=lead)
        steps = self._steps(options)
        with work.stage("compose", steps * len(groups)) as step:
            compose(self, codes, clip.shots, groups, options=options, reference=reference, step=step,
                    cancelled=work.cancelled)  # fmt: skip
        if request.loop and len(clip.shots) == 1:
            # The other seeds would draw for the joint what they have drawn for the begin.
            others = [(seed + 1) * 7_919 % 2**62 for seed in seeds]
            turned, shot, by = join_ends(codes, clip.shots[0], self.timing)
            groups = plan_rows(turned, [shot], others, self.timing, device=self.device)
            with work.stage("join", steps * len(groups)) as step:
                compose(self, turned, [shot], groups, options=options, step=step, cancelled=work.cancelled)
            codes = torch.roll(turned, by, dims=2)
        return codes

    def _steps(self, options: DecodingOptions) -> int:
        if options.fill_order == "coarse_first":
            return sum(options.steps_per_codebook) or options.steps * self.timing.codebooks
        return options.steps

    def _reference(self, request: GenerateRequest) -> Tensor | None:
        """Codes [K, n] of the end of the reference sound, a whole number of video tokens of them."""
        if request.reference is None:
            return None
        wave = read_wave(request.reference, sample_rate=self.timing.sample_rate)
        if not len(wave) or float(np.abs(wave).max()) < 1e-4:
            raise BadRequest(
                f"{request.reference.name} is silent: name a sound in which something can be heard.", field="reference"
            )
        longest = int(REFERENCE_SECONDS * self.timing.sample_rate)
        codes = self.encode(wave[-longest:])
        per_token = self.timing.codes_per_video_token
        whole = codes.shape[1] // per_token * per_token
        if not whole:
            least = float(1 / self.timing.video_token_rate)
            raise BadRequest(
                f"{request.reference.name} is too short: {least:g} s are the least that says something.",
                field="reference",
            )
        return codes[:, -whole:]

    def _likelihood(self, clip: SeenClip, codes: Tensor, work: Work) -> float:
        """Mean log-likelihood per code of the codes [K, T] of a clip, window by window."""
        total, weight = 0.0, 0
        length, mask = self.timing.code_frames, self.timing.mask
        for shot in clip.shots:
            for first in range(0, shot.codes, length):
                own = codes[:, shot.first + first : min(shot.last, shot.first + first + length)]
                padded = functional.pad(own, (0, length - own.shape[1]), value=mask)
                frame = first // self.timing.codes_per_video_token * self.timing.frames_per_video_token
                window = shot.features[frame : frame + self.timing.frames]
                held = window[-1:].expand(self.timing.frames - len(window), -1)
                work.check()
                found = self.likelihood(torch.cat([window, held])[None], [shot.prompt], padded[None])
                total, weight = total + found[0] * own.shape[1], weight + own.shape[1]
        return total / max(1, weight)

    def _nudged(
        self,
        clip: SeenClip,
        request: GenerateRequest,
        codes: Tensor,
        seeds: Sequence[int],
        motion: NDArray[np.float64],
        work: Work,
    ) -> tuple[Tensor, list[float | None]]:
        """Each take shifted to where it fits the motion best, what comes free filled anew; as it was where that is no
        better. A loop is turned, so that nothing comes free and its ends still meet."""
        ring = request.loop and len(clip.shots) == 1
        step_seconds = float(1 / self.timing.code_rate)

        def curve(own: Tensor) -> NDArray[np.float64]:
            with Spool(self.timing.sample_rate) as raw:
                self._render(own, clip, raw, work, loop=request.loop)
                return scoring.sound_curve(raw)

        before = [curve(own) for own in codes]
        shifts = [round(scoring.best_shift(own, motion) / step_seconds) for own in before]
        tried = torch.stack(
            [
                torch.roll(own, by, dims=1) if ring else shift_codes(own, clip.shots, by, self.timing.mask)
                for own, by in zip(codes, shifts, strict=True)
            ]
        )
        again = [(seed + 1) * 104_729 % 2**62 for seed in seeds]
        groups = plan_rows(tried, clip.shots, again, self.timing, device=self.device)
        options = self._options(request)
        with work.stage("nudge", self._steps(options) * len(groups)) as step:
            compose(self, tried, clip.shots, groups, options=options, step=step, cancelled=work.cancelled)
        nudges: list[float | None] = []
        kept = codes.clone()
        for number, by in enumerate(shifts):
            was = scoring.agreement(before[number], motion)
            now = scoring.agreement(curve(tried[number]), motion) if by else None
            better = was is not None and now is not None and now > was
            nudges.append(round(by * step_seconds, 4) if better else 0.0)
            if better:
                kept[number] = tried[number]
        return kept, nudges

    # ---- sounding --------------------------------------------------------------------------------------------------

    def _render(self, codes: Tensor, clip: SeenClip, raw: Spool, work: Work, *, loop: bool) -> None:
        """Codes [K, T] of a clip as its wave at the model's rate, exactly as long as the clip."""
        samples = max(1, round(clip.duration * self.timing.sample_rate))
        skipped = round(clip.lag * self.timing.sample_rate)
        make = looped if loop else rendered
        for piece in make(self.sound, codes.to(self.device), self.timing, samples=samples, skipped=skipped):
            raw.append(piece)
            work.check()

    def _splice(
        self, request: GenerateRequest, earlier: EarlierTake | None, laid: Ground | None, codes: NDArray[np.int64]
    ) -> Splice | None:
        """Where the new codes [K, T] differ from the earlier ones; None when nothing of the old sound is left."""
        if earlier is None or laid is None:
            return None
        context = self.model.codec.context_frames
        splice = Splice.of(
            (codes != laid.codes).any(0),
            timing=self.timing,
            sample_rate=request.sample_rate,
            border=border_samples(self.timing, context, request.sample_rate),
            old=laid.old,
            lag=-laid.lag,
        )
        return splice if splice.keeps_something else None


def _seed(seed: int | None) -> int:
    return secrets.randbelow(2**31) if seed is None else seed


__all__ = ["GenerateRequest", "Pipeline", "SuggestRequest", "request_from_sidecar"]
