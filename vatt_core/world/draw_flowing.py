"""The things that go on and on: rain, fire, engine, waves. What is heard louder is seen as more.

Units: the thing reaches from about -0.9 to 0.9 (x right, y down).
"""

from __future__ import annotations

import itertools
import math

from vatt_core.world.motion import Look, flicker
from vatt_core.world.pen import INK, PAPER, STEEL, Colour, Pen, mix, rotate

WATER: Colour = (70, 98, 108)
DROP: Colour = (206, 218, 228)


def rain(pen: Pen, look: Look, time: float) -> None:
    """Streaks from a cloud onto a roof: their number follows the level, light and heavy far apart."""
    heavy = look.attribute == "heavy"
    level = look.level(time)
    cloud = (84, 88, 98) if heavy else (150, 154, 162)
    pen.box(-0.5, 0.5, 0.5, 0.95, (196, 190, 180), edge=INK)
    pen.box(-0.12, 0.62, 0.12, 0.95, (84, 72, 66))
    pen.polygon([(-0.48, 0.02), (0.48, 0.02), (0.84, 0.56), (-0.84, 0.56)], look.base, edge=look.dark)
    for row in (0.2, 0.38):
        reach = 0.48 + 0.66 * row
        pen.line([(-reach + 0.04, row), (reach - 0.04, row)], 0.03, look.dark)
    drops = 84 if heavy else 13
    length, width = (0.26, 0.05) if heavy else (0.16, 0.045)
    seen = drops * (0.1 + 0.9 * level)
    for index in range(math.floor(seen) + 1):
        offset, rate = look.dice[(3 * index) % 400], 1.5 + 0.5 * look.dice[(3 * index + 1) % 400]
        cycle = time * rate + offset
        turn = math.floor(cycle)
        x = 1.7 * look.dice[(5 * index + 37 * turn) % 400] - 0.85
        roof = 0.02 if abs(x) < 0.48 else 0.02 + (abs(x) - 0.48) * 1.5
        share = cycle - turn
        bottom = -0.75 + (roof + 0.75) * min(1.0, share / 0.88)
        if share < 0.88:
            pen.line([(x, max(-0.75, bottom - length)), (x - 0.03, bottom)], width, DROP)
        else:
            splash = (0.09 if heavy else 0.05) * (0.5 + (share - 0.88) / 0.12)
            pen.line([(x - splash, roof - 1.1 * splash), (x - 0.02, roof)], 0.03, DROP)
            pen.line([(x + splash, roof - 1.1 * splash), (x + 0.02, roof)], 0.03, DROP)
    swell = 1.0 if heavy else 0.72
    for x, y, radius in ((-0.55, -0.74, 0.2), (-0.2, -0.82, 0.26), (0.2, -0.8, 0.27), (0.56, -0.74, 0.2)):
        pen.ellipse(x * swell, y, radius * 1.2 * swell, radius * 0.72 * swell, cloud)


def fire(pen: Pen, look: Look, time: float) -> None:
    """Flames out of a barrel: their height is the level, a large fire more than twice a small one."""
    large = look.attribute == "large"
    level = look.level(time)
    rim = 0.2
    height = (1.15 if large else 0.56) * (0.3 + 0.7 * level)
    half = 0.5 if large else 0.24
    if large:
        pen.circle(0, rim - 0.4 * height, 0.45 + 0.4 * level, (255, 150, 60), alpha=46)
    layers: tuple[tuple[float, Colour], ...] = ((1.0, (226, 74, 24)), (0.7, (250, 146, 30)), (0.38, (255, 226, 120)))
    tongues = 5 if large else 3
    for layer, (share, colour) in enumerate(layers):
        for tongue in range(tongues):
            place = (tongue - (tongues - 1) / 2) / max(1, (tongues - 1) / 2)
            restless = flicker(look, 10 * layer + tongue, time, 2.3)
            tall = height * share * (1 - 0.42 * place * place) * (0.86 + 0.16 * restless)
            x = place * half * 0.66
            wide = half * (0.5 if large else 0.62) * (0.5 + 0.5 * share)
            lean = 0.12 * height * flicker(look, 40 + 10 * layer + tongue, time, 1.1)
            pen.polygon(
                [
                    (x - wide, rim + 0.04),
                    (x - wide * 0.8, rim - 0.3 * tall),
                    (x - wide * 0.2 + 0.5 * lean, rim - 0.66 * tall),
                    (x + lean, rim - tall),
                    (x + wide * 0.4 + 0.4 * lean, rim - 0.6 * tall),
                    (x + wide * 0.85, rim - 0.25 * tall),
                    (x + wide, rim + 0.04),
                ],
                colour,
            )
    for spark in range(math.floor((9 if large else 4) * level) + 1):
        cycle = time * (0.7 + 0.5 * look.dice[100 + spark]) + look.dice[120 + spark]
        share = cycle - math.floor(cycle)
        x = half * (2 * look.dice[(140 + spark + 11 * math.floor(cycle)) % 400] - 1) + 0.1 * math.sin(9 * share + spark)
        pen.circle(x, rim - share * height * 1.25, 0.026, (255, 214, 110))
    pen.ellipse(0, 0.88, 0.5, 0.07, (40, 38, 40))
    pen.polygon([(-0.46, rim), (0.46, rim), (0.43, 0.88), (-0.43, 0.88)], look.base, edge=look.dark)
    pen.box(-0.3, rim + 0.12, -0.2, 0.82, look.light)
    pen.box(-0.5, rim - 0.03, 0.5, rim + 0.06, INK)
    for band in (0.44, 0.66):
        pen.box(-0.46, band, 0.46, band + 0.04, look.dark)


