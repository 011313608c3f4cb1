"""Sampler of occluders: rods, boxes, cups and other people's arms, held by a hand or before both."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, pairwise

import numpy as np
from scipy.spatial.transform import Rotation

from ethand_utils.hands.raycast import vertex_normals
from ethand_utils.hands.rig import Rig
from ethand_utils.labels import RIGHT
from ethand_utils.rendering.skin import NOISE_SIDE, Surface, noise_at
from ethand_utils.rendering.subjects import sample_subject

SIDES = 16  # of a round shape
STEP, MAX_STEPS = 0.012, 24  # m from one row of vertices to the next, most rows of a side
SKIN_DEPTH = 0.009  # m from the bones of a finger to its skin
GAP = (0.002, 0.06)  # m between the hands and what is before them
HELD_COVER, COVER = (0.03, 0.5), (0.08, 0.5)  # share of a hand that is covered: of the hand that is covered most
MAX_INSIDE = 0.02  # share of a hand's skin that may be inside of what it holds
EVERY = 3  # takes every third point of the skin to estimate how much of it is covered
ATTEMPTS = 10  # at a place for an object, before another one is taken, which no hand holds


@dataclass(frozen=True)
class Material:
    """Looks of an object: linear RGB `colours` [2, 3] in a `pattern` (PATTERNS) of `period` m.

    `rough` is the strength of its relief, `gloss` that of its shine; its noise has `grain` m a voxel, and begins at
    `offset` [3] voxels.
    """

    colours: np.ndarray
    pattern: str
    period: float
    rough: float
    gloss: float
    offset: np.ndarray
    grain: float = 0.0016


@dataclass(frozen=True)
class Occluder:
    """An object of a `kind` (KINDS): a closed mesh in camera coordinates, m, and its looks.

    `own` [V, 3] are the `vertices` [V, 3] in the object's own frame, which is in the middle of its `size` [3] m; a
    `round` object has the axis z.
    """

    kind: str
    own: np.ndarray
    faces: np.ndarray
    size: np.ndarray
    round: bool
    material: Material
    vertices: np.ndarray | None = None

    @cached_property
    def normals(self) -> np.ndarray:
        """Outward unit normals [V, 3] of the vertices."""
        return vertex_normals(self.vertices, self.faces)

    def placed(self, rotation: np.ndarray, middle: np.ndarray) -> "Occluder":
        """Return the object with its own frame rotated by [3, 3] and shifted to `middle` [3] m."""
        return replace(self, vertices=self.own @ rotation.T + middle)


@dataclass(frozen=True)
class Grip:
    """Where a hand holds things, in camera coordinates, m.

    The middle of the `knuckles` [3]; unit vectors [3] `across` them to the index finger, `along` the fingers, and out
    of the `palm`; and the middle of the fingers, `reach` along and `depth` out of the palm from the knuckles.
    """

    knuckles: np.ndarray
    across: np.ndarray
    along: np.ndarray
    palm: np.ndarray
    reach: float
    depth: float


def find_grip(rig: Rig, joints: np.ndarray, hand: int) -> Grip:
    """Return the grip of the LEFT or RIGHT hand whose joints of the rig are at `joints` [J, 3] m."""
    knuckles, fingers = joints[rig.phalanges[1:, 0]], joints[rig.phalanges[1:] + 1].reshape(-1, 3)
    across = knuckles[0] - knuckles[-1]
    across /= np.linalg.norm(across)
    middle = knuckles.mean(0)
    along = middle - joints[rig.joint("wrist")]
    along -= across * (across @ along)
    along /= np.linalg.norm(along)
    palm = np.cross(across, along) * (1 if hand == RIGHT else -1)
    between = fingers.mean(0) - middle
    return Grip(middle, across, along, palm, between @ along, between @ palm)


def sample_occluder(rng: np.random.Generator, skin: np.ndarray, grips: list[Grip], hands: list[tuple]) -> Occluder:
    """Sample an object in or before the hands, which covers a good part of one of them but never all.

    Each hand has a grip, and points [n, 3] of its skin with their normals, in camera coordinates, m. Another person's
    arm is about as dark as the colour `skin` [3].
    """
    kind = str(rng.choice(list(KINDS), p=[share for _, share, _ in KINDS.values()]))
    make, _, held_share = KINDS[kind]
    held = rng.random() < held_share
    turned = [points[(points * normals).sum(1) < 0][::EVERY] for points, normals in hands]
    for attempt in count():
        if attempt % ATTEMPTS == 0:
            occluder = make(rng, skin)
        hand, holds = int(rng.integers(len(hands))), held and attempt < ATTEMPTS
        place = _hold(rng, occluder, grips[hand]) if holds else _lay(rng, occluder, turned, hand)
        low, high = HELD_COVER if holds else COVER
        covers = low < max(_hides(occluder, *place, points).mean() for points in turned) < high
        if covers and not (holds and _holds_inside(occluder, *place, hands[hand][0]).mean() > MAX_INSIDE):
            return occluder.placed(*place)


def covered_share(masks: np.ndarray, covered: np.ndarray) -> tuple[float, float]:
    """Return the share of the left and of the right hand's pixels that an occluder hides; NaN for an absent hand.

    `masks` uint8 [2, H, W] are the hands', `covered` bool [2, H, W] their pixels behind the occluder.
    """
    pixels = zip(covered, masks > 0, strict=True)
    return tuple(float(hidden[hand].mean()) if hand.any() else float("nan") for hidden, hand in pixels)


# Where it is


def _hold(rng: np.random.Generator, occluder: Occluder, grip: Grip) -> tuple[np.ndarray, np.ndarray]:
    """Return rotation [3, 3] and middle [3] of an object between fingers and palm, its z across and its y out of it."""
    tilt = Rotation.from_rotvec(rng.normal(0, np.radians([8, 20, 20]))).as_matrix()
    out = grip.palm * max(occluder.size[1] / 2 + SKIN_DEPTH, grip.depth)
    slide = grip.across * rng.uniform(-0.3, 0.3) * occluder.size[2]
    along = grip.along * grip.reach * rng.uniform(0.3, 0.9)
    return np.stack([grip.along, grip.palm, grip.across], axis=1) @ tilt, grip.knuckles + along + out + slide


def _lay(rng: np.random.Generator, occluder: Occluder, points: list, hand: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rotation [3, 3] and middle [3] of an object before all hands' `points`, over one of those of `hand`."""
    tilt = Rotation.from_rotvec(rng.normal(0, np.radians(LEAN[occluder.kind]), 3))
    rotation = (tilt * _standing(rng, occluder.kind)).as_matrix()
    behind = (occluder.own @ rotation[2]).max()
    depth = min(p[:, 2].min() for p in points) - rng.uniform(*GAP) - behind
    point = points[hand][rng.integers(len(points[hand]))]
    return rotation, point * depth / point[2]


