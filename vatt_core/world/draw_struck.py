"""The things that strike: ball, hammer, drum, bell, clock, alarm, fireworks, bird.

Units: the thing reaches from about -0.9 to 0.9 (x right, y down). Each drawing shows the contact exactly at the time of
the event, and its strength by the size of the movement before and of the effect after.
"""

from __future__ import annotations

import math

from vatt_core.world.motion import Look, smooth
from vatt_core.world.pen import BROWN, INK, PAPER, STEEL, Colour, Pen, arc, mix, rotate

SPARK: Colour = (255, 246, 200)


def _burst(pen: Pen, x: float, y: float, size: float, age: float, lasts: float = 0.12) -> None:
    """A spark of contact, largest at once and gone after `lasts` seconds."""
    if not 0 <= age < lasts:
        return
    size *= 1 - 0.6 * age / lasts
    points = []
    for spike in range(14):
        angle = spike * math.pi / 7
        reach = size if spike % 2 == 0 else 0.42 * size
        points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    pen.polygon(points, SPARK)


def ball(pen: Pen, look: Look, time: float) -> None:
    """Bounces on a slab: the peak before an impact is as high as the impact is strong."""
    floor, radius = 0.72, 0.27
    last, following = look.beats.before(time), look.beats.after(time)
    since = look.beats.since(time)
    # Beyond the first and the last impact the ball flies in from, or out to, a bounce that the clip does not show.
    taken_off = last.time if last else min(look.start - 0.25, following.time - 0.9 if following else look.start)
    lands = following.time if following else max(look.end + 0.25, (last.time if last else look.end) + 0.9)
    strength = following.strength if following else (last.strength if last else 0.5)
    share = (time - taken_off) / (lands - taken_off)
    height = 1.02 * strength * 4 * share * (1 - share)
    squash = 0.0
    if last is not None and since < 0.1:
        squash = (0.12 + 0.33 * last.strength) * (1 - since / 0.1)
    pen.box(-0.85, floor, 0.85, floor + 0.16, (92, 92, 98), edge=INK)
    shadow = 0.34 - 0.16 * min(1.0, height)
    pen.ellipse(0, floor + 0.055, shadow, 0.045, (40, 40, 44))
    if last is not None and since < 0.2:
        reach = radius + (0.15 + 0.5 * last.strength) * math.sqrt(since / 0.2)
        dust = 0.04 + 0.07 * last.strength * (1 - since / 0.2)
        for side in (-1, 1):
            pen.circle(side * reach, floor - dust, dust, PAPER, alpha=230)
    radius_x, radius_y = radius * (1 + squash), radius * (1 - squash)
    centre = floor - height - radius_y
    pen.ellipse(0, centre, radius_x, radius_y, look.base, edge=look.dark)
    pen.ellipse(-0.3 * radius_x, centre - 0.42 * radius_y, 0.26 * radius_x, 0.2 * radius_y, look.light)


def hammer(pen: Pen, look: Look, time: float) -> None:
    """Swings about the right end of its handle onto a block; raised as far as the blow will be strong."""
    lift, since = look.beats.lift(time), look.beats.since(time)
    last = look.beats.before(time)
    strength = last.strength if last else 0.0
    dent = 0.09 * strength * (1 - since / 0.1) if since < 0.1 else 0.0
    top = 0.22
    pen.box(-0.85, 0.78, 0.85, 0.9, (88, 84, 84), edge=INK)
    wide = 0.62 + dent * 0.7
    pen.polygon(
        [(-wide - 0.08, top + dent), (wide - 0.28, top + dent), (wide - 0.2, 0.8), (-wide - 0.14, 0.8)],
        look.base,
        edge=look.dark,
    )
    pen.box(-wide - 0.02, top + dent + 0.06, wide - 0.36, top + dent + 0.13, look.light)
    if last is not None:
        _burst(pen, -0.3, top, 0.16 + 0.36 * strength, since)
    pivot = (0.8, 0.04)
    angle = lift * 0.95
    shaft = rotate([(-0.42, 0.04), (0.8, 0.04)], angle, pivot)
    pen.bar(shaft[0], shaft[1], 0.11, BROWN, round_ends=True)
    head = rotate([(-0.48, -0.2), (-0.12, -0.2), (-0.12, top + dent), (-0.48, top + dent)], angle, pivot)
    pen.polygon(head, (96, 100, 110), edge=INK)
    face = rotate([(-0.48, top - 0.08), (-0.12, top - 0.08), (-0.12, top + dent), (-0.48, top + dent)], angle, pivot)
    pen.polygon(face, STEEL)


