"""How a stored picture has to be turned to be shown: phones store the sensor's picture and a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Pixels = TypeVar("Pixels", bound=np.generic)


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to lay a rectangle down: swap the axes first, then mirror.

    transposed: rows become columns. mirrored_x, mirrored_y: the result is mirrored left-right, top-bottom.
    """

    transposed: bool = False
    mirrored_x: bool = False
    mirrored_y: bool = False

    @classmethod
    def from_matrix(cls, matrix: Sequence[int]) -> Orientation:
        """Read a display matrix of nine numbers (ISO 14496-12, 8.3.2; FFmpeg's display side data).

        It sends the stored point (x, y) to the shown point (a x + c y, b x + d y), with a, b, c, d the numbers 0, 1,
        3 and 4. Turns by other than quarters are rounded to the nearest quarter.
        """
        a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    @property
    def rotation(self) -> int:
        """Degrees clockwise by which the stored picture is turned (0, 90, 180, 270), mirroring left out."""
        if self.transposed:
            return 90 if self.mirrored_x else 270
        return 180 if self.mirrored_y else 0

    def shown_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) as shown of a picture stored as `size`; its own inverse."""
        return (size[1], size[0]) if self.transposed else size

    def apply(self, picture: NDArray[Pixels]) -> NDArray[Pixels]:
        """Turn a stored picture [H, W, …] into the shown one (a view)."""
        shown = picture.swapaxes(0, 1) if self.transposed else picture
        if self.mirrored_x:
            shown = shown[:, ::-1]
        return shown[::-1] if self.mirrored_y else shown
