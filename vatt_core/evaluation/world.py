"""Everything that nano must do, measured on held-out clips of the world: captions, codec, generation.

Each part can be measured alone, also while a model is trained: `evaluate_captions`, `evaluate_codec` and
`evaluate_generation` take what they need as functions or modules and return rows. `evaluate_world` does all of it with
a pipeline. True sound goes through the same measures: that is the ceiling beside each figure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from vatt_core.errors import BadRequest
from vatt_core.evaluation.captions import CaptionFigures, measure_captions
from vatt_core.evaluation.clips import ClipStore, evaluation_scenes, partners, strangers
from vatt_core.evaluation.judge import Judge, load_judge
from vatt_core.evaluation.metrics import Score, Wave, log_mel_distance, mean_level_error
from vatt_core.evaluation.report import Row, WorldReport
from vatt_core.evaluation.sound import SoundFigures, both_materials_heard, is_look_alike, measure_sound
from vatt_core.model.codec import Codec
from vatt_core.pipeline import Pipeline
from vatt_core.timing import Timing
from vatt_core.world.kinds import MATERIALS
from vatt_core.world.scene import Scene, Split
from vatt_core.world.sound import synthesise

Item = TypeVar("Item")

PARTS = ("captions", "codec", "generation", "suggested")
DEFAULT_PARTS = PARTS[:3]
SUGGESTIONS = 3

Progress = Callable[[str, int, int], None]
Suggest = Callable[[Scene], Sequence[str]]
"""Three captions of a clip, best first."""
Compose = Callable[[Sequence[Scene], Sequence[str], Sequence[int]], Sequence[Wave]]
"""Soundtracks of clips, one per clip, from a prompt and a seed for each."""


@dataclass(frozen=True)
class TrueSound:
    """The true sound of clips of one group, and how it does by the measures for generated sound."""

    scenes: list[Scene]
    waves: list[Wave]
    figures: SoundFigures

    @property
    def group(self) -> str:
        return group_of(self.scenes)


def group_of(scenes: Sequence[Scene]) -> str:
    """ "single" when every clip shows one thing in one scene, else "double"."""
    return "single" if all(scene.layout == "single" for scene in scenes) else "double"


def true_sound(scenes: Sequence[Scene], *, judge: Judge | None = None) -> TrueSound:
    """The ceiling that the codec and the generated sound of these clips are held against."""
    judge = judge or load_judge()
    clips = list(scenes)
    waves = [synthesise(scene, sample_rate=judge.sample_rate) for scene in clips]
    return TrueSound(clips, waves, measure_sound(judge, clips, waves))


def evaluate_captions(suggest: Suggest, scenes: Sequence[Scene], *, progress: Progress | None = None) -> list[Row]:
    """Rows of kinds and attributes (from the first caption) and of the three suggestions."""
    clips = list(scenes)
    said: list[Sequence[str]] = []
    for scene in clips:
        said.append(suggest(scene))
        _tell(progress, "captions", len(said), len(clips))
    own = measure_captions(clips, said, wanted=SUGGESTIONS)
    alike, others = (_said_of(clips, said, whose) for whose in (partners(clips), strangers(clips)))
    group = group_of(clips)

    def row(key: str, choose: Callable[[CaptionFigures], Score]) -> Row:
        score = choose(own)
        controls = {"same kind": choose(alike).value, "random": choose(others).value}
        return Row(key, group, score.value, len(clips), controls=controls, parts=score.parts)

    return [
        row("caption_kind", lambda figures: figures.kinds),
        row("caption_attributes", lambda figures: figures.attributes),
        row("caption_all_attributes", lambda figures: figures.all_attributes),
        row("suggestions", lambda figures: figures.suggestions),
    ]


def _said_of(scenes: list[Scene], said: list[Sequence[str]], whose: list[int | None]) -> CaptionFigures:
    """The captions of other clips, held against these: what is right by chance."""
    pairs = [(scene, said[other]) for scene, other in zip(scenes, whose, strict=True) if other is not None]
    return measure_captions([scene for scene, _ in pairs], [texts for _, texts in pairs], wanted=SUGGESTIONS)


def evaluate_codec(
    codec: Codec,
    true: TrueSound,
    *,
    judge: Judge | None = None,
    batch: int = 8,
    progress: Progress | None = None,
) -> list[Row]:
    """Rows of true sound through encode and decode. Raises BadRequest for a codec of another rate than the judge's."""
    judge = judge or load_judge()
    _check_rate(codec.timing, judge)
    made: list[Wave] = []
    for waves in _chunks(true.waves, batch):
        made += through_codec(codec, waves)
        _tell(progress, "codec", len(made), len(true.waves))
    figures = measure_sound(judge, true.scenes, made)
    count, group, rate = len(made), true.group, judge.sample_rate
    pairs = [(index, other) for index, other in enumerate(partners(true.scenes)) if other is not None]
    level, signed = mean_level_error(made, true.waves)
    kinds = ["+".join(source.kind for source in scene.sources) for scene in true.scenes]
    distances = Score.mean(
        (kind, log_mel_distance(wave, target, rate)) for kind, wave, target in zip(kinds, made, true.waves, strict=True)
    )
    level_alike = mean_level_error([true.waves[j] for _, j in pairs], [true.waves[i] for i, _ in pairs])[0]
    mel_alike = Score.mean(("", log_mel_distance(true.waves[j], true.waves[i], rate)) for i, j in pairs).value
    return [
        *_heard_rows("codec", figures, true),
        Row("codec_level", group, level, count, 0.0, {"same kind": level_alike}, {"signed mean": signed}),
        Row("codec_log_mel", group, distances.value, count, 0.0, {"same kind": mel_alike}, distances.parts),
    ]