def drum(pen: Pen, look: Look, time: float) -> None:
    """Two sticks on three places of the skin; a small drum stands on a tripod, a large one on the floor."""
    large = look.attribute == "large"
    half = 0.8 if large else 0.36
    skin = 0.08
    depth = 0.62 if large else 0.3
    bulge = 0.24 * half
    since, last = look.beats.since(time), look.beats.before(time)
    pulse = last.strength * (1 - since / 0.12) if last is not None and since < 0.12 else 0.0
    if not large:
        for side in (-1, 0, 1):
            pen.bar((0.1 * side, skin + depth), (0.34 * side, 0.88), 0.06, INK)
    body = [(-half, skin), *arc(0, skin + depth, half * 0.94, bulge, math.pi, 0), (half, skin)]
    pen.polygon(body, look.base, edge=look.dark)
    pen.ellipse(0, skin, half + 0.03, bulge + 0.03, look.dark)
    pen.ellipse(0, skin, half - 0.05, bulge - 0.03, mix((206, 198, 186), PAPER, pulse))
    pen.bar((-half * 0.96, skin + depth * 0.62), (half * 0.96, skin + depth * 0.62), 0.05, look.light)
    places = (-0.5 * half, 0.12 * half, 0.6 * half)
    if last is not None:
        x, ring = places[last.variant % 3], 0.25 + since / 0.12
        if since < 0.12:
            pen.ellipse(x, skin, 0.5 * half * min(1.0, ring), 0.5 * bulge * min(1.0, ring), look.light)
        _burst(pen, x, skin - 0.02, 0.12 + 0.26 * last.strength, since)
    for side, hand in zip((-1, 1), look.hands, strict=True):
        lift = hand.lift(time)
        before, after, share = hand.travel(time)
        home = places[0] if side < 0 else places[2]
        start = places[before.variant % 3] if before else (places[after.variant % 3] if after else home)
        end = places[after.variant % 3] if after else start
        x = start + (end - start) * share
        grip = (x + side * 0.62, skin - 0.26 - 0.28 * lift)
        tip = (x + side * 0.12 * lift, skin - 0.03 - 0.86 * lift)
        pen.bar(grip, tip, 0.08, (196, 160, 108), round_ends=True)
        pen.circle(*tip, 0.085, (222, 190, 140), edge=INK)


