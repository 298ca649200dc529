"""The one place for every rate and length of the model.

A model of another size is another instance of :class:`Timing`; nothing else in the code knows a number
such as 50 codes per second or 320 samples per code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction


def exact_division(numerator: Fraction | int, denominator: Fraction | int) -> int:
    """Divide and insist on a whole result. Raises ValueError when the quotient is no integer."""
    quotient = Fraction(numerator) / Fraction(denominator)
    if quotient.denominator != 1:
        raise ValueError(f"{numerator} is no whole multiple of {denominator}")
    return int(quotient)


@dataclass(frozen=True)
class Timing:
    """Rates and lengths of one model. The defaults are those of the official VATT models (reference 1, 11).

    window: seconds that the model sees at once. frame_rate: frames per second taken from the clip.
    video_token_rate: video tokens per second in the prefix. code_rate: code frames per second.
    sample_rate: samples per second of the codec. codebooks, codebook_size: residual codebooks and entries of each.
    """

    window: Fraction = Fraction(10)
    frame_rate: Fraction = Fraction(5)
    video_token_rate: Fraction = Fraction(1)
    code_rate: Fraction = Fraction(50)
    sample_rate: int = 16_000
    codebooks: int = 4
    codebook_size: int = 2048

    @property
    def frames(self) -> int:
        """Frames per window."""
        return exact_division(self.window * self.frame_rate, 1)

    @property
    def video_tokens(self) -> int:
        """Video tokens per window."""
        return exact_division(self.window * self.video_token_rate, 1)

    @property
    def frames_per_video_token(self) -> int:
        """Frames that become one video token."""
        return exact_division(self.frame_rate, self.video_token_rate)

    @property
    def code_frames(self) -> int:
        """Code frames (T) per window."""
        return exact_division(self.window * self.code_rate, 1)

    @property
    def codes_per_video_token(self) -> int:
        """Code frames that last as long as one video token."""
        return exact_division(self.code_rate, self.video_token_rate)

    @property
    def hop_length(self) -> int:
        """Samples per code frame."""
        return exact_division(self.sample_rate, self.code_rate)

    @property
    def samples(self) -> int:
        """Samples per window at the codec's rate."""
        return exact_division(self.window * self.sample_rate, 1)

    @property
    def mask(self) -> int:
        """The token that stands for 'not decided yet' (one past the last code)."""
        return self.codebook_size

    def frames_in(self, duration: Fraction) -> int:
        """Frames at k / frame_rate that lie inside a clip of `duration` seconds (at least one)."""
        return max(1, math.ceil(duration * self.frame_rate))

    def code_frames_in(self, duration: Fraction) -> int:
        """Code frames that cover `duration` seconds (at least one)."""
        return max(1, math.ceil(duration * self.code_rate))

    def to_dict(self) -> dict[str, str | int]:
        """As JSON holds it: rates and the window as exact fractions, "n" or "n/d"."""
        return {
            "window": str(self.window),
            "frame_rate": str(self.frame_rate),
            "video_token_rate": str(self.video_token_rate),
            "code_rate": str(self.code_rate),
            "sample_rate": self.sample_rate,
            "codebooks": self.codebooks,
            "codebook_size": self.codebook_size,
        }

    @classmethod
    def from_dict(cls, values: dict[str, str | int]) -> Timing:
        """Inverse of :meth:`to_dict`. Raises KeyError, ValueError."""
        return cls(
            window=Fraction(values["window"]),
            frame_rate=Fraction(values["frame_rate"]),
            video_token_rate=Fraction(values["video_token_rate"]),
            code_rate=Fraction(values["code_rate"]),
            sample_rate=int(values["sample_rate"]),
            codebooks=int(values["codebooks"]),
            codebook_size=int(values["codebook_size"]),
        )


def duration_samples(frames: int, frame_rate: Fraction, sample_rate: int) -> int:
    """Samples of a clip of `frames` frames: round(frames / frame_rate * sample_rate), in exact arithmetic."""
    return round(Fraction(frames) / frame_rate * sample_rate)
