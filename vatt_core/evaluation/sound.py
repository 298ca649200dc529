"""What a set of soundtracks is like: heard kinds and materials, onsets, force, and what chance would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vatt_core.evaluation.clips import partners, strangers
from vatt_core.evaluation.judge import Heard, Judge
from vatt_core.evaluation.metrics import Score, Wave, force_score, onset_score
from vatt_core.evaluation.onsets import detect_onsets
from vatt_core.world.kinds import LOOK_ALIKES, MATERIALS
from vatt_core.world.scene import Scene


def listen(judge: Judge, scenes: Sequence[Scene], waves: Sequence[Wave]) -> list[list[Heard]]:
    """What is heard in each shot of each clip."""
    rate = judge.sample_rate
    return [
        [judge.listen(wave[round(shot.start * rate) : round(shot.end * rate)])[0] for shot in scene.shots]
        for scene, wave in zip(scenes, waves, strict=True)
    ]


def kinds_heard(scenes: Sequence[Scene], heard: Sequence[Sequence[Heard]]) -> Score:
    """Share of the things on the screen that are among the likeliest kinds of their shot: among the n likeliest when n
    things are shown. With one thing in one scene, whether its kind is the likeliest."""
    values = []
    for scene, answers in zip(scenes, heard, strict=True):
        for shot, answer in zip(scene.shots, answers, strict=True):
            likeliest = answer.likeliest(len(shot.sources))
            values += [(source.kind, float(source.kind in likeliest)) for source in shot.sources]
    return Score.mean(values)


def materials_heard(scenes: Sequence[Scene], heard: Sequence[Sequence[Heard]]) -> Score:
    """Share of the look-alike things that are heard to be of their material; parts by material."""
    values = []
    for scene, answers in zip(scenes, heard, strict=True):
        for shot, answer in zip(scene.shots, answers, strict=True):
            for source in shot.sources:
                if source.kind in LOOK_ALIKES:
                    wanted = source.attributes["material"]
                    values.append((wanted, float(answer.material(source.kind) == wanted)))
    return Score.mean(values)


def both_materials_heard(judge: Judge, scenes: Sequence[Scene], wooden: Sequence[Wave], metal: Sequence[Wave]) -> Score:
    """Share of look-alike clips whose soundtracks follow the word in both directions, every look-alike thing of the
    clip in each; parts: each direction, and each kind (of clips with one kind) in both."""
    directions: dict[str, list[bool]] = {}
    for material, waves in zip(MATERIALS, (wooden, metal), strict=True):
        as_asked = [scene.with_material(material) for scene in scenes]
        directions[material] = [
            materials_heard([scene], [answers]).value == 1.0
            for scene, answers in zip(as_asked, listen(judge, as_asked, waves), strict=True)
        ]
    both = [all(pair) for pair in zip(*directions.values(), strict=True)]
    kinds = ["+".join(source.kind for source in scene.sources) for scene in scenes]
    score = Score.mean((kind, float(value)) for kind, value in zip(kinds, both, strict=True))
    shares = {f"asked for {name}": float(np.mean(values)) for name, values in directions.items() if values}
    return Score(score.value, score.count, shares | score.parts)


def is_look_alike(scene: Scene) -> bool:
    """Whether a thing of the clip could be of wood or of metal."""
    return any(source.kind in LOOK_ALIKES for source in scene.sources)


@dataclass(frozen=True)
class SoundFigures:
    """Of soundtracks against their own clips. shuffled: the same soundtracks against another clip of the same kinds;
    random: against any other clip."""

    kinds: Score
    materials: Score
    onsets: Score
    onsets_shuffled: Score
    onsets_random: Score
    kinds_random: Score
    force: Score
    force_shuffled: Score

    @property
    def margin(self) -> float:
        """How much better the onsets fit their own clip than another of the same kind. NaN without such clips."""
        return self.onsets.value - self.onsets_shuffled.value


def measure_sound(judge: Judge, scenes: list[Scene], waves: Sequence[Wave]) -> SoundFigures:
    """All figures of soundtracks [samples] at the judge's rate, one per clip."""
    rate = judge.sample_rate
    heard = listen(judge, scenes, waves)
    found: list[NDArray[np.float64]] = [detect_onsets(wave, rate) for wave in waves]
    alike, others = partners(scenes), strangers(scenes)
    whole = [(scene, other) for scene, other in zip(scenes, others, strict=True) if other is not None]
    return SoundFigures(
        kinds=kinds_heard(scenes, heard),
        materials=materials_heard(scenes, heard),
        onsets=onset_score(scenes, found),
        onsets_shuffled=onset_score(scenes, found, alike),
        onsets_random=onset_score(scenes, found, others),
        kinds_random=_kinds_of_strangers(whole, heard),
        force=force_score(scenes, waves, rate),
        force_shuffled=force_score(scenes, waves, rate, alike),
    )


def _kinds_of_strangers(pairs: Sequence[tuple[Scene, int]], heard: Sequence[Sequence[Heard]]) -> Score:
    values = []
    for scene, other in pairs:
        # Shots do not correspond between clips: the first thing is looked for in the other's first shot.
        source = scene.sources[0]
        count = len(scene.shots[0].sources)
        values.append((source.kind, float(source.kind in heard[other][0].likeliest(count))))
    return Score.mean(values)