def through_codec(codec: Codec, waves: Sequence[Wave]) -> list[Wave]:
    """Waves of one length, encoded and decoded, cut to that length."""
    device = codec.codebooks().device
    batch = torch.from_numpy(np.stack(waves)).to(device)
    with torch.inference_mode():
        made = codec.decode(codec.encode(batch))
    return list(made[:, : batch.shape[1]].float().cpu().numpy())


def evaluate_generation(
    compose: Compose,
    true: TrueSound,
    *,
    judge: Judge | None = None,
    batch: int = 8,
    progress: Progress | None = None,
) -> list[Row]:
    """Rows of soundtracks from each clip and its own caption, and of steering.

    For steering, look-alike clips are generated once more by the same seed, with the other material in the caption.
    """
    judge = judge or load_judge()
    scenes = true.scenes
    own = [(index, scene.caption) for index, scene in enumerate(scenes)]
    look_alikes = [index for index, scene in enumerate(scenes) if is_look_alike(scene)]
    swapped = [
        (index, caption)
        for index in look_alikes
        for caption in (scenes[index].with_material(material).caption for material in MATERIALS)
        if caption != scenes[index].caption
    ]
    made: dict[tuple[int, str], Wave] = {}
    for chunk in _chunks([*own, *swapped], batch):
        chosen = [scenes[index] for index, _ in chunk]
        waves = compose(chosen, [caption for _, caption in chunk], [scene.seed for scene in chosen])
        made.update(zip(chunk, waves, strict=True))
        _tell(progress, "generation", len(made), len(own) + len(swapped))

    waves_of_own = [made[key] for key in own]
    figures = measure_sound(judge, scenes, waves_of_own)
    group, count, ceiling = true.group, len(scenes), true.figures
    level, signed = mean_level_error(waves_of_own, true.waves)
    rows = [
        *_heard_rows("generated", figures, true),
        Row(
            "generated_margin",
            group,
            figures.margin,
            figures.onsets_shuffled.count,
            ceiling.margin,
            {"same-kind F1": figures.onsets_shuffled.value},
        ),
        Row("generated_level", group, level, count, 0.0, parts={"signed mean": signed}),
        Row(
            "force",
            group,
            figures.force.value,
            figures.force.count,
            ceiling.force.value,
            {"same kind": figures.force_shuffled.value},
            figures.force.parts,
        ),
    ]
    if look_alikes:
        rows.append(_steering_row(judge, scenes, look_alikes, made, group))
    return rows


