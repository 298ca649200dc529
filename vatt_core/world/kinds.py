"""The kinds of sounding things, their attributes and the sentences that speak of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

COLOURS: dict[str, tuple[float, float, float]] = {
    # name: hue (turns), saturation, value; picture.py jitters around these
    "red": (0.0, 0.9, 0.85),
    "yellow": (0.15, 0.9, 0.95),
    "green": (0.36, 0.85, 0.65),
    "blue": (0.61, 0.85, 0.85),
    "white": (0.0, 0.0, 0.97),
}
MATERIALS = ("wooden", "metal")
SPEEDS = ("slowly", "quickly")
SIZES = ("small", "large")
INTENSITIES = ("light", "heavy")

Rhythm = Literal["irregular", "regular", "continuous"]


@dataclass(frozen=True)
class Kind:
    """One kind. `attribute` names its second visible attribute and `values` what it can be. `look_alike`: its material
    can be told only by words. `has_force`: events differ visibly in force, and their loudness follows."""

    name: str
    keyword: str
    rhythm: Rhythm
    attribute: Literal["speed", "size", "intensity"]
    values: tuple[str, str]
    sentences: tuple[str, ...]
    look_alike: bool = False
    has_force: bool = True


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("ball", "ball", "irregular", "speed", SPEEDS,
             ("a {colour} {material} ball bounces {speed}",
              "the sound of a {colour} {material} ball bouncing {speed}",
              "{speed} bouncing {colour} {material} ball"), look_alike=True),
        Kind("hammer", "block", "irregular", "speed", SPEEDS,
             ("a hammer hits a {colour} {material} block {speed}",
              "the sound of a hammer hitting a {colour} {material} block {speed}",
              "{colour} {material} block hit {speed} by a hammer"), look_alike=True),
        Kind("drum", "drum", "irregular", "size", SIZES,
             ("sticks play a {size} {colour} {material} drum",
              "the sound of a {size} {colour} {material} drum being played",
              "drumming on a {size} {colour} {material} drum"), look_alike=True),
        Kind("bell", "bell", "irregular", "size", SIZES,
             ("a {size} {colour} bell rings",
              "the sound of a {size} {colour} bell ringing",
              "ringing of a {size} {colour} bell")),
        Kind("clock", "clock", "regular", "speed", SPEEDS,
             ("a {colour} clock ticks {speed}",
              "the sound of a {colour} clock ticking {speed}",
              "{colour} clock ticking {speed}"), has_force=False),
        Kind("alarm", "alarm", "regular", "speed", SPEEDS,
             ("a {colour} alarm light beeps {speed}",
              "the sound of a {colour} alarm light beeping {speed}",
              "{speed} beeping {colour} alarm light"), has_force=False),
        Kind("fireworks", "fireworks", "irregular", "size", SIZES,
             ("{size} {colour} fireworks explode",
              "the sound of {size} {colour} fireworks exploding",
              "explosions of {size} {colour} fireworks")),
        Kind("bird", "bird", "irregular", "size", SIZES,
             ("a {size} {colour} bird sings",
              "the sound of a {size} {colour} bird singing",
              "song of a {size} {colour} bird")),
        Kind("rain", "rain", "continuous", "intensity", INTENSITIES,
             ("{intensity} rain falls on a {colour} roof",
              "the sound of {intensity} rain falling on a {colour} roof",
              "{intensity} rain on a {colour} roof")),
        Kind("fire", "fire", "continuous", "size", SIZES,
             ("a {size} fire burns in a {colour} barrel",
              "the sound of a {size} fire burning in a {colour} barrel",
              "{size} fire in a {colour} barrel")),
        Kind("engine", "engine", "continuous", "speed", SPEEDS,
             ("a {colour} engine runs {speed}",
              "the sound of a {colour} engine running {speed}",
              "{colour} engine running {speed}")),
        Kind("waves", "waves", "continuous", "size", SIZES,
             ("{size} waves rock a {colour} boat",
              "the sound of {size} waves rocking a {colour} boat",
              "{colour} boat on {size} waves")),
    )
}  # fmt: skip

LOOK_ALIKES = tuple(name for name, kind in KINDS.items() if kind.look_alike)
"""Kinds whose material only words can tell."""

ATTRIBUTE_WORDS: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "material": MATERIALS,
    "speed": SPEEDS,
    "size": SIZES,
    "intensity": INTENSITIES,
}


def sentence(kind: str, attributes: dict[str, str], phrasing: int) -> str:
    """The caption of one thing. `phrasing` chooses among the kind's sentences (modulo their number)."""
    sentences = KINDS[kind].sentences
    return sentences[phrasing % len(sentences)].format(**attributes)


def read_caption(caption: str) -> list[dict[str, Any]]:
    """What a caption claims: for each thing named, its `kind` and the attributes that stand in the same clause.

    Understands any sentence made of the world's words, not only the sentences above. Clauses are separated by "while",
    "then", "and" or a comma.
    """
    claims = []
    for clause in re.split(r"\bwhile\b|\bthen\b|\band\b|,", caption.lower()):
        # the light of an alarm is a lamp, not an intensity
        words = re.findall(r"[a-z]+", re.sub(r"\balarm[- ]lights?\b", "alarm", clause))
        kind = next((name for name, kind in KINDS.items() if kind.keyword in words), None)
        if kind is None and "hammer" in words:
            kind = "hammer"
        if kind is None:
            continue
        claim: dict[str, Any] = {"kind": kind}
        for attribute, values in ATTRIBUTE_WORDS.items():
            found = [value for value in values if value in words]
            if len(found) == 1:
                claim[attribute] = found[0]
        claims.append(claim)
    return claims