def bell(pen: Pen, look: Look, time: float) -> None:
    """Hangs from a beam; a mallet on a rope swings against its right side and the bell sways after it."""
    large = look.attribute == "large"
    size = 0.62 if large else 0.3
    lift, since = look.beats.lift(time), look.beats.since(time)
    last = look.beats.before(time)
    sway = 0.0
    if last is not None and since < 1.2:
        sway = 0.32 * last.strength * math.exp(-3.2 * since) * math.sin(2 * math.pi * since / 0.55)
    hang = (-0.3 if large else -0.2, -0.74)
    pen.box(-0.88, -0.9, 0.88, -0.76, BROWN, edge=INK)
    pen.box(-0.88, -0.8, -0.78, 0.9, BROWN)
    neck = -0.6
    outline: list[tuple[float, float]] = []
    for share, width in ((0.0, 0.3), (0.12, 0.46), (0.35, 0.56), (0.65, 0.68), (0.85, 0.88), (1.0, 1.06)):
        outline.append((width * size, neck + share * 1.95 * size))
    profile = [(hang[0] + x, y) for x, y in outline] + [(hang[0] - x, y) for x, y in reversed(outline)]
    bottom = neck + 1.95 * size
    pen.bar(hang, rotate([(hang[0], neck)], sway, hang)[0], 0.08, INK)
    clapper = rotate([(hang[0], bottom + 0.02)], sway * 0.3, hang)[0]
    pen.circle(*clapper, 0.18 * size, INK)
    pen.polygon(rotate(profile, sway, hang), look.base, edge=look.dark)
    band = [(hang[0] + x, y) for x, y in ((-0.82 * size, bottom - 0.36 * size), (0.82 * size, bottom - 0.36 * size))]
    turned = rotate(band, sway, hang)
    pen.bar(turned[0], turned[1], 0.1 * size, look.dark)
    shine = rotate([(hang[0] - 0.3 * size, neck + 0.4 * size), (hang[0] - 0.4 * size, neck + 1.2 * size)], sway, hang)
    pen.bar(shine[0], shine[1], 0.12 * size, look.light, round_ends=True)
    touch = (hang[0] + 0.8 * size, bottom - 0.5 * size)
    rope = (touch[0] + 0.16, -0.78)
    length = touch[1] - rope[1]
    if last is not None:
        _burst(pen, touch[0] + 0.03, touch[1], 0.14 + 0.3 * last.strength, since)
    head = rotate([(rope[0], rope[1] + length)], -lift * min(1.2, 0.85 / length), rope)[0]
    pen.bar(rope, head, 0.05, INK)
    pen.circle(*head, 0.15, (176, 140, 96), edge=INK)


def clock(pen: Pen, look: Look, time: float) -> None:
    """The hand jumps a twelfth at each tick, and the pendulum passes its lowest point."""
    count, since = look.beats.count(time), look.beats.since(time)
    last, following = look.beats.before(time), look.beats.after(time)
    events = look.beats.events
    period = events[1].time - events[0].time if len(events) > 1 else 1.0
    # Between two ticks a half swing; before the first and after the last it waits at its turning point.
    if last is None:
        share = max(-0.5, (time - following.time) / period) if following else -0.5
    elif following is None:
        share = min(0.5, since / period)
    else:
        share = since / (following.time - last.time)
    swing = 0.62 * math.sin(math.pi * share) * (1 if count % 2 else -1)
    if last is None:
        swing = -0.62 * math.sin(math.pi * -share)
    hinge = (0.0, 0.12)
    bob = rotate([(0.0, 0.72)], swing, hinge)[0]
    pen.bar(hinge, bob, 0.06, INK)
    pen.circle(*bob, 0.15, look.base, edge=look.dark)
    pen.circle(0, -0.28, 0.58, look.base, edge=look.dark)
    pen.circle(0, -0.28, 0.5, mix(look.base, PAPER, 0.12))
    for hour in range(12):
        angle = hour * math.pi / 6
        inner = 0.38 if hour % 3 == 0 else 0.43
        pen.bar(
            (inner * math.sin(angle), -0.28 - inner * math.cos(angle)),
            (0.49 * math.sin(angle), -0.28 - 0.49 * math.cos(angle)),
            0.05,
            INK,
        )
    overshoot = 0.22 * (1 - since / 0.1) if since < 0.1 else 0.0
    angle = (count + math.floor(look.dice[0] * 12)) * math.pi / 6 + overshoot
    slow = look.dice[1] * 2 * math.pi
    pen.bar((0, -0.28), (0.26 * math.sin(slow), -0.28 - 0.26 * math.cos(slow)), 0.08, look.dark, round_ends=True)
    tail = (-0.14 * math.sin(angle), -0.28 + 0.14 * math.cos(angle))
    pen.bar(tail, (0.46 * math.sin(angle), -0.28 - 0.46 * math.cos(angle)), 0.1, INK)
    pen.circle(0, -0.28, 0.08, INK)