def engine(pen: Pen, look: Look, time: float) -> None:
    """A machine with a flywheel and a piston. At most 3 turns a second: under a sixth of a turn per frame at 20 fps."""
    quick = look.attribute == "quickly"
    level = look.level(time)
    turned = (1.6 if quick else 0.32) * (time - look.start) + (1.4 if quick else 0.5) * look.level_sum(time)
    angle = 2 * math.pi * (turned + look.dice[0])
    shake = (0.05 if quick else 0.028) * level
    pen.box(-0.85, 0.76, 0.9, 0.88, (70, 70, 76), edge=INK)
    pen.moved(shake * 0.5 * math.cos(angle), -shake * abs(math.sin(angle)))
    for puff in range(4):
        rising = (turned + puff / 4) % 1.0
        puffed = (0.05 + 0.13 * rising) * (0.4 + 0.6 * level)
        pen.circle(-0.68 - 0.1 * rising, -0.42 - 0.5 * rising, puffed, (186, 186, 188), alpha=int(170 * (1 - rising)))
    pen.box(-0.75, -0.42, -0.61, 0.1, INK)
    stroke = -0.34 - 0.19 * math.cos(angle)
    pen.box(-0.3, stroke, -0.12, 0.1, STEEL, edge=INK)
    pen.box(-0.42, stroke - 0.14, 0.0, stroke + 0.02, look.base, edge=look.dark)
    pen.box(-0.5, -0.08, 0.08, 0.2, look.dark)
    pen.box(-0.85, 0.06, 0.5, 0.72, look.base, edge=look.dark)
    pen.box(-0.75, 0.14, -0.1, 0.22, look.light)
    for leg in (-0.7, 0.3):
        pen.box(leg - 0.08, 0.72, leg + 0.08, 0.78, INK)
    hub, radius = (0.42, 0.22), 0.48
    pen.circle(*hub, radius, INK)
    pen.circle(*hub, radius - 0.07, (214, 216, 220))
    wedge = [hub] + [
        (
            hub[0] + (radius - 0.06) * math.cos(angle + step * 0.18),
            hub[1] + (radius - 0.06) * math.sin(angle + step * 0.18),
        )
        for step in range(-4, 5)
    ]
    pen.polygon(wedge, INK)
    spoke = rotate([(hub[0] - radius + 0.07, hub[1])], angle, hub)[0]
    pen.bar(hub, spoke, 0.07, (120, 124, 132))
    weight = rotate([(hub[0] - 0.02, hub[1] + 0.27)], angle, hub)[0]
    pen.circle(*weight, 0.1, look.base)
    pen.circle(*hub, 0.11, look.dark)


def waves(pen: Pen, look: Look, time: float) -> None:
    """A boat on the water: the waves are as high as the level, large ones three times the small."""
    large = look.attribute == "large"
    level = look.level(time)
    height = (0.34 if large else 0.1) * (0.25 + 0.75 * level)
    length, rate = (1.7, 0.55) if large else (0.75, 0.9)
    origin = look.dice[0]

    def surface(x: float, delay: float = 0.0) -> float:
        turn = 2 * math.pi * (x / length - rate * time + origin + delay)
        return 0.36 - height * (math.sin(turn) + 0.22 * math.sin(2 * turn + 0.6))

    left, right = max(look.left, -1.9), min(look.right, 1.9)
    steps = 30
    across = [left + (right - left) * step / steps for step in range(steps + 1)]
    pen.polygon([(left, 2.0), *((x, surface(x, 0.3) - 0.08) for x in across), (right, 2.0)], mix(WATER, PAPER, 0.18))
    # The hull spans more than a point of the water: it rides on the mean and leans with the slope.
    here = (surface(-0.38) + surface(0.0) + surface(0.38)) / 3
    tilt = math.atan2(surface(0.38) - surface(-0.38), 0.76) * 0.9
    keel = (0.0, here)

    def shape(points: list[tuple[float, float]], colour: Colour, edge: Colour | None) -> None:
        pen.polygon(rotate([(x, here + y) for x, y in points], tilt, keel), colour, edge=edge)

    shape([(-0.035, -0.95), (0.035, -0.95), (0.035, -0.15), (-0.035, -0.15)], INK, None)
    shape([(0.06, -0.92), (0.52, -0.24), (0.06, -0.24)], look.base, look.dark)
    shape([(-0.06, -0.82), (-0.06, -0.24), (-0.38, -0.24)], look.light, look.dark)
    shape([(-0.6, -0.18), (0.66, -0.18), (0.44, 0.16), (-0.42, 0.16)], look.base, look.dark)
    shape([(-0.56, -0.1), (0.6, -0.1), (0.57, -0.05), (-0.53, -0.05)], look.light, None)
    front = [(x, surface(x) + 0.08) for x in across]
    pen.polygon([(left, 2.0), *front, (right, 2.0)], WATER)
    pen.line(front, 0.05, mix(WATER, PAPER, 0.75))
    crest = 0.44 - 0.5 * height
    for first, second in itertools.pairwise(front):
        if first[1] < crest and second[1] < crest:
            pen.bar(first, second, 0.09 * (0.4 + level) * (1.3 if large else 0.7), PAPER, round_ends=True)
    for row in (0.62, 0.84):
        pen.line([(x, surface(x, row) * 0.4 + row * 0.72) for x in across], 0.035, mix(WATER, INK, 0.3))