def _standing(rng: np.random.Generator, kind: str) -> Rotation:
    """Return the rotation of an object whose z axis is upright in the image, or of a long one any way across it."""
    roll = rng.uniform(0, 2 * np.pi) if kind in ("rod", "arm") else rng.normal(0, 0.5)
    return Rotation.from_euler("ZXZ", [roll, np.pi / 2, rng.uniform(0, 2 * np.pi)])


def _hides(occluder: Occluder, rotation: np.ndarray, middle: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return which `points` [n, 3] an object there hides from the camera, bool [n]; it counts as a box or cylinder."""
    camera = -middle @ rotation / (occluder.size / 2)
    ways = (points - middle) @ rotation / (occluder.size / 2) - camera
    ends = np.sort([(-1 - camera) / ways, (1 - camera) / ways], axis=0)
    enters, leaves = ends[0].max(1), ends[1].min(1)
    if occluder.round:
        squared, mixed = (ways[:, :2] ** 2).sum(1), ways[:, :2] @ camera[:2]
        root = np.sqrt(np.maximum(mixed**2 - squared * (camera[:2] @ camera[:2] - 1), 0))
        enters = np.maximum(ends[0, :, 2], (-mixed - root) / squared)
        leaves = np.minimum(ends[1, :, 2], (-mixed + root) / squared)
    return (enters < leaves) & (enters < 1)


def _holds_inside(occluder: Occluder, rotation: np.ndarray, middle: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return which `points` [n, 3] are inside of the box about an object there: bool [n]."""
    return (np.abs((points - middle) @ rotation) < occluder.size / 2).all(1)


# What it is


def _rod(rng: np.random.Generator, skin: np.ndarray) -> Occluder:
    """Sample a stick, pen or tube."""
    radius, length = rng.uniform(0.004, 0.016), rng.uniform(0.12, 0.4)
    tip = radius * (rng.uniform(0.6, 1) if rng.random() < 0.3 else 1)
    profile = [(0, -length / 2), (radius, -length / 2), (tip, length / 2), (0, length / 2)]
    return _turned("rod", profile, _sample_material(rng, ("plain", "plain", "wood", "striped"), metal_share=0.25))


def _box(rng: np.random.Generator, skin: np.ndarray) -> Occluder:
    """Sample a box, book or telephone."""
    size = np.array([rng.uniform(0.05, 0.14), rng.uniform(0.006, 0.05), rng.uniform(0.05, 0.11)])
    patterns = ("plain", "plain", "wood", "striped", "checked", "speckled")
    return Occluder("box", *_box_mesh(size), size, False, _sample_material(rng, patterns, metal_share=0.1))


def _cup(rng: np.random.Generator, skin: np.ndarray) -> Occluder:
    """Sample a cup or glass, open at its upper end."""
    bottom, height, wall = rng.uniform(0.02, 0.035), rng.uniform(0.06, 0.12), 0.003
    top = bottom * rng.uniform(1, 1.4)
    outside = [(0, -height / 2), (bottom, -height / 2), (top, height / 2)]
    inside = [(top - wall, height / 2), (bottom - wall, wall - height / 2), (0, wall - height / 2)]
    patterns = ("plain", "plain", "striped", "checked", "speckled")
    return _turned("cup", outside + inside, _sample_material(rng, patterns, metal_share=0.15))


def _arm(rng: np.random.Generator, skin: np.ndarray) -> Occluder:
    """Sample another person's forearm, bare or sleeved; both of its ends are outside the image."""
    person, offset = sample_subject(rng), rng.uniform(0, NOISE_SIDE, 3)
    if rng.random() < 0.6:
        tone = np.sqrt(person.skin * skin)
        material = Material(np.stack([tone, tone * [1.05, 0.9, 0.9]]), "speckled", 0, 0.02, 0.5, offset)
    else:
        pattern = person.pattern if person.pattern in PATTERNS else "plain"
        material = Material(
            np.stack([person.shirt, person.trim]), pattern, rng.uniform(0.005, 0.03), 0.1, 0, offset, 0.0035
        )
    wrist, length = rng.uniform(0.022, 0.03), 0.66
    profile = [(0, -length / 2), (wrist, -length / 2), (wrist * rng.uniform(1.2, 1.8), length / 2), (0, length / 2)]
    return _turned("arm", profile, material, flat=rng.uniform(0.75, 1))


# Kinds as stores name them: sampler, share of the occluders, share of them that a hand holds.
KINDS: dict[str, tuple[Callable, float, float]] = {
    "rod": (_rod, 0.3, 0.6),
    "box": (_box, 0.25, 0.4),
    "cup": (_cup, 0.2, 0.4),
    "arm": (_arm, 0.25, 0.0),
}
LEAN = {"rod": 12, "box": 25, "cup": 15, "arm": 7}  # degrees about each axis of what no hand holds


def _turned(kind: str, profile: list[tuple[float, float]], material: Material, flat: float = 1) -> Occluder:
    """Return the solid of revolution about z of a `profile` of (radius, z) m, from its lower to its upper end.

    Every edge of the profile has vertices of its own, so that the solid has sharp edges; y is scaled by `flat`.
    """
    around = np.arange(SIDES) * 2 * np.pi / SIDES
    circle = np.stack([np.cos(around), flat * np.sin(around)], axis=1)
    vertices, faces, first = [], [], 0
    for start, end in pairwise(profile):
        rows = 1 + int(np.clip(np.hypot(*np.subtract(end, start)) / STEP, 1, MAX_STEPS))
        radius, z = np.linspace(start, end, rows).T[..., None, None]
        vertices.append(np.concatenate([radius * circle, np.broadcast_to(z, (rows, SIDES, 1))], axis=2).reshape(-1, 3))
        faces.append(first + _grid_faces(rows, SIDES, closed=True))
        first += rows * SIDES
    radii, z = np.transpose(profile)
    width = 2 * radii[radii > 0].mean()
    size = np.array([width, flat * width, np.ptp(z)])
    return Occluder(kind, np.concatenate(vertices), np.concatenate(faces), size, True, material)


def _box_mesh(size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices [V, 3] and faces [F, 3] of a box of `size` [3] m about the origin, with sharp edges."""
    vertices, faces, first = [], [], 0
    for axis in range(3):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        rows, columns = (2 + int(size[k] / STEP) for k in (a, b))
        for sign in (-0.5, 0.5):
            side = np.empty((rows, columns, 3))
            side[..., axis] = sign * size[axis]
            side[..., a] = np.linspace(-0.5, 0.5, rows)[:, None] * size[a]
            side[..., b] = np.linspace(-0.5, 0.5, columns) * size[b]
            vertices.append(side.reshape(-1, 3))
            faces.append(first + _grid_faces(rows, columns)[:, :: -1 if sign > 0 else 1])
            first += rows * columns
    return np.concatenate(vertices), np.concatenate(faces)


def _grid_faces(rows: int, columns: int, closed: bool = False) -> np.ndarray:
    """Return the triangles [F, 3] of a grid of vertices; a `closed` one goes on from its last column to its first."""
    row, column = np.divmod(np.arange((rows - 1) * columns), columns)
    a, b = row * columns + column, row * columns + (column + 1) % columns
    inside = closed | (column < columns - 1)
    return np.concatenate(
        [np.stack([a, b, a + columns], 1)[inside], np.stack([b, b + columns, a + columns], 1)[inside]]
    )


# How it looks


def _sample_material(rng: np.random.Generator, patterns: tuple[str, ...], metal_share: float) -> Material:
    """Sample the looks of a thing: metal, wood, or any colours in one of the `patterns`."""
    pattern, offset = str(rng.choice(patterns)), rng.uniform(0, NOISE_SIDE, 3)
    tint = rng.uniform(0.1, 1, (2, 3)) ** rng.uniform(0, 2, (2, 1))
    colours = tint / tint.max(1, keepdims=True) * rng.uniform(0.15, 0.95, (2, 1)) ** 2
    if rng.random() < metal_share:
        grey = rng.uniform(0.15, 0.5) * rng.uniform(0.85, 1, 3)
        return Material(np.stack([grey, grey]), "plain", 0, 0.01, rng.uniform(5, 12), offset)
    if pattern == "wood":
        light = np.array([0.45, 0.25, 0.11]) * rng.uniform(0.3, 1.6)
        colours = np.stack([light, 0.6 * light])
    return Material(colours, pattern, rng.uniform(0.006, 0.04), rng.uniform(0, 0.03), rng.exponential(0.8), offset)


def _bands(along: np.ndarray, period: float) -> np.ndarray:
    return ((along / period) % 1 < 0.4).astype(np.float32)


# Share of the second colour, float [m] 0…1, at points [m, 3] m with noise [m, 4], by pattern.
PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "plain": lambda points, noise, period: np.zeros(len(points), np.float32),
    "striped": lambda points, noise, period: _bands(points[:, 2], period),
    "checked": lambda points, noise, period: (_bands(points[:, 2], period) + _bands(points[:, 0], period)) / 2,
    "speckled": lambda points, noise, period: np.clip(0.25 + 0.25 * noise[:, 0], 0, 1),
    "wood": lambda points, noise, period: np.clip(0.3 + 0.5 * noise[:, 0], 0, 1),
}


def occluder_surface(own: np.ndarray, material: Material) -> Surface:
    """Return the looks of m points of an object, at `own` [m, 3] m in its own frame."""
    streaks = [1, 1, 0.08] if material.pattern == "wood" else 1
    noise = noise_at(own / material.grain * streaks, material.offset)
    share = PATTERNS[material.pattern](own, noise, material.period)[:, None]
    first, second = material.colours.astype(np.float32)
    albedo = (first + share * (second - first)) * (1 + 0.04 * noise[:, :1])
    gloss = np.full(len(own), material.gloss, np.float32)
    return Surface(np.clip(albedo, 0.005, 1).astype(np.float32), material.rough * noise[:, 1:], gloss)