def alarm(pen: Pen, look: Look, time: float) -> None:
    """A lamp on a box of its colour, lit for 0.2 s from each beep, the brighter the stronger."""
    last, since = look.beats.before(time), look.beats.since(time)
    glow = 0.0
    if last is not None and since < 0.2:
        glow = last.strength * (1.0 if since < 0.16 else 0.6)
    off = mix(look.base, INK, 0.55)
    if glow:
        pen.circle(0, 0.0, 0.62 + 0.28 * glow, look.light, alpha=int(40 + 70 * glow))
        for ray in range(7):
            angle = math.pi + ray * math.pi / 6
            cosine, sine = math.cos(angle), math.sin(angle)
            far = 0.62 + 0.33 * glow
            pen.bar((0.56 * cosine, 0.1 + 0.56 * sine), (far * cosine, 0.1 + far * sine), 0.09, look.light)
    dome = [(-0.42, 0.3), *arc(0, 0.02, 0.42, 0.42, math.pi, 2 * math.pi), (0.42, 0.3)]
    pen.polygon(dome, mix(off, mix(look.base, (255, 255, 255), 0.55), min(1.0, 0.3 + 0.7 * glow) if glow else 0.0))
    if glow:
        pen.circle(0, 0.0, 0.12 + 0.14 * glow, (255, 255, 250))
    else:
        pen.ellipse(-0.16, -0.14, 0.08, 0.13, mix(off, PAPER, 0.3))
    pen.box(-0.5, 0.26, 0.5, 0.36, INK)
    pen.box(-0.62, 0.34, 0.62, 0.84, look.base, edge=look.dark)
    for slot in range(4):
        pen.box(-0.36 + 0.2 * slot, 0.46, -0.26 + 0.2 * slot, 0.72, look.dark)
    pen.circle(0.48, 0.46, 0.05, SPARK if glow else INK)


def fireworks(pen: Pen, look: Look, time: float) -> None:
    """A rocket climbs from its mortar and bursts at the event; the burst is as wide as it is strong."""
    large = look.attribute == "large"
    widest = 0.86 if large else 0.36
    places = (-0.34, 0.05, 0.36) if not large else (-0.12, 0.0, 0.12)
    last, following, since = look.beats.before(time), look.beats.after(time), look.beats.since(time)
    mortar = (0.14, 0.3) if large else (0.09, 0.2)
    pen.box(-0.5, 0.86, 0.5, 0.93, INK)
    pen.box(-mortar[0], 0.9 - mortar[1], mortar[0], 0.9, look.base, edge=look.dark)
    if last is not None and since < 1.0:
        x, y = places[last.variant % 3], -0.2
        radius = widest * (0.45 + 0.55 * last.strength) * (1 - math.exp(-(since + 0.03) / 0.07))
        faded = 1 - smooth((since - 0.25) / 0.75)
        drop = 0.22 * since * since
        pen.circle(x, y + drop, radius, look.base, alpha=int(150 * faded * (1 - smooth(since / 0.6))))
        count = 16 if large else 10
        thick = (0.08 if large else 0.05) * (0.35 + 0.65 * faded)
        for spark in range(count):
            angle = (spark + look.dice[(last.variant * 20 + spark) % 400] * 0.5) * 2 * math.pi / count
            reach = radius * (0.86 + 0.14 * look.dice[60 + spark])
            cosine, sine = math.cos(angle), math.sin(angle)
            inner = reach * (0.2 + 0.6 * min(1.0, since / 0.5))
            start = (x + inner * cosine, y + drop + inner * sine)
            end = (x + reach * cosine, y + drop * 1.3 + reach * sine)
            pen.bar(start, end, thick, look.base, alpha=int(255 * faded))
            pen.circle(*end, thick * 0.8, look.light, alpha=int(255 * faded))
        if since < 0.1:
            pen.circle(x, y, radius * (0.75 - 4.5 * since), SPARK)
    if following is not None:
        until = following.time - time
        rise = min(0.7, max(0.25, following.time - last.time - 0.2)) if last is not None else 0.7
        if until < rise:
            share = 1 - until / rise
            climbed = 1 - (1 - share) ** 1.6
            x = places[following.variant % 3] * climbed
            y = 0.62 - 0.82 * climbed
            back = max(0.0, climbed - 0.28)
            trail = (places[following.variant % 3] * back, 0.62 - 0.82 * back)
            pen.bar(trail, (x, y), 0.03 + 0.05 * following.strength, (250, 206, 120))
            pen.circle(x, y, (0.03 + 0.07 * following.strength) * (1.2 if large else 0.8), SPARK)


