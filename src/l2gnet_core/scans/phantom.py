"""A procedural phantom of short-axis cardiac cine MRI: a drawn chest and heart, of no patient.

Every structure is a signed distance in pixels, painted with a soft edge on a *signed* picture: fat
is negative, water positive. Blur and magnitude then give the dark line of bSSFP between the two.
Positions are in pixels of 1.5 mm around the left ventricle, x to the right and y down the array.
Greys are in arbitrary units. Along the long axis, u is 0 at the valve plane and 1 at the tip.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import cos, exp, radians, sin, sqrt
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats: TypeAlias = NDArray[np.floating[Any]]
Bytes: TypeAlias = NDArray[np.uint8]

BACKGROUND, RIGHT_VENTRICLE, MYOCARDIUM, LEFT_VENTRICLE = 0, 1, 2, 3
#: Labels of a drawn heart by the names that models use.
DRAWN = {
    "right ventricle": RIGHT_VENTRICLE,
    "myocardium": MYOCARDIUM,
    "left ventricle": LEFT_VENTRICLE,
}
#: Side of a pixel in mm, in which positions are drawn.
BASE_SPACING = 1.5
#: Slices with u between these show the heart; above and below lie vessels and fat.
_VALVE_PLANE, _TIP = -0.02, 1.04
#: Pixels of a slice that the right ventricle has at least; smaller pieces get no label.
_LEAST_RIGHT_VENTRICLE = 25


class Phantom(NamedTuple):
    """image and labels: (z,y,x), or (t,z,y,x) of a series. spacing: (z,y,x) in mm."""

    image: Bytes
    labels: Bytes
    spacing: tuple[float, float, float]


class _Wave:
    """A smooth periodic function with mean zero that changes slowly along the long axis."""

    def __init__(self, rng: np.random.Generator, first: int, last: int, size: float) -> None:
        self.order = np.arange(first, last + 1)[:, None]
        self.size = rng.normal(0.0, size, self.order.shape) * first / self.order
        self.angle = rng.uniform(0.0, 2 * np.pi, self.order.shape)
        self.drift = rng.normal(0.0, 0.6, self.order.shape)

    def __call__(self, theta: Floats, u: float) -> Floats:
        turns = self.order * np.linspace(-np.pi, np.pi, 2048) + self.angle + self.drift * u
        table = (self.size * np.cos(turns)).sum(axis=0).astype(np.float32)
        return np.asarray(table[((theta + np.pi) * (2047 / (2 * np.pi))).astype(np.intp)])


class _Organ:
    """A lumpy ellipse of belly or chest: place (x, y, half axes), greys (inside, rim), wall."""

    def __init__(
        self, rng: np.random.Generator, place: tuple[float, ...], *greys: float, loose: float = 1.0
    ) -> None:
        size, move = rng.uniform(0.85, 1.15, 2), rng.normal(0.0, 1.0, 5) * loose
        self.x, self.y = place[0] + 5 * float(move[0]), place[1] + 4 * float(move[1])
        self.a, self.b = place[2] * float(size[0]), place[3] * float(size[1])
        self.dx, self.dy, self.tilt = 8 * float(move[2]), 6 * float(move[3]), 0.4 * float(move[4])
        self.inside, self.rim, self.wall = (*greys, *(greys[0], greys[0], 2.0)[len(greys) :])
        self.swell = rng.uniform(-0.25, 0.25)
        self.edge = _Wave(rng, 2, 5, 0.06 * loose)

    def distance(self, x: Floats, y: Floats, u: float) -> Floats:
        h, c, n = u - 0.5, cos(self.tilt), sin(self.tilt)
        x, y = x - (self.x + self.dx * h), y - (self.y + self.dy * h)
        p, q = (c * x + n * y) / self.a, (c * y - n * x) / self.b
        edge = (1.0 + self.swell * h) * (1 + self.edge(np.arctan2(q, p), u))
        return np.asarray((np.hypot(p, q) - edge) * min(self.a, self.b))


class _Scene:
    """All random numbers of one person, drawn once and shared by all phases."""

    def __init__(self, seed: int, shape: tuple[int, int, int]) -> None:
        rng = np.random.default_rng(seed)
        nz, ny, nx = shape
        spare = [int(v) for v in rng.integers(0, 2, 2)] if nz >= 7 else [0, 0]
        self.first, self.last = spare[0], nz - 1 - spare[1]
        self.turn = rng.normal(0.0, 0.13) + (rng.uniform(0.9, 1.4) if rng.random() < 0.12 else 0.0)
        self.septum = radians(149) + rng.normal(0.0, 0.19)
        self.centre = (ny * rng.normal(0.5, 0.022), nx * rng.normal(0.485, 0.022))
        self.radius, self.wall = rng.uniform(17.0, 21.5), rng.uniform(5.8, 7.8)
        self.ejection, self.growth = rng.uniform(0.44, 0.58), rng.uniform(1.05, 1.15)
        self.descent = 0.9 if nz >= 6 and rng.random() < 0.5 else 0.0
        self.outflow = bool(rng.random() < 0.2)
        self.rv_size, self.rv_width = rng.uniform(0.85, 1.2), rng.uniform(0.95, 1.15)
        self.fat, self.air = rng.uniform(130, 200), rng.uniform(13, 26)
        self.blood = rng.uniform(165, 215)
        self.noise, self.blur = rng.uniform(2.0, 5.0), rng.uniform(0.55, 0.8)
        self.coil = rng.uniform([0.3, 0.1, 0.0, 30], [0.8, 0.5, 0.25, 70]).tolist()
        self.body = (rng.normal(13, 4), rng.uniform(78, 96), rng.uniform(4, 9))
        self.low = self.radius + self.wall + rng.uniform(4.0, 10.0)
        self.slope, self.bump = rng.uniform(-0.12, 0.3), rng.uniform(0, 6)
        self.papillary = rng.uniform([[-2.3, 0.6, 0.17], [1.7, 0.6, 0.17]],
                                     [[-1.7, 0.72, 0.27], [2.3, 0.72, 0.27]]).tolist()  # fmt: skip
        plan = {
            "endo": (2, 4, 0.03), "epi": (2, 4, 0.018), "rough": (7, 17, 0.05), "rv": (2, 5, 0.045),
            "strand": (8, 22, 0.05), "body": (2, 6, 0.025), "fat": (1, 5, 0.28),
            "sac": (1, 6, 0.5), "ribs": (1, 3, 0.5), "flesh": (1, 6, 0.4),
        }  # fmt: skip
        self.waves = {k: _Wave(rng, *v) for k, v in plan.items()}
        self.pad = _Organ(rng, (-52, 8, rng.uniform(12, 30), rng.uniform(14, 26)), 0.0, loose=1.5)
        self.organs = self._belly(rng)
        self.jitter = rng.normal(0.0, 0.7, (nz, 2)).tolist()
        n, hilum = 64, rng.random(64) < 0.45
        self.vessels = np.stack([
            np.where(hilum, rng.normal(34, 12, n), rng.uniform(-65, 70, n)),
            np.where(hilum, rng.normal(-16, 14, n), rng.uniform(-95, 30, n)),
            rng.uniform(0.7, 2.1, n), rng.uniform(1.0, 3.2, n), rng.uniform(0.0, np.pi, n),
            rng.uniform(40, 190, n), rng.uniform(0, nz, n),
        ], axis=1).tolist()  # fmt: skip
        self.texture = np.empty(shape, dtype=np.float32)  # fine and coarse, deviation near one
        for z in range(nz):
            white = rng.standard_normal((ny, nx), dtype=np.float32)
            fine, coarse = (ndimage.gaussian_filter(white, d) for d in (1.3, 4.0))
            self.texture[z] = 4.0 * fine + 7.0 * coarse

    def _belly(self, rng: np.random.Generator) -> list[_Organ]:
        low = self.low
        bowel = [
            _Organ(rng, (rng.uniform(-70, 60), low + rng.uniform(45, 85), *rng.uniform(5, 13, 2)),
                   float(rng.choice([12, 40, 60, 90, 150])), rng.uniform(30, 60))
            for _ in range(9)
        ]  # fmt: skip
        sx, sy = rng.uniform(14, 30), low + rng.uniform(52, 66)
        return [
            _Organ(rng, (-42, low + 30, 38, 26), rng.uniform(36, 54)),  # liver
            _Organ(rng, (32, low + 22, 20, 15), rng.uniform(60, 130), 45, 3.0),  # stomach
            _Organ(rng, (66, low + 18, 15, 24), rng.uniform(45, 75)),  # spleen
            _Organ(rng, (62, low + 62, 15, 18), 70, 50, 5.0),  # kidney
            *bowel,
            _Organ(rng, (sx, sy, 17, 13), 68, 16, loose=0.3),  # vertebra
            _Organ(rng, (sx - 1, sy + 20, 8, 6), 150, 30, loose=0.3),  # spinal canal
            _Organ(rng, (sx + 16, sy - 19, 8.5, 8.5), 205, 40, 1.2, loose=0.2),  # aorta
            _Organ(rng, (sx - 20, sy - 14, 7, 5.5), 160, 40, 1.2, loose=0.4),  # vena cava
        ]  # fmt: skip


def _inside(distance: Floats, width: float = 1.2) -> Floats:
    """The share of each pixel, 0 to 1, that a structure covers, from the signed distance to its
    contour, negative inside. width: of the soft edge, in pixels."""
    return np.asarray(np.clip(0.5 - distance / width, 0.0, 1.0))


def _over(picture: Floats, cover: Floats, grey: float | Floats) -> None:
    picture += cover * (grey - picture)


def _chest(s: _Scene, x: Floats, y: Floats, z: int, u: float) -> Floats:
    """Everything but the heart: fat rim, chest wall, ribs, lung and its vessels, belly."""
    grain = s.texture[z]
    cx, half, rim = s.body
    bx, by = x - cx, y - 22
    theta = np.arctan2(by / 1.6, bx)
    rho = ((np.abs(bx) / half) ** 2.4 + (np.abs(by) / (half * 1.62)) ** 2.4) ** (1 / 2.4)
    out = (rho - 1 - s.waves["body"](theta, u)) * half
    picture: Floats = _inside(out) * -(1.1 * s.fat + 9 * grain)
    wall = out + rim * np.exp(s.waves["fat"](theta, u) + 0.25 * np.abs(np.cos(theta)))
    edge = np.abs(wall + 5.0)
    _over(picture, _inside(wall), 48 + 4 * grain)
    ribs = np.cos(26 * theta + 3 * s.waves["ribs"](theta, u)) + 0.3 * grain
    _over(picture, _inside(np.maximum(edge - 2.6, 1.5 - 4.0 * ribs), 2.0), 14.0)
    _over(picture, _inside(np.maximum(edge - 1.3, 3.0 - 4.0 * ribs), 2.0), -105.0)
    lung = wall + 4 + 6 * np.exp(s.waves["flesh"](theta, u)) + 1.2 * np.cos(13 * theta + u)
    _over(picture, _inside(lung), s.air + 3 * grain)
    pad = _inside(np.maximum(s.pad.distance(x, y, u), wall + 4.0), 2.0)
    _over(picture, pad, -(0.7 * s.fat + 8 * grain))
    for px, py, a, b, t, grey, at in s.vessels:
        seen = exp(-(((z - at) / 1.6) ** 2))
        if seen > 0.1:
            dx, dy = x - (px + z - at), y - (py + z - at)
            p, q = cos(t) * dx + sin(t) * dy, cos(t) * dy - sin(t) * dx
            _over(picture, seen * np.exp(-((p / a) ** 2) - (q / b) ** 2) * _inside(lung + 2), grey)
    dome = s.low + s.slope * np.where(x > 0, x, -0.6 * x)
    dome += s.bump * np.sin(x / 17 + 5 * s.slope + u)
    belly = np.maximum(dome + 4 * u - y, wall + 4.0)
    _over(picture, _inside(belly), 42 + 3 * grain)
    _over(picture, _inside(belly + 2.5), -(0.72 * s.fat + 12 * grain))
    for o in s.organs:
        d = np.maximum(o.distance(x, y, u), belly + 3.0)
        _over(picture, _inside(d), o.rim)
        spots = np.maximum(grain - 1.9, 0) * 30 if o.inside < 55 else 5 * grain
        _over(picture, _inside(d + o.wall), o.inside + spots)
    return picture


def _heart(s: _Scene, picture: Floats, x: Floats, y: Floats, at: tuple[int, float, float]) -> Bytes:
    """Paint one slice of the heart over the chest, in place, and return its labels (H,W).

    at: number of the slice, u, and phase, 0 (end-diastole) to 1 (end-systole).
    """
    (z, u, phase), labels = at, np.zeros(x.shape, dtype=np.uint8)
    grain, w, v = s.texture[z], s.waves, min(max(u, 0.0), 1.06)
    r, theta = np.hypot(x, y), np.arctan2(y, x)
    endo, thick = s.radius * (1 - 0.60 * v**2.4), s.wall * (1 - 0.2 * v * v)
    ring = (endo + thick) ** 2 - endo**2
    endo *= sqrt(1 - s.ejection * phase)
    epi = sqrt(endo**2 + ring * (1 + (s.growth - 1) * phase))
    d_epi = r - epi * (1 + w["epi"](theta, v))
    d_endo = r - endo * (1 + w["endo"](theta, v))
    d_endo = np.maximum(d_endo, d_epi + 2.2)
    # The right ventricle: an ellipse on the septal side, cut off by the left one.
    squeeze = sqrt(1 - 0.42 * phase)
    reach = s.rv_size * squeeze * 25.0 * (1 - 1.12 * v**1.5)
    a, b = epi * 0.35 + reach, (s.radius + s.wall) * s.rv_width * squeeze**0.7 * (1.05 - 0.45 * v)
    c, n = cos(s.septum), sin(s.septum)
    p, q = (c * x + n * y - epi * 0.65) / a, (c * y - n * x + 0.04 * b) / b
    angle = np.arctan2(q, p)
    d_rv = (np.hypot(p, q) - 1 - w["rv"](angle, v)) * (0.5 * (a + b))
    d_heart = np.minimum(d_epi, d_rv + 2.0 if reach > 1 else d_epi)
    # Fat: thick toward the chest wall, thin toward the lung.
    facing = np.maximum(np.cos(theta - (s.septum + 0.2)), 0)
    sac = 0.2 + 6 * facing**2 * (0.6 + v) + 1.5 * np.exp(w["sac"](theta, v))
    _over(picture, _inside(d_heart - 1.2 - sac, 1.6), -(0.75 * s.fat + 8 * grain))
    muscle, soft, flow = 66 + 5 * grain, 1.3 + 1.8 * v**3, s.septum * 3 + 1.3 * z
    swirl = cos(flow) * x + sin(flow) * y
    blood = s.blood * (1 + 0.06 * grain + 0.006 * swirl)
    if u < _VALVE_PLANE:  # above the valve plane: atria and great vessels, no label
        root = np.hypot(x + 5, y + 4) - 10.0
        atrium = np.hypot((x - 9) / 1.3, y - 9) - 0.72 * s.radius * (1 + w["endo"](theta, 0))
        _over(picture, _inside(np.minimum(d_rv, d_epi), 2.0), muscle)
        _over(picture, _inside(np.maximum(d_rv + 1.5, -(d_epi - 2.0))), 0.86 * blood)
        _over(picture, _inside(atrium), 0.95 * blood)
        _over(picture, _inside(root - 2.0), muscle)
        _over(picture, _inside(root), blood)
    elif u > _TIP:  # below the tip: fat and a smear of muscle
        _over(picture, 0.7 * _inside(r - 0.35 * epi, 5.0), muscle)
    if not _VALVE_PLANE <= u <= _TIP:
        return labels
    if reach > 1:
        cavity = np.maximum(d_rv, -(d_epi - 0.4))
        _over(picture, _inside(d_rv - 2.0), muscle)
        _over(picture, _inside(cavity, soft), 0.88 * blood)
        web = (0.4 + 0.6 * v) * _inside(0.7 - grain, 1.0) * _inside(-d_rv - 9 - 8 * v, 6.0)
        rough = (0.3 + 0.4 * v) * _inside(np.abs(d_rv + 1.5) - 30 * w["strand"](angle, v), 3.0)
        _over(picture, 0.75 * np.maximum(web, rough) * _inside(cavity), muscle)
        labels[cavity < 0] = RIGHT_VENTRICLE
    _over(picture, _inside(d_epi), muscle)
    _over(picture, _inside(d_endo, soft), blood)
    ragged = d_endo - 0.8 * endo * (np.abs(w["rough"](theta, v)) - 0.02) * (0.3 + v)
    trabecula = _inside(-(ragged + 0.14 * endo * (0.3 + v)), 2.0) * _inside(d_endo)
    _over(picture, 0.5 * trabecula, muscle)
    span = min(max(6 * min(u - 0.12, 0.9 - u), 0.0), 1.0)
    for turn, far, size in s.papillary:
        aim, grow = s.septum + turn, endo * size * (1 + 0.2 * phase)
        px, py = x - endo * far * cos(aim), y - endo * far * sin(aim)
        lump = np.hypot(px, py) - grow * (0.6 + 0.4 * span) * (1 + 0.3 * grain)
        _over(picture, span * _inside(lump, 1.5) * _inside(d_endo), 1.05 * muscle)
    labels[d_epi < 0] = MYOCARDIUM
    labels[d_endo < 0] = LEFT_VENTRICLE
    if s.outflow and u < 0.06:  # the outflow tract interrupts the ring of muscle
        gap = (np.cos(theta - (s.septum + 0.95)) > 0.95) & (d_endo >= 0) & (d_epi < 0)
        _over(picture, ndimage.gaussian_filter(gap.astype(np.float32), 0.7), 0.95 * blood)
        labels[gap] = BACKGROUND
    # The largest piece stays, if it is large enough.
    pieces, _ = ndimage.label(labels == RIGHT_VENTRICLE)
    sizes = np.bincount(pieces.ravel(), minlength=2)[1:]
    keep = int(sizes.argmax()) + 1 if sizes.max() >= _LEAST_RIGHT_VENTRICLE else -1
    labels[(pieces > 0) & (pieces != keep)] = BACKGROUND
    return labels


def _scan(s: _Scene, picture: Floats, x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """The picture as a scanner sees it: point spread, coil sensitivity, ghost, Rician noise."""
    (near, far, tilt, reach), half = s.coil, s.body[1]
    seen = np.abs(ndimage.gaussian_filter(picture, (s.blur, s.blur * 1.15)))
    coil = 0.75 + near * np.exp(-(((x + half) / reach) ** 2 + (y / 90) ** 2) / 1.5)
    coil += far * np.exp(-(((x - half) / reach) ** 2 + ((y - 20) / 90) ** 2) / 1.5)
    coil *= 1 - tilt * np.clip(y / 100, -1, 1)
    seen = seen * coil + 0.02 * np.roll(seen * coil, seen.shape[1] // 2, axis=1)
    real, other = rng.standard_normal((2, *seen.shape), dtype=np.float32) * s.noise
    return np.asarray(np.hypot(seen + real, other))


def cardiac_phantom(
    seed: int = 0, phase: float = 0.0, shape: tuple[int, int, int] = (10, 224, 224)
) -> Phantom:
    """A short-axis stack of shape (z,y,x) in a phase from 0 (end-diastole) to 1 (end-systole).

    A seed is a person. Raises ValueError for a shape below (1, 32, 32) or another phase.
    """
    if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < 32 or not 0.0 <= phase <= 1.0:
        raise ValueError(f"no phantom of shape {shape} (at least 1, 32, 32) at phase {phase} (0-1)")
    nz, ny, nx = shape
    s = _Scene(seed, shape)
    zoom = max(1.0, 160 / min(ny, nx)) * min(1.0, 256 / min(ny, nx))
    rng = np.random.default_rng([seed, 1 + round(1000 * phase)])
    dy, dx = np.mgrid[0:ny, 0:nx].astype(np.float32) * zoom
    dy, dx = dy - s.centre[0] * zoom, dx - s.centre[1] * zoom
    x, y = cos(s.turn) * dx + sin(s.turn) * dy, cos(s.turn) * dy - sin(s.turn) * dx
    image, labels = np.empty(shape, np.float32), np.zeros(shape, np.uint8)
    top = s.first + s.descent * phase
    for z in range(nz):
        u = (z - top) / max(s.last - top, 1.0)
        picture = _chest(s, x, y, z, z / max(nz - 1, 1))
        labels[z] = _heart(s, picture, x - s.jitter[z][0], y - s.jitter[z][1], (z, u, phase))
        image[z] = _scan(s, picture, x, y, rng)
    low, high = np.percentile(image, (1, 99))
    image = (image - low) * (255 / max(high - low, 1e-6))
    depth, flat = 10.0 if 6 <= nz <= 12 else round(100.0 / nz, 2), round(BASE_SPACING * zoom, 4)
    return Phantom(np.clip(image, 0, 255).astype(np.uint8), labels, (depth, flat, flat))


def cardiac_cine(
    seed: int = 0, frames: int = 2, shape: tuple[int, int, int] = (10, 224, 224)
) -> Phantom:
    """A series (t,z,y,x) in evenly spaced phases from end-diastole to end-systole."""
    run = [cardiac_phantom(seed, t, shape) for t in np.linspace(0.0, 1.0, frames).tolist()]
    image, labels = np.stack([p.image for p in run]), np.stack([p.labels for p in run])
    return Phantom(image, labels, run[0].spacing)


def drawn_as(numbers: Mapping[str, int]) -> NDArray[np.uint16]:
    """Lookup table from labels of a drawn heart to `numbers`, given by structure name."""
    lookup = np.zeros(max(DRAWN.values()) + 1, np.uint16)
    for name, label in DRAWN.items():
        lookup[label] = numbers[name]
    return lookup
