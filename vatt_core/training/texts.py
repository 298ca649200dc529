"""What is said about world clips: captions with words left out or put otherwise, prompts, and which words they contain."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from vatt_core.model.text import AUDIO_INSTRUCTIONS, TEMPLATES, VISUAL_INSTRUCTIONS, fill_template
from vatt_core.world.kinds import ATTRIBUTE_WORDS, KINDS, MATERIALS, sentence
from vatt_core.world.scene import Scene, Shot, Source

WORDS = tuple(kind.keyword for kind in KINDS.values()) + tuple(
    word for values in ATTRIBUTE_WORDS.values() for word in values
)
"""The words that decide what is heard and seen; their presence in a prompt must survive in the converter's states."""

CAPTION_COMPLETE = 0.3
CAPTION_LEAVES_ONE_OUT = 0.4
"""Of all captions, how many tell every visible attribute and how many all but one, of one thing as of two; in the rest each
is told or not. So all of it is often said also where there is much to say, and what is not sure is left out before the other
possibility is told."""


def draw(generator: torch.Generator, below: int) -> int:
    return int(torch.randint(below, (), generator=generator))


def chance(generator: torch.Generator, probability: float) -> bool:
    return bool(torch.rand((), generator=generator) < probability)


def _join(scene: Scene, say: dict[int, str], *, ordered: bool = False) -> str:
    """ordered: of what is seen at once, the kinds in the order of KINDS."""

    def shot_text(shot: Shot) -> str:
        sources = sorted(shot.sources, key=lambda one: list(KINDS).index(one.kind)) if ordered else shot.sources
        return " while ".join(say[id(source)] for source in sources)

    return ", then ".join(shot_text(shot) for shot in scene.shots)


def caption(scene: Scene, generator: torch.Generator) -> str:
    """A caption of what can be seen: any phrasing, some without one or the other attribute, so that there is more than one
    true thing to say. The material, which cannot be seen, is one of those possible. Two things at once are told in one order,
    so that the words before a name ("a small red ...") need not decide which of them is meant."""
    visible = [(id(source), name) for source in scene.sources for name in source.visible]
    share = float(torch.rand((), generator=generator))
    unsaid = {visible[draw(generator, len(visible))]}
    if share < CAPTION_COMPLETE:
        unsaid = set()
    elif share >= CAPTION_COMPLETE + CAPTION_LEAVES_ONE_OUT:
        unsaid = {one for one in visible if chance(generator, 0.5)}

    def say(source: Source) -> str:
        attributes = {name: "" if (id(source), name) in unsaid else value for name, value in source.visible.items()}
        if "material" in source.attributes:
            attributes["material"] = MATERIALS[draw(generator, len(MATERIALS))]
        return _phrase(source, attributes, generator)

    return _join(scene, {id(source): say(source) for source in scene.sources}, ordered=True)


def prompt(scene: Scene, generator: torch.Generator) -> str:
    """A prompt that is true of the sound: half of them complete, half with some attributes left unsaid."""
    shorten = chance(generator, 0.5)

    def say(source: Source) -> str:
        attributes = dict(source.attributes)
        if shorten:
            attributes = _some(source.visible, generator, 0.5)
            if "material" in source.attributes:
                attributes |= _some({"material": source.attributes["material"]}, generator, 0.15)
        return _phrase(source, attributes, generator)

    return _join(scene, {id(source): say(source) for source in scene.sources})


def _some(attributes: dict[str, str], generator: torch.Generator, left_out: float) -> dict[str, str]:
    """Each attribute as it is, or with this probability empty."""
    return {name: "" if chance(generator, left_out) else value for name, value in attributes.items()}


def _phrase(source: Source, attributes: dict[str, str], generator: torch.Generator) -> str:
    text = sentence(source.kind, attributes, draw(generator, 3))
    return re.sub(r"\ba (?=[aeiou])", "an ", re.sub(" +", " ", text).strip())


def instruction(generator: torch.Generator) -> str:
    """One of the ten audio instructions (reference 7.1)."""
    return AUDIO_INSTRUCTIONS[draw(generator, len(AUDIO_INSTRUCTIONS))]


def words_of(texts: Sequence[str]) -> Tensor:
    """Which of WORDS each text contains: float32 [B, words]."""
    found = [set(re.findall(r"[a-z]+", text.lower())) for text in texts]
    return torch.tensor([[float(word in words) for word in WORDS] for words in found])


def tokenizer_corpus(scenes: Sequence[Scene], template: str) -> Iterator[str]:
    """Texts that nano's tokenizer is trained on."""
    for text in (*AUDIO_INSTRUCTIONS, *VISUAL_INSTRUCTIONS):
        for _ in range(40):
            yield fill_template(text, template)
    yield TEMPLATES[template]
    for scene in scenes:
        yield scene.caption
        yield fill_template(scene.caption, template)