def evaluate_suggested(
    suggest: Suggest,
    compose: Compose,
    true: TrueSound,
    *,
    judge: Judge | None = None,
    batch: int = 8,
    progress: Progress | None = None,
) -> list[Row]:
    """Rows of soundtracks from the picture alone: the prompt is the model's own first suggestion."""
    judge = judge or load_judge()
    made: list[Wave] = []
    for scenes in _chunks(true.scenes, batch):
        prompts = [next(iter(suggest(scene)), "") for scene in scenes]
        made += compose(scenes, prompts, [scene.seed for scene in scenes])
        _tell(progress, "suggested", len(made), len(true.scenes))
    rows = _heard_rows("suggested", measure_sound(judge, true.scenes, made), true)
    # Which material a look-alike has cannot be seen, so it cannot be suggested.
    return [row for row in rows if row.key != "suggested_material"]


def _steering_row(
    judge: Judge, scenes: list[Scene], look_alikes: list[int], made: dict[tuple[int, str], Wave], group: str
) -> Row:
    chosen = [scenes[index] for index in look_alikes]
    wooden, metal = (
        [made[index, scenes[index].with_material(material).caption] for index in look_alikes] for material in MATERIALS
    )
    true_wooden, true_metal = (
        [synthesise(scene.with_material(material), sample_rate=judge.sample_rate) for scene in chosen]
        for material in MATERIALS
    )
    score = both_materials_heard(judge, chosen, wooden, metal)
    ceiling = both_materials_heard(judge, chosen, true_wooden, true_metal).value
    return Row("steering", group, score.value, score.count, ceiling, {"words ignored": 0.0}, score.parts)


def _heard_rows(prefix: str, figures: SoundFigures, true: TrueSound) -> list[Row]:
    """Kind, material and onsets of a set of soundtracks beside those of the true sound."""
    group, ceiling = true.group, true.figures
    kinds, materials, onsets = figures.kinds, figures.materials, figures.onsets
    controls = {"same kind": figures.onsets_shuffled.value, "random": figures.onsets_random.value}
    rows = [
        Row(
            f"{prefix}_kind",
            group,
            kinds.value,
            len(true.scenes),
            ceiling.kinds.value,
            {"random": figures.kinds_random.value},
            kinds.parts,
        ),
        Row(f"{prefix}_onsets", group, onsets.value, onsets.count, ceiling.onsets.value, controls, onsets.parts),
    ]
    if materials.count:
        rows.append(
            Row(
                f"{prefix}_material",
                group,
                materials.value,
                materials.count,
                ceiling.materials.value,
                {"chance": 0.5},
                materials.parts,
            )
        )
    return rows


class PipelineUnderTest:
    """A pipeline as the functions that the evaluations call. Features and captions of each clip are computed once."""

    def __init__(self, pipeline: Pipeline, *, cache: Path | None = None) -> None:
        self.pipeline = pipeline
        self.store = ClipStore(pipeline.timing, image_size=pipeline.config.vision.image_size, cache=cache)
        self._features: dict[str, Tensor] = {}
        self._suggested: dict[str, list[str]] = {}

    def features(self, scene: Scene) -> Tensor:
        """[1, F, D]."""
        key = repr(scene)
        if key not in self._features:
            self._features[key] = self.pipeline.look(self.store.frames(scene)[: self.pipeline.timing.frames])
        return self._features[key]

    def suggest(self, scene: Scene) -> list[str]:
        key = repr(scene)
        if key not in self._suggested:
            found = self.pipeline.caption(self.features(scene), count=SUGGESTIONS, seed=scene.seed)
            self._suggested[key] = [suggestion.text for suggestion in found]
        return self._suggested[key]

    def compose(self, scenes: Sequence[Scene], prompts: Sequence[str], seeds: Sequence[int]) -> list[Wave]:
        features = torch.cat([self.features(scene) for scene in scenes])
        codes = self.pipeline.sound_codes(features, prompts, seeds=seeds)
        return list(self.pipeline.sound(codes).float().cpu().numpy())


