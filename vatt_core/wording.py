"""Texts about sounds: which say the same, and what shall not be heard. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

ALIKE = 0.8
"""Share of their words that two captions have in common to count as one."""

SHORT_ENOUGH = 0.25
"""Share of the drawn texts whose clauses are as few as a caption's, or fewer."""

WORD_REWARD = 0.04
"""What a word that matters adds to a caption's agreement when captions are put in order. What is left out disagrees with less;
without this the best caption would say too little."""

LEFT_OUT = 0.3
"""Where the surest captions are looked for, how much a word that a caption leaves out counts, beside 1 for one that it says and
another draw does not: what is left out may be true, what is said may be false. (1 would find the most typical ones.)"""

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


_BETWEEN_CLAUSES = re.compile(r"\bwhile\b|\bthen\b|[,;]")


def clauses(text: str) -> list[frozenset[str]]:
    """What each clause of a text says, see :func:`meaning`: "a dog barks, then rain falls" has two."""
    return [said for said in map(meaning, _BETWEEN_CLAUSES.split(text)) if said]


def repeats_itself(text: str) -> bool:
    """Whether a clause of a text says nearly nothing that another has not said."""
    said = clauses(text)
    return any(
        len(one & other) >= ALIKE * min(len(one), len(other))
        for index, one in enumerate(said)
        for other in said[:index]
    )


def agreement(text: str, drawn: Sequence[str], *, left_out: float = 1.0) -> float:
    """How much a text says what all that were drawn say: the mean, over them, of the words that matter in common, 0 to 1.

    Clauses are compared with the one most like them, and one that has no counterpart agrees with nothing. What the draws
    are not of one mind about so costs a text that says it, and what they mostly say costs one that leaves it out (decoding
    for the least expected risk), the latter `left_out` times as much.
    """
    own = _known_clauses(text)
    return sum(_clauses_shared(own, _known_clauses(other), left_out) for other in drawn) / max(1, len(drawn))


# Every text of a draw is compared with every other.
_known_clauses = lru_cache(maxsize=1024)(clauses)


def _clauses_shared(first: list[frozenset[str]], second: list[frozenset[str]], left_out: float) -> float:
    pairs = [
        (_shared(one, other, left_out), row, column)
        for row, one in enumerate(first)
        for column, other in enumerate(second)
    ]
    total, rows, columns = 0.0, set[int](), set[int]()
    for shared, row, column in sorted(pairs, reverse=True):
        if row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
            total += shared
    return total / max(1, len(first), len(second))


def usual_length(drawn: Sequence[str]) -> int:
    """How many clauses a text shall have, of texts that were drawn: so many that a quarter of them have no more.

    The likeliest single text of a draw tends to be a shorter one: what says more can be said in more ways, each of them
    less likely. More than what is on the screen is the worse mistake: a quarter is enough to stay with less.
    """
    counts = sorted(len(clauses(text)) for text in drawn)
    return counts[int(SHORT_ENOUGH * len(counts))] if counts else 0


def best_captions(drawn: Sequence[str]) -> list[tuple[str, float]]:
    """Of texts that were drawn for one clip, the different ones: first one that says much, then those that are surest.

    With each its score: how much it agrees with all that were drawn, plus WORD_REWARD for each word that matters where it has
    as many clauses as is usual. Those that repeat themselves come only where there are no others.
    """
    usual = usual_length(drawn)
    texts = list(dict.fromkeys(drawn))
    texts = [text for text in texts if not repeats_itself(text)] or texts
    agreed = {text: agreement(text, drawn) for text in texts}
    fits = {text: len(clauses(text)) == usual for text in texts}
    scores = {text: agreed[text] + fits[text] * WORD_REWARD * len(meaning(text)) for text in texts}
    fullest = sorted(texts, key=lambda text: (fits[text], scores[text]), reverse=True)[:1]
    sure = {text: agreement(text, drawn, left_out=LEFT_OUT) for text in texts}
    surest = sorted(texts, key=lambda text: (fits[text], sure[text]), reverse=True)
    return [(text, scores[text]) for text in different([*fullest, *surest])]


def different(ranked: Iterable[str]) -> list[str]:
    """Captions, best first, without those that say nearly the same as a better one."""
    kept: dict[str, frozenset[str]] = {}
    for text in ranked:
        own = meaning(text)
        if all(_shared(own, other) < ALIKE for other in kept.values()):
            kept[text] = own
    return list(kept)


def _shared(first: frozenset[str], second: frozenset[str], left_out: float = 1.0) -> float:
    """Share of the words of both that both have (Tversky's index): those that only the second has count `left_out` times."""
    both = len(first & second)
    union = both + len(first - second) + left_out * len(second - first)
    return both / union if union else 1.0


def avoiding(negative_prompt: str | None, avoid: Sequence[str]) -> str | None:
    """A negative prompt that also names what shall be avoided. An empty one stays, to be refused as such."""
    words = [AVOIDABLE.get(word.strip().lower(), word.strip()) for word in avoid if word.strip()]
    return ", ".join([*([negative_prompt] if negative_prompt else []), *words]) or negative_prompt
