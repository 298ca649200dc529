"""Descriptions of procedural clips: everything that is seen, heard and said follows from one of these.

A description is made from a seed alone, with NumPy's PCG64, so it is the same on every machine. Times are seconds from
the start of the clip, positions are in units of half the picture's height from its centre (x right, y down), levels are
0…1. The seeds are split for ever into training, validation and held-out.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vatt_core.errors import BadRequest
from vatt_core.world.kinds import COLOURS, KINDS, MATERIALS, sentence

VERSION = 1
"""Part of every seed: a change of the descriptions raises it."""

Split = Literal["training", "validation", "held_out"]
Layout = Literal["single", "two_kinds", "two_scenes"]
SPLIT_SIZE = 1_000_000
SPLIT_START: dict[str, int] = {"training": 0, "validation": SPLIT_SIZE, "held_out": 2 * SPLIT_SIZE}
BACKGROUNDS = ("plain", "gradient", "checker", "stripes", "clouds")


@dataclass(frozen=True)
class Event:
    """Something that happens at one instant: a hit, a tick, a beep, a burst, a chirp.

    time: the instant of contact, seconds in the clip. strength 0.25…1: visible force. variant: which of a few shapes
    (drum pad, chirp, …), free for sound and picture.
    """

    time: float
    strength: float
    variant: int


@dataclass(frozen=True)
class Source:
    """One sounding thing on the screen. Events for the kinds that strike, `level` knots (time, 0…1) for the continuous."""

    kind: str
    attributes: dict[str, str]
    x: float
    y: float
    scale: float
    seed: int
    phrasing: int
    events: tuple[Event, ...] = ()
    level: tuple[tuple[float, float], ...] = ()

    @property
    def visible(self) -> dict[str, str]:
        """The attributes that can be seen (the material cannot)."""
        return {name: value for name, value in self.attributes.items() if name != "material"}

    @property
    def caption(self) -> str:
        return sentence(self.kind, self.attributes, self.phrasing)


@dataclass(frozen=True)
class Camera:
    """Slow movement: at time t the view is shifted by pan * sin(2 pi t / period + phase), scaled by zoom_start…zoom_end
    linearly over the clip, and shaken by `shake` (units of half the height)."""

    pan_x: float
    pan_y: float
    period: float
    phase: float
    zoom_start: float
    zoom_end: float
    shake: float


@dataclass(frozen=True)
class Shot:
    """What one uninterrupted picture shows. start, end: seconds in the clip."""

    start: float
    end: float
    sources: tuple[Source, ...]
    camera: Camera
    background: str
    background_colours: tuple[tuple[float, float, float], tuple[float, float, float]]
    brightness: float
    tint: tuple[float, float, float]

    @property
    def caption(self) -> str:
        return " while ".join(source.caption for source in self.sources)


@dataclass(frozen=True)
class Scene:
    """A whole clip. crf: H.264 quality that the clip is written with. room_tone_db: level of the quiet background hiss."""

    seed: int
    seconds: float
    layout: Layout
    shots: tuple[Shot, ...]
    crf: int
    room_tone_db: float

    @property
    def caption(self) -> str:
        return ", then ".join(shot.caption for shot in self.shots)

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(source for shot in self.shots for source in shot.sources)

    @property
    def event_times(self) -> tuple[float, ...]:
        """All event times of the clip, ascending, seconds."""
        return tuple(sorted(event.time for source in self.sources for event in source.events))

    @property
    def split(self) -> Split:
        return "training" if self.seed < SPLIT_SIZE else "validation" if self.seed < 2 * SPLIT_SIZE else "held_out"

    def with_material(self, material: str) -> Scene:
        """The same picture with every look-alike source made of `material`."""

        def change(source: Source) -> Source:
            if not KINDS[source.kind].look_alike:
                return source
            return dataclasses.replace(source, attributes={**source.attributes, "material": material})

        shots = tuple(
            dataclasses.replace(shot, sources=tuple(change(source) for source in shot.sources)) for shot in self.shots
        )
        return dataclasses.replace(self, shots=shots)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able description, with the caption and the event times spelled out."""
        return {
            **dataclasses.asdict(self),
            "version": VERSION,
            "split": self.split,
            "caption": self.caption,
            "event_times": list(self.event_times),
        }