def bird(pen: Pen, look: Look, time: float) -> None:
    """Sits on a branch; at each chirp the beak opens for 0.2 s and the body bobs, wide for a loud one."""
    large = look.attribute == "large"
    size = 0.62 if large else 0.3
    last, following, since = look.beats.before(time), look.beats.after(time), look.beats.since(time)
    gape, hop = 0.0, 0.0
    if last is not None and since < 0.2:
        gape = (0.35 + 0.65 * last.strength) * (1.0 if since < 0.14 else 0.55)
        hop = (0.06 + 0.26 * last.strength) * math.sin(math.pi * min(1.0, (since + 0.03) / 0.23))
    elif following is not None and following.time - time < 0.14:
        hop = -0.06 * (0.4 + following.strength) * (1 - (following.time - time) / 0.14)
    branch = 0.66
    pen.bar((-0.95, branch + 0.06), (0.9, branch - 0.02), 0.11, BROWN)
    pen.bar((0.35, branch), (0.7, branch - 0.3), 0.06, BROWN)
    for leaf in ((0.72, branch - 0.32), (0.85, branch - 0.05), (-0.85, branch)):
        pen.ellipse(*leaf, 0.09, 0.05, (92, 112, 84))
    for leg in (-0.16, 0.1):
        foot = leg * size + (-0.28 if large else -0.1)
        pen.bar((foot, branch), (foot, branch - 0.4 * size - hop), 0.04, INK)
    x, y = -0.28 if large else -0.1, branch - 0.72 * size - 0.05 - hop
    tail = [(x - 0.5 * size, y), (x - 1.3 * size, y + (0.32 - 0.5 * gape) * size)]
    pen.polygon([*tail, (x - 1.1 * size, y + (0.55 - 0.5 * gape) * size), (x - 0.3 * size, y + 0.4 * size)], look.dark)
    pen.ellipse(x, y, 0.8 * size, 0.6 * size, look.base, edge=look.dark)
    head = (x + 0.56 * size, y - (0.52 + 0.1 * gape) * size)
    tilt = -0.35 * gape
    beak = (head[0] + 0.32 * size, head[1])
    for side in (-1, 1):
        jaw = [beak, (beak[0], beak[1] + side * 0.2 * size)]
        point = (beak[0] + 0.55 * size, beak[1] + side * 0.01)
        pen.polygon(rotate([*jaw, point], side * 0.75 * gape + tilt, (beak[0] - 0.1 * size, beak[1])), (232, 138, 44))
    pen.circle(*head, 0.42 * size, look.base, edge=look.dark)
    pen.circle(head[0] + 0.12 * size, head[1] - 0.1 * size, 0.1 * size, INK)
    feathers = [(x + 0.3 * size, y - 0.2 * size), (x - 0.75 * size, y + 0.1 * size), (x - 0.1 * size, y + 0.34 * size)]
    wing = rotate(feathers, 0.9 * gape, (x + 0.2 * size, y - 0.1 * size))
    pen.polygon(wing, look.dark)
    if last is not None and since < 0.24:
        for wave in range(1 + math.floor(2.99 * last.strength)):
            reach = (0.16 + 0.13 * wave + 0.5 * since) * (1.5 if large else 1.0)
            centre = (head[0] + 0.75 * size, head[1] - 0.1)
            pen.line(arc(*centre, reach, reach, -0.8, 0.35, 6), 0.045, PAPER)
