"""A pen that draws in the units of one thing, and the colours it dips into."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

INK: Colour = (34, 32, 38)
STEEL: Colour = (150, 154, 162)
BROWN: Colour = (112, 80, 54)
PAPER: Colour = (236, 234, 228)


def colour_of(hue: float, saturation: float, value: float) -> Colour:
    """HSV (turns, 0…1, 0…1) to 8-bit RGB."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return (_byte(red * 255), _byte(green * 255), _byte(blue * 255))


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`share` 0 is the first colour, 1 the second."""
    share = min(1.0, max(0.0, share))
    return (
        _byte(first[0] + (second[0] - first[0]) * share),
        _byte(first[1] + (second[1] - first[1]) * share),
        _byte(first[2] + (second[2] - first[2]) * share),
    )


def rotate(points: Sequence[Point], angle: float, about: Point = (0.0, 0.0)) -> list[Point]:
    """Turn points by `angle` radians, clockwise on the screen."""
    cosine, sine = math.cos(angle), math.sin(angle)
    x0, y0 = about
    return [(x0 + (x - x0) * cosine - (y - y0) * sine, y0 + (x - x0) * sine + (y - y0) * cosine) for x, y in points]


def arc(x: float, y: float, radius_x: float, radius_y: float, start: float, end: float, steps: int = 14) -> list[Point]:
    """Points along an ellipse from angle `start` to `end` (radians, 0 right, a quarter turn down)."""
    return [
        (
            x + radius_x * math.cos(start + (end - start) * step / steps),
            y + radius_y * math.sin(start + (end - start) * step / steps),
        )
        for step in range(steps + 1)
    ]


def _byte(value: float) -> int:
    return min(255, max(0, math.floor(value + 0.5)))


class Pen:
    """Draws on an RGB picture. x, y: units of the thing (right, down) around `centre` pixels; `unit`: pixels per unit.

    Every coordinate becomes a whole (supersampled) pixel here, so that the last digits of a machine's sine do not show.
    `alpha` below 255 lets the ground shine through.
    """

    def __init__(self, picture: Image.Image, centre: Point, unit: float) -> None:
        self._solid = ImageDraw.Draw(picture)
        self._clear = ImageDraw.Draw(picture, "RGBA")
        self._x, self._y = centre
        self._unit = unit

    def moved(self, x: float, y: float) -> None:
        """Shift the origin by (x, y) units for all that follows."""
        self._x += x * self._unit
        self._y += y * self._unit

    def _at(self, x: float, y: float) -> tuple[int, int]:
        return math.floor(self._x + x * self._unit + 0.5), math.floor(self._y + y * self._unit + 0.5)

    def polygon(self, points: Sequence[Point], fill: Colour, *, alpha: int = 255, edge: Colour | None = None) -> None:
        corners = [self._at(x, y) for x, y in points]
        if alpha < 255:
            self._clear.polygon(corners, fill=(*fill, alpha))
        else:
            self._solid.polygon(corners, fill=fill)
        if edge is not None:
            self._solid.line([*corners, corners[0], corners[1]], fill=edge, width=self._width(0.03), joint="curve")

    def ellipse(
        self,
        x: float,
        y: float,
        radius_x: float,
        radius_y: float,
        fill: Colour,
        *,
        alpha: int = 255,
        edge: Colour | None = None,
    ) -> None:
        if edge is not None:
            self.ellipse(x, y, radius_x, radius_y, edge, alpha=alpha)
            radius_x, radius_y = radius_x - 0.03, radius_y - 0.03
        if radius_x <= 0 or radius_y <= 0:
            return
        box = [self._at(x - radius_x, y - radius_y), self._at(x + radius_x, y + radius_y)]
        if alpha < 255:
            self._clear.ellipse(box, fill=(*fill, alpha))
        else:
            self._solid.ellipse(box, fill=fill)

    def circle(
        self, x: float, y: float, radius: float, fill: Colour, *, alpha: int = 255, edge: Colour | None = None
    ) -> None:
        self.ellipse(x, y, radius, radius, fill, alpha=alpha, edge=edge)

    def box(
        self, left: float, top: float, right: float, bottom: float, fill: Colour, *, edge: Colour | None = None
    ) -> None:
        if edge is not None:
            self.box(left, top, right, bottom, edge)
            left, top, right, bottom = left + 0.03, top + 0.03, right - 0.03, bottom - 0.03
        if right > left and bottom > top:
            self._solid.rectangle([self._at(left, top), self._at(right, bottom)], fill=fill)

    def bar(
        self, start: Point, end: Point, width: float, fill: Colour, *, alpha: int = 255, round_ends: bool = False
    ) -> None:
        """A straight bar of `width` units from start to end."""
        length = math.hypot(end[0] - start[0], end[1] - start[1])
        if length < 1e-6:
            return
        side_x = -(end[1] - start[1]) / length * width / 2
        side_y = (end[0] - start[0]) / length * width / 2
        self.polygon(
            [
                (start[0] + side_x, start[1] + side_y),
                (end[0] + side_x, end[1] + side_y),
                (end[0] - side_x, end[1] - side_y),
                (start[0] - side_x, start[1] - side_y),
            ],
            fill,
            alpha=alpha,
        )
        if round_ends:
            self.circle(*start, width / 2, fill, alpha=alpha)
            self.circle(*end, width / 2, fill, alpha=alpha)

    def line(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        """A thin line through points; `width` in units, never thinner than one drawn pixel."""
        self._solid.line([self._at(x, y) for x, y in points], fill=fill, width=self._width(width))

    def _width(self, width: float) -> int:
        return max(1, math.floor(width * self._unit + 0.5))
