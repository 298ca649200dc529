"""Clip → frames → features → captions → codes → wave → files. The only place that knows the order.

:class:`Pipeline` has two levels. `look`, `caption`, `condition`, `sound_codes` and `sound` are the steps on tensors,
which training and evaluation use; `suggest` and `generate` are what an editor asks for, on files.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vatt_core.errors import BadRequest
from vatt_core.files import all_or_nothing
from vatt_core.media.frames import read_frames
from vatt_core.media.probe import ClipInfo, clip_range, probe
from vatt_core.media.time_map import TimeMap
from vatt_core.model.captioning import SamplingSettings
from vatt_core.model.decoding import Condition, DecodingOptions, generate_codes
from vatt_core.model.folder import LoadedModel, load_model, model_hash
from vatt_core.model.text import CAPTION_INSTRUCTION, decode_answer, encode_caption_prompt, encode_prompts
from vatt_core.requests import (
    MAX_SEED,
    ClipRequest,
    GenerateRequest,
    GenerateResult,
    Suggestion,
    SuggestRequest,
    SuggestResult,
)
from vatt_core.sidecar import request_from_sidecar
from vatt_core.takes import TakeWriter
from vatt_core.timing import Timing
from vatt_core.weights import find_model
from vatt_core.windows import Window, plan_windows
from vatt_core.work import Progress, Stop, Work

ROWS_AT_ONCE = 8
"""Rows (takes times windows) that go through the audio transformer together."""

REMEMBERED_CLIPS = 4
REMEMBERED_BYTES = 512 << 20
CANDIDATES_PER_CAPTION = 4

PIECE_SECONDS = 60
CONTEXT_SECONDS = 4
"""A long sound is decoded piece by piece, so that memory does not grow with the clip, each with context on both sides."""


@dataclasses.dataclass(frozen=True)
class SeenClip:
    """A clip that has been read: its facts, its range, its frames for pictures and the features of each window."""

    info: ClipInfo
    time_map: TimeMap
    frames: NDArray[np.uint8]
    windows: list[Window]
    features: Tensor


class Pipeline:
    """A loaded model and the steps from a clip to its soundtrack."""

    def __init__(self, model: LoadedModel, name: str) -> None:
        self.model = model
        self.name = name
        self.config = model.config
        self.timing: Timing = model.config.timing
        self.device = model.device
        self._seen: OrderedDict[tuple[Any, ...], SeenClip] = OrderedDict()

    @classmethod
    def load(cls, model: str | Path = "nano", *, device: str = "auto") -> Pipeline:
        """Load a model by name or folder. device: "auto" takes a CUDA GPU where there is one.

        Raises NotFound for an unknown name, BadModel for a damaged folder.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(load_model(find_model(model), device=device), str(model))

    @property
    def model_hash(self) -> str:
        return model_hash(self.model.folder)

    # ---- steps on tensors ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def look(self, frames: NDArray[np.uint8]) -> Tensor:
        """Frames of one window at `timing.frame_rate`, uint8 [N, H, W, 3] -> features [1, F, D].

        N below F holds the last frame. Raises ValueError for no frame or more than a window.
        """
        wanted = self.timing.frames
        if not 0 < len(frames) <= wanted:
            raise ValueError(f"a window has 1 to {wanted} frames, got {len(frames)}")
        features = self.model.vision.encode(torch.from_numpy(np.ascontiguousarray(frames)))
        held = features[-1:].expand(wanted - len(frames), -1)
        return torch.cat([features, held])[None]

    @torch.no_grad()
    def caption(self, features: Tensor, *, count: int, seed: int, temperature: float | None = None) -> list[Suggestion]:
        """Different captions of one clip, features [1, F, D], best first. Fewer than `count` when the model has no more
        to say than that."""
        prompt = encode_caption_prompt(self.model.tokenizer, self.config.converter)
        longest = self.config.converter.max_caption_tokens
        found: dict[str, float] = {}
        # Bolder and bolder until there are enough different ones.
        for round_number, boldness in enumerate((1.0, 1.5, 2.2)):
            settings = SamplingSettings(
                temperature=(temperature or self.config.decoding.caption_temperature) * boldness,
                repetition_penalty=self.config.decoding.caption_repetition_penalty,
                max_new_tokens=longest,
            )
            drawn = self.model.converter.generate_captions(
                features,
                prompt,
                count=count * CANDIDATES_PER_CAPTION,
                settings=settings,
                seed=(seed + round_number) % (2**62),
            )[0]
            for one in drawn:
                text = decode_answer(self.model.tokenizer, one.ids)
                if text and one.finished:
                    # Of the whole text, its end included: a mean per token would favour long repetitions.
                    score = one.mean_log_likelihood * (len(one.ids) + 1)
                    found[text] = max(found.get(text, -np.inf), score)
            if len(found) >= count:
                break
        ranked = sorted(found.items(), key=lambda item: -item[1])[:count]
        return [Suggestion(text, score) for text, score in ranked]

    @torch.no_grad()
    def condition(self, features: Tensor, prompts: Sequence[str]) -> list[Condition]:
        """What the audio transformer is made from: features [B, F, D] and a prompt for each row."""
        ids, mask = encode_prompts(self.model.tokenizer, prompts, self.config.converter)
        ids, mask = ids.to(self.device), mask.to(self.device)
        states = self.model.converter.encode_all_states(features, ids, mask).float()
        video = states.shape[1] - ids.shape[1]
        keep = functional.pad(mask, (video, 0), value=1)
        # Padding stands between video and text: leave it out, so that a row is the same as alone.
        return [Condition(states[row][keep[row] > 0], keep[row][keep[row] > 0]) for row in range(len(prompts))]

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
    ) -> Tensor:
        """Codes [B, K, T] for features [B, F, D], a prompt and a seed for each row. known: see decoding."""
        conditions = self.condition(features, prompts)
        negatives: list[Condition | None] | None = None
        if negative_prompts is not None and any(negative_prompts):
            said = self.condition(features, [text or "" for text in negative_prompts])
            negatives = [one if text else None for one, text in zip(said, negative_prompts, strict=True)]
        return generate_codes(
            self.model.audio_transformer,
            conditions,
            options=options or DecodingOptions.from_defaults(self.config.decoding),
            generators=[torch.Generator().manual_seed(seed) for seed in seeds],
            negatives=negatives,
            known=known,
            progress=progress,
            cancelled=cancelled,
        )

    @torch.no_grad()
    def sound(self, codes: Tensor) -> Tensor:
        """Codes [B, K, T] -> wave [B, T * hop_length] float32 at `timing.sample_rate`."""
        return self.model.codec.decode(codes)

    # ---- what an editor asks for -----------------------------------------------------------------------------------

    def suggest(
        self, request: SuggestRequest, *, progress: Progress | None = None, cancelled: Stop | None = None
    ) -> SuggestResult:
        """Captions of a clip. Raises the errors of the media package, Cancelled, BadRequest."""
        work = Work(progress, cancelled)
        seed = _seed(request.seed)
        clip = self._see(request, work)
        with work.stage("caption", 1):
            captions = self._captions(clip, request.count, seed, request.temperature)
        return SuggestResult(
            captions=tuple(captions),
            model=self.name,
            seed=seed,
            duration=float(clip.time_map.duration),
            seconds=work.seconds,
        )

    def generate(
        self, request: GenerateRequest, *, progress: Progress | None = None, cancelled: Stop | None = None
    ) -> GenerateResult:
        """Soundtracks of a clip, written to `request.output`. Take i has the seed `request.seed + i`.

        Nothing is left behind when it fails or is cancelled. Raises the errors of the media package, Cancelled,
        BadRequest, DiskFull, ForbiddenPath.
        """
        work = Work(progress, cancelled)
        seed = _seed(request.seed)
        clip = self._see(request, work)
        prompt = request.prompt
        if prompt is None:
            with work.stage("caption", 1):
                captions = self._captions(clip, 1, seed, None)
            # A model that has nothing to say is asked for sound as it is in training without captions.
            prompt = captions[0].text if captions else CAPTION_INSTRUCTION[self.config.converter.template]
        seeds = [(seed + take) % (MAX_SEED + 1) for take in range(request.takes)]
        codes = self._compose(clip, request, prompt, seeds, work)
        with work.stage("sound", request.takes) as step:
            waves = []
            for take in codes:
                waves.append(self._long_sound(take).cpu().numpy())
                step()
        writer = TakeWriter(
            info=clip.info,
            time_map=clip.time_map,
            request=request,
            prompt=prompt,
            frames=clip.frames,
            frame_rate=self.timing.frame_rate,
            wave_rate=self.timing.sample_rate,
            model={"name": self.name, "hash": self.model_hash, "device": self.device.type},
        )
        takes = []
        with all_or_nothing(request.output.absolute()) as written, work.stage("write", request.takes) as step:
            for wave, take_seed in zip(waves, seeds, strict=True):
                takes.append(writer.write(wave, take_seed, written))
                step()
        return GenerateResult(
            takes=tuple(takes),
            caption=prompt,
            model=self.name,
            model_hash=self.model_hash,
            duration=float(clip.time_map.duration),
            seconds=work.seconds,
        )

    # ---- how -------------------------------------------------------------------------------------------------------

    def _see(self, request: ClipRequest, work: Work) -> SeenClip:
        """Read the clip and compute its features. The last few clips are remembered while their files stay the same."""
        with work.stage("read", 1):
            info = probe(request.path)
            time_map = clip_range(info, request.start, request.end) if request.time_map is None else request.time_map
            if time_map.source_range[0] >= info.duration:
                raise BadRequest(
                    f"The time map begins at {float(time_map.source_range[0]):g} s of the source, but {info.path.name} "
                    f"lasts {float(info.duration):.3f} s.",
                    field="time_map",
                )
            status = info.path.stat()
            key = (info.path, status.st_mtime_ns, status.st_size, status.st_ino, time_map.points)
            if key in self._seen:
                self._seen.move_to_end(key)
                return self._seen[key]
            frames = read_frames(
                info.path,
                time_map,
                rate=self.timing.frame_rate,
                shortest_side=self.config.vision.image_size,
                cancelled=work.cancelled,
            )
        windows = plan_windows(time_map.duration, self.timing)
        features = []
        with work.stage("look", len(windows)) as step:
            for window in windows:
                features.append(self.look(frames[window.first_frame : window.first_frame + self.timing.frames]))
                step()
        seen = self._seen[key] = SeenClip(info, time_map, frames, windows, torch.cat(features))
        while len(self._seen) > 1 and (
            len(self._seen) > REMEMBERED_CLIPS
            or sum(clip.frames.nbytes for clip in self._seen.values()) > REMEMBERED_BYTES
        ):
            self._seen.popitem(last=False)
        return seen

    def _captions(self, clip: SeenClip, count: int, seed: int, temperature: float | None) -> list[Suggestion]:
        middle = len(clip.windows) // 2
        return self.caption(clip.features[middle : middle + 1], count=count, seed=seed, temperature=temperature)

    def _compose(
        self, clip: SeenClip, request: GenerateRequest, prompt: str, seeds: Sequence[int], work: Work
    ) -> Tensor:
        """Codes [takes, K, T] of the whole clip: even windows, then odd ones between what these decided."""
        options = DecodingOptions.from_defaults(
            self.config.decoding,
            steps=request.steps,
            guidance_scale=request.guidance_scale,
            temperature=request.temperature,
            mask_temperature=request.mask_temperature,
            top_k=request.top_k,
        )
        length = self.timing.code_frames
        codes = torch.full(
            (len(seeds), self.timing.codebooks, clip.windows[-1].keep_to), self.timing.mask, dtype=torch.int64
        )
        passes = [
            [(take, window) for window in clip.windows[first::2] for take in range(len(seeds))] for first in (0, 1)
        ]
        groups = [rows[i : i + ROWS_AT_ONCE] for rows in passes for i in range(0, len(rows), ROWS_AT_ONCE)]
        steps = options.steps
        if options.fill_order == "coarse_first":
            steps = sum(options.steps_per_codebook) or steps * self.timing.codebooks
        with work.stage("compose", steps * len(groups)) as step:
            for rows in groups:
                known = torch.stack([codes[take, :, w.first_code : w.first_code + length] for take, w in rows])
                made = self.sound_codes(
                    torch.cat([clip.features[w.index : w.index + 1] for _, w in rows]),
                    [prompt] * len(rows),
                    seeds=[(seeds[take] + 1_000_003 * w.index) % 2**62 for take, w in rows],
                    options=options,
                    negative_prompts=[request.negative_prompt] * len(rows),
                    known=known,
                    progress=lambda done, total: step(),
                    cancelled=work.cancelled,
                )
                for (take, w), row in zip(rows, made.cpu(), strict=True):
                    kept = row[:, w.keep_from - w.first_code : w.keep_to - w.first_code]
                    codes[take, :, w.keep_from : w.keep_to] = kept
        return codes[:, :, : self.timing.code_frames_in(clip.time_map.duration)].to(self.device)

    def _long_sound(self, codes: Tensor, *, piece_seconds: int = PIECE_SECONDS) -> Tensor:
        """Codes [K, T] of any length -> wave [T * hop_length]."""
        piece, around = (int(seconds * self.timing.code_rate) for seconds in (piece_seconds, CONTEXT_SECONDS))
        hop, waves = self.timing.hop_length, []
        for start in range(0, codes.shape[1], piece):
            first, last = max(0, start - around), start + piece + around
            wave = self.sound(codes[None, :, first:last])[0]
            waves.append(wave[(start - first) * hop :][: piece * hop])
        return torch.cat(waves)


def _seed(seed: int | None) -> int:
    return secrets.randbelow(2**31) if seed is None else seed


__all__ = ["GenerateRequest", "Pipeline", "SuggestRequest", "request_from_sidecar"]
