"""Whether captions are true of what a clip shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vatt_core.evaluation.metrics import Score
from vatt_core.world.kinds import ATTRIBUTE_WORDS, read_caption
from vatt_core.world.scene import Scene

VISIBLE_WORDS = frozenset(word for name, words in ATTRIBUTE_WORDS.items() if name != "material" for word in words)


@dataclass(frozen=True)
class CaptionCheck:
    """kinds: the caption names exactly the kinds of the clip, each once. attributes: for each visible attribute of each
    thing, its name and whether the caption gives its value. true: names the kinds, and says nothing false of what is
    visible (what it leaves out is not false; the hidden material may be either)."""

    kinds: bool
    attributes: tuple[tuple[str, bool], ...]
    true: bool

    @property
    def all_attributes(self) -> bool:
        return all(right for _, right in self.attributes)


def check_caption(caption: str, scene: Scene) -> CaptionCheck:
    """Compare a caption with the description of the clip."""
    claims = read_caption(caption)
    kinds = sorted(claim["kind"] for claim in claims) == sorted(source.kind for source in scene.sources)
    by_kind = {claim["kind"]: claim for claim in claims}
    attributes: list[tuple[str, bool]] = []
    contradicted = False
    visible: set[str] = set()
    for source in scene.sources:
        claim = by_kind.get(source.kind, {})
        for name, value in source.visible.items():
            attributes.append((name, claim.get(name) == value))
            contradicted |= claim.get(name, value) != value
            visible.add(value)
    # Also what stands outside the clauses that were understood, and attributes that such a thing does not have.
    text = re.sub(r"\balarm[- ]lights?\b", "alarm", caption.lower())
    said = VISIBLE_WORDS & set(re.findall(r"[a-z]+", text))
    return CaptionCheck(kinds, tuple(attributes), kinds and not contradicted and said <= visible)


@dataclass(frozen=True)
class CaptionFigures:
    """Over a set of clips. kinds, all_attributes: shares of clips; attributes: share of visible attributes, parts by
    attribute; suggestions: share of clips whose suggestions are as many as asked, all different and all true."""

    kinds: Score
    attributes: Score
    all_attributes: Score
    suggestions: Score


def measure_captions(
    scenes: Sequence[Scene], suggestions: Sequence[Sequence[str]], *, wanted: int = 3
) -> CaptionFigures:
    """suggestions: for each clip its captions, best first; the first one is what kinds and attributes are read from."""
    checks = [[check_caption(text, scene) for text in texts] for scene, texts in zip(scenes, suggestions, strict=True)]
    first = [some[0] if some else check_caption("", scene) for scene, some in zip(scenes, checks, strict=True)]
    names = ["+".join(source.kind for source in scene.sources) for scene in scenes]
    different = [len({_plain(text) for text in texts}) == len(texts) >= wanted for texts in suggestions]
    true = [all(check.true for check in some) for some in checks]
    good = [one and other for one, other in zip(different, true, strict=True)]
    parts = {
        "different": Score.mean(("", float(value)) for value in different).value,
        "all true": Score.mean(("", float(value)) for value in true).value,
    }
    return CaptionFigures(
        kinds=Score.mean((name, float(check.kinds)) for name, check in zip(names, first, strict=True)),
        attributes=Score.mean((name, float(right)) for check in first for name, right in check.attributes),
        all_attributes=Score.mean(
            (name, float(check.all_attributes)) for name, check in zip(names, first, strict=True)
        ),
        suggestions=Score(Score.mean(("", float(value)) for value in good).value, len(good), parts),
    )


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z]+", text.lower()))
