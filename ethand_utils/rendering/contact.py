"""Contact of two hands: spheres that fill a hand, their first contact, and the penetration of two meshes."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.spatial import cKDTree

from ethand_utils.hands.rig import PosedRig, Rig, Shape
from ethand_utils.labels import PALM

SPHERE_STEP = 0.007  # m between spheres along a finger
PALM_CELL, PALM_RADIUS = 0.013, 0.0095  # m between and within spheres of the palm, one layer a side
FOREARM_STEPS = (0.03, 0.06, 0.1, 0.15)  # m beyond the wrist of the forearm's spheres
REACH = 0.014  # m: a vertex whose nearest neighbour on the other mesh is farther cannot be inside it


@dataclass(frozen=True)
class Spheres:
    """Spheres in a hand at rest: `centres` float [S, 3] and `radii` [S] m, and the `joint` each follows, int [S]."""

    centres: np.ndarray
    radii: np.ndarray
    joint: np.ndarray

    def posed_centres(self, posed: PosedRig) -> np.ndarray:
        """Return centres float [B, S, 3] m in B poses, in the forearm's frame."""
        rotated = (posed.linear[:, self.joint] @ self.centres[:, :, None])[..., 0]
        return rotated + posed.shift[:, self.joint]

    def scaled_radii(self, rig: Rig, shape: Shape) -> np.ndarray:
        """Return radii float [S] m in a hand of this shape."""
        girth = np.append(shape.thickness, 1.0)[rig.finger_of[self.joint]]
        return self.radii * girth * shape.scale * (shape.breadth + shape.depth) / 2


@cache
def hand_spheres(rig: Rig) -> Spheres:
    """Fill an arm with spheres: rows along phalanges and forearm, two layers in the palm."""
    groups = [_finger_spheres(rig), _palm_spheres(rig), _forearm_spheres(rig)]
    centres, radii, joint = (np.concatenate(values) for values in zip(*groups, strict=True))
    return Spheres(centres, radii, joint)