def evaluate_world(
    pipeline: Pipeline,
    *,
    single: int = 240,
    double: int = 60,
    parts: Sequence[str] = DEFAULT_PARTS,
    batch: int = 8,
    cache: Path | None = None,
    split: Split = "held_out",
    progress: Progress | None = None,
) -> WorldReport:
    """Measure a pipeline on held-out clips: `single` with one thing, `double` with two kinds or two scenes.

    parts: of PARTS. batch: clips that are generated together. cache: a folder that keeps the rendered pictures.
    progress: called with (part, done, total). Raises BadRequest for an unknown part, no clips, or a model of another
    sample rate than the judge's.

    Choose settings on the split "validation"; the bars are for "held_out".
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise BadRequest(f"There is no part {', '.join(unknown) or 'chosen'}: choose among {', '.join(PARTS)}.")
    if split not in ("held_out", "validation"):
        raise BadRequest(f"Clips of the split {split} measure nothing: choose held_out or validation.", split=split)
    if single + double < 1 or batch < 1:
        raise BadRequest(f"{single + double} clips in batches of {batch} measure nothing: give at least 1.")
    judge = load_judge()
    _check_rate(pipeline.timing, judge)
    under_test = PipelineUnderTest(pipeline, cache=cache)
    rows: list[Row] = []
    heard: dict[str, float] = {}
    seconds: dict[str, float] = {}
    groups = evaluation_scenes(single, double, seconds=float(pipeline.timing.window), split=split)
    for group, scenes in groups.items():
        if not scenes:
            continue

        def tell(part: str, done: int, total: int, group: str = group) -> None:
            _tell(progress, f"{part}, {group}", done, total)

        with _timed(seconds, "pictures"):
            for done, scene in enumerate(scenes):
                if set(parts) - {"codec"}:
                    under_test.features(scene)
                    tell("pictures", done + 1, len(scenes))
        if "captions" in parts:
            with _timed(seconds, "captions"):
                rows += evaluate_captions(under_test.suggest, scenes, progress=tell)
        if set(parts) <= {"captions"}:
            continue
        with _timed(seconds, "true sound"):
            true = true_sound(scenes, judge=judge)
            heard |= {
                f"kind ({group})": true.figures.kinds.value,
                f"material ({group})": true.figures.materials.value,
            }
        if "codec" in parts:
            with _timed(seconds, "codec"):
                rows += evaluate_codec(pipeline.model.codec, true, judge=judge, batch=batch, progress=tell)
        if "generation" in parts:
            with _timed(seconds, "generation"):
                rows += evaluate_generation(under_test.compose, true, judge=judge, batch=batch, progress=tell)
        if "suggested" in parts:
            with _timed(seconds, "suggested"):
                suggest, compose = under_test.suggest, under_test.compose
                rows += evaluate_suggested(suggest, compose, true, judge=judge, batch=batch, progress=tell)
    return WorldReport(
        split=split,
        model=pipeline.name,
        model_hash=pipeline.model_hash,
        clips={group: len(scenes) for group, scenes in groups.items()},
        rows=tuple(rows),
        judge=heard,
        seconds=seconds,
    )


def _check_rate(timing: Timing, judge: Judge) -> None:
    if timing.sample_rate != judge.sample_rate:
        raise BadRequest(
            f"The judge hears {judge.sample_rate} Hz, this model makes {timing.sample_rate} Hz: "
            "only models of the judge's rate can be measured."
        )


def _chunks(values: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _tell(progress: Progress | None, part: str, done: int, total: int) -> None:
    if progress is not None:
        progress(part, done, total)


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    seconds[part] = seconds.get(part, 0.0) + time.monotonic() - begun
