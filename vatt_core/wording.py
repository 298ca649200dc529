"""Texts about sounds: which say the same, and what shall not be heard. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

ALIKE = 0.8
"""Share of their words that two captions have in common to count as one."""

_LITTLE_WORDS = frozenset(
    (
        "a",
        "an",
        "the",
        "and",
        "or",
        "of",
        "in",
        "on",
        "at",
        "to",
        "with",
        "by",
        "is",
        "are",
        "as",
        "its",
        "it",
        "while",
        "then",
    )
)
_ENDINGS = ("ing", "es", "ed", "s")

AVOIDABLE = {"speech": "people speaking", "music": "music playing", "noise": "hiss and background noise"}
"""Words of `--avoid` that are better said otherwise; any other is taken as it is."""


def meaning(text: str) -> frozenset[str]:
    """The words that matter, without their endings."""
    words = (word for word in re.findall(r"\w+", text.lower()) if word not in _LITTLE_WORDS)
    return frozenset(_stem(word) for word in words)


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        stem = word.removesuffix(ending)
        if stem != word and len(stem) >= 3:
            # "hitting" and "hits", "tapped" and "taps"; but "falling" and "falls", "hissing" and "hiss"
            doubled = ending in ("ing", "ed") and stem[-1] == stem[-2] and stem[-1] not in "lsz"
            return stem[:-1] if doubled else stem
    return word


def different(ranked: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Captions and scores, best first, without those that say nearly the same as a better one."""
    kept: list[tuple[str, float, frozenset[str]]] = []
    for text, score in ranked:
        own = meaning(text)
        if all(_shared(own, other) < ALIKE for _, _, other in kept):
            kept.append((text, score, own))
    return [(text, score) for text, score, _ in kept]


def _shared(first: frozenset[str], second: frozenset[str]) -> float:
    union = len(first | second)
    return len(first & second) / union if union else 1.0


def avoiding(negative_prompt: str | None, avoid: Sequence[str]) -> str | None:
    """A negative prompt that also names what shall be avoided."""
    words = [AVOIDABLE.get(word.strip().lower(), word.strip()) for word in avoid if word.strip()]
    return ", ".join([*([negative_prompt] if negative_prompt else []), *words]) or None