def split_seed(split: Split, index: int) -> int:
    """The seed of clip `index` of a split. Raises BadRequest outside 0…999,999."""
    if not 0 <= index < SPLIT_SIZE:
        raise BadRequest(f"Clip {index} is outside the split: choose 0 to {SPLIT_SIZE - 1}.", index=index)
    return SPLIT_START[split] + index


def describe(
    seed: int,
    *,
    kind: str | None = None,
    layout: Layout | None = None,
    seconds: float = 10.0,
    material: str | None = None,
) -> Scene:
    """Make the description of a clip from its seed. What is not given is drawn from the seed.

    Raises BadRequest for an unknown kind, layout or material, a seed below 0, or a length outside 0.5…3600 s.
    """
    if kind is not None and kind not in KINDS:
        raise BadRequest(f"There is no kind {kind!r}: choose one of {', '.join(KINDS)}.", kind=kind)
    if layout not in (None, "single", "two_kinds", "two_scenes"):
        raise BadRequest(f"There is no layout {layout!r}: choose single, two_kinds or two_scenes.", layout=layout)
    if material is not None and material not in MATERIALS:
        raise BadRequest(f"There is no material {material!r}: choose one of {', '.join(MATERIALS)}.", material=material)
    if not (np.isfinite(seconds) and 0.5 <= seconds <= 3600):
        raise BadRequest(f"A length of {seconds} s is not possible: choose 0.5 to 3600.", seconds=seconds)
    if not 0 <= seed < 3 * SPLIT_SIZE:
        raise BadRequest(f"There is no seed {seed}: choose 0 to {3 * SPLIT_SIZE - 1}.", seed=seed)

    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([VERSION, seed])))
    drawn_layout = str(rng.choice(["single", "two_kinds", "two_scenes"], p=[0.7, 0.15, 0.15]))
    layout = layout or drawn_layout  # type: ignore[assignment]
    first = kind or _draw_kind(rng)
    if layout == "two_scenes":
        cut = round(float(rng.uniform(0.35, 0.65)) * seconds, 3)
        second = _draw_kind(rng, other_than=first)
        shots: tuple[Shot, ...] = (_shot(rng, (first,), 0.0, cut), _shot(rng, (second,), cut, seconds))
    elif layout == "two_kinds":
        shots = (_shot(rng, (first, _draw_kind(rng, other_than=first)), 0.0, seconds),)
    else:
        shots = (_shot(rng, (first,), 0.0, seconds),)
    scene = Scene(
        seed=seed,
        seconds=float(seconds),
        layout=layout,  # type: ignore[arg-type]
        shots=shots,
        crf=int(rng.integers(18, 31)),
        room_tone_db=float(rng.uniform(-66, -58)),
    )
    return scene if material is None else scene.with_material(material)


def _draw_kind(rng: np.random.Generator, *, other_than: str | None = None) -> str:
    return str(rng.choice([name for name in KINDS if name != other_than]))