def _finger_spheres(rig: Rig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return centres, radii and joints of rows of spheres along the phalanges, each as thick as the skin about it."""
    nearest, rest = rig.weights.argmax(1), rig.rest[:, :3, 3]
    spheres = []
    for joint in rig.phalanges.ravel():
        last = rig.names[joint].endswith("distal")
        skin = rig.vertices[np.isin(nearest, [joint, joint + 1] if last else [joint])]
        axis = rest[joint + 1] - rest[joint]
        axis /= np.linalg.norm(axis)
        along = (skin - rest[joint]) @ axis
        centre = skin.mean(0)
        girth = np.median(np.linalg.norm(skin - centre - ((skin - centre) @ axis)[:, None] * axis, axis=1))
        low, high = max(along.min(), 0) + girth * 0.4, along.max() - girth * (0.9 if last else 0.4)
        for distance in np.linspace(low, high, max(2, round((high - low) / SPHERE_STEP) + 1)):
            slab = skin[np.abs(along - distance) < SPHERE_STEP]
            middle = (slab.min(0) + slab.max(0)) / 2
            middle += axis * (distance - (middle - rest[joint]) @ axis)
            around = slab - middle
            radius = np.linalg.norm(around - (around @ axis)[:, None] * axis, axis=1).mean()
            spheres.append((middle, min(radius, girth * 1.15), joint))
    centres, radii, joints = zip(*spheres, strict=True)
    return np.array(centres), np.array(radii), np.array(joints)


def _palm_spheres(rig: Rig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return centres, radii and joints of a grid of spheres below the palm's skin, one layer a side."""
    skin = rig.vertices[rig.part_weights.argmax(1) == PALM]
    low, high = skin[:, 2].min(), skin[:, 2].max()
    centres, radii = [], []
    for z in np.arange(high - PALM_CELL / 2, low + PALM_CELL / 2, -PALM_CELL):
        row = skin[np.abs(skin[:, 2] - z) < PALM_CELL * 0.6, 0]
        left, right = row.min() + PALM_RADIUS, row.max() - PALM_RADIUS
        for x in np.linspace(left, right, max(1, round((right - left) / PALM_CELL) + 1)):
            cell = skin[(np.abs(skin[:, [0, 2]] - [x, z]) < PALM_CELL * 0.6).all(1), 1]
            if len(cell) >= 3 and np.ptp(cell) > PALM_RADIUS:
                radius = min(PALM_RADIUS, np.ptp(cell) / 2)
                centres += [[x, cell.min() + radius, z], [x, cell.max() - radius, z]]
                radii += [radius, radius]
    return np.array(centres), np.array(radii), np.full(len(radii), rig.joint("wrist"))


def _forearm_spheres(rig: Rig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return centres, radii and joints of a row of spheres along the forearm."""
    forearm = rig.vertices[np.unique(rig.forearm)]
    slabs = [forearm[np.abs(forearm[:, 2] - z) < 0.025] for z in FOREARM_STEPS]
    centres = np.array([(slab.min(0) + slab.max(0)) / 2 for slab in slabs])
    girth = [np.linalg.norm((slab - c)[:, :2], axis=1).mean() for slab, c in zip(slabs, centres, strict=True)]
    return centres, np.array(girth), np.full(len(centres), rig.joint("forearm"))


def overlap(a: np.ndarray, a_radii: np.ndarray, b: np.ndarray, b_radii: np.ndarray) -> np.ndarray:
    """Return how deep spheres `a` [..., S, 3] are in spheres `b` [T, 3]: float [..., S] m, negative where apart."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    squared = (a**2).sum(-1)[..., None] + (b**2).sum(-1) - 2 * (a @ b.T)
    reach = (a_radii[:, None] + b_radii).astype(np.float32)
    return (reach - np.sqrt(np.maximum(squared, 0))).max(-1)


def first_contact(
    moving: np.ndarray, moving_radii: np.ndarray, still: np.ndarray, still_radii: np.ndarray, direction: np.ndarray
) -> float:
    """Return how far to shift spheres `moving` [S, 3] along a unit `direction` [3] to where they first touch `still`.

    They come from far away towards `still` [T, 3]; the distance is in m from where they are now (negative: back), NaN
    where they pass each other.
    """
    between = (moving[:, None] - still).reshape(-1, 3)
    reach = (moving_radii[:, None] + still_radii).ravel()
    ahead = between @ direction
    beside = ahead**2 - (between**2).sum(1) + reach**2
    meets = beside > 0
    return float((-ahead[meets] - np.sqrt(beside[meets])).min()) if meets.any() else float("nan")


def penetration(a: np.ndarray, a_normals: np.ndarray, b: np.ndarray, b_normals: np.ndarray) -> float:
    """Return the depth in m of the deepest vertex of either closed mesh inside the other: 0 where they are apart.

    Vertices float [V, 3] have outward unit normals. The depth of a vertex is its distance to the tangent plane of the
    other mesh's nearest vertex.
    """
    low, high = np.maximum(a.min(0), b.min(0)), np.minimum(a.max(0), b.max(0))
    if (low > high + REACH).any():
        return 0.0
    near_a, near_b = (((v > low - REACH) & (v < high + REACH)).all(1) for v in (a, b))
    pairs = ((a[near_a], b[near_b], b_normals[near_b]), (b[near_b], a[near_a], a_normals[near_a]))
    return max(_deepest(points, surface, normals) for points, surface, normals in pairs)


def _deepest(points: np.ndarray, surface: np.ndarray, normals: np.ndarray) -> float:
    if not len(points) or not len(surface):
        return 0.0
    distance, nearest = cKDTree(surface).query(points, distance_upper_bound=REACH)
    near = np.isfinite(distance)
    nearest = nearest[near]
    inside = -((points[near] - surface[nearest]) * normals[nearest]).sum(1)
    return float(np.clip(inside, 0, distance[near]).max(initial=0.0))