def _shot(rng: np.random.Generator, kinds: tuple[str, ...], start: float, end: float) -> Shot:
    pair = len(kinds) == 2
    sources = []
    for index, kind in enumerate(kinds):
        side = (-0.5, 0.5)[index] if pair else 0.0
        sources.append(
            _source(
                rng,
                kind,
                start,
                end,
                x=side + float(rng.uniform(-0.08, 0.08) if pair else rng.uniform(-0.2, 0.2)),
                y=float(rng.uniform(-0.08, 0.08)),
                scale=float(rng.uniform(0.55, 0.65) if pair else rng.uniform(0.8, 1.05)),
            )
        )
    hue = float(rng.uniform(0, 1))
    return Shot(
        start=start,
        end=end,
        sources=tuple(sources),
        camera=Camera(
            pan_x=float(rng.uniform(0, 0.07)),
            pan_y=float(rng.uniform(0, 0.04)),
            period=float(rng.uniform(5, 12)),
            phase=float(rng.uniform(0, 2 * np.pi)),
            zoom_start=float(rng.uniform(0.94, 1.06)),
            zoom_end=float(rng.uniform(0.94, 1.06)),
            shake=float(rng.uniform(0, 0.008)),
        ),
        background=str(rng.choice(BACKGROUNDS)),
        background_colours=(
            (hue, float(rng.uniform(0.02, 0.2)), float(rng.uniform(0.25, 0.5))),
            ((hue + float(rng.uniform(0, 0.2))) % 1.0, float(rng.uniform(0.02, 0.2)), float(rng.uniform(0.3, 0.6))),
        ),
        brightness=float(rng.uniform(0.8, 1.1)),
        tint=(float(rng.uniform(0.94, 1.06)), 1.0, float(rng.uniform(0.94, 1.06))),
    )


def _source(
    rng: np.random.Generator, kind: str, start: float, end: float, *, x: float, y: float, scale: float
) -> Source:
    definition = KINDS[kind]
    attributes = {
        "colour": str(rng.choice(list(COLOURS))),
        definition.attribute: str(rng.choice(definition.values)),
    }
    material = str(rng.choice(MATERIALS))
    if definition.look_alike:
        attributes["material"] = material
    events: tuple[Event, ...] = ()
    level: tuple[tuple[float, float], ...] = ()
    if definition.rhythm == "continuous":
        level = _level(rng, start, end)
    else:
        events = _events(rng, kind, attributes, start, end)
    return Source(
        kind=kind,
        attributes=attributes,
        x=x,
        y=y,
        scale=scale,
        seed=int(rng.integers(0, 2**31)),
        phrasing=int(rng.integers(0, len(definition.sentences))),
        events=events,
        level=level,
    )


def _intervals(kind: str, attributes: dict[str, str]) -> tuple[float, float]:
    """Shortest and longest pause between two events, seconds."""
    if KINDS[kind].attribute == "speed":
        return (1.1, 1.8) if attributes["speed"] == "slowly" else (0.42, 0.7)
    return {"drum": (0.4, 1.3), "bell": (0.9, 1.9), "fireworks": (0.9, 1.8), "bird": (0.6, 1.6)}[kind]


def _events(
    rng: np.random.Generator, kind: str, attributes: dict[str, str], start: float, end: float
) -> tuple[Event, ...]:
    """Event times with a rhythm that differs from clip to clip; irregular kinds rest once in a while."""
    shortest, longest = _intervals(kind, attributes)
    regular = KINDS[kind].rhythm == "regular"
    period = float(rng.uniform(shortest, longest))
    steady_strength = float(rng.uniform(0.6, 1.0))
    time = start + 0.15 + float(rng.uniform(0, longest))
    events = []
    while time < end - 0.12:
        strength = steady_strength if regular else float(rng.uniform(0.3, 1.0))
        events.append(Event(time=round(time, 4), strength=round(strength, 3), variant=int(rng.integers(0, 3))))
        pause = period if regular else float(rng.uniform(shortest, longest))
        if not regular and rng.uniform() < 0.1:
            pause += float(rng.uniform(0.8, 1.8))
        time += pause
    return tuple(events)


def _level(rng: np.random.Generator, start: float, end: float) -> tuple[tuple[float, float], ...]:
    """A slow curve through random knots, one every 1.5 to 3 s."""
    knots = [(start, float(rng.uniform(0.35, 1.0)))]
    while knots[-1][0] < end:
        knots.append((min(end, knots[-1][0] + float(rng.uniform(1.5, 3.0))), float(rng.uniform(0.35, 1.0))))
    return tuple((round(time, 3), round(value, 3)) for time, value in knots)
