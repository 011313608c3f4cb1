"""The 21 joints that data sets annotate: their orders, their places in the generic hand, guesses of missing ones."""

from dataclasses import replace
from functools import cache

import numpy as np

from ethand_utils.hands.rig import Rig, load_rig
from ethand_utils.labels import FINGERS, N_JOINTS

# Each finger's joints from base to tip in the order of `labels.JOINT_PARTS`, which is InterHand2.6M's.
CHAINS = np.arange(4 * len(FINGERS)).reshape(-1, 4)[:, ::-1]
WRIST = N_JOINTS - 1

# For every joint of `labels.JOINT_PARTS` its place in another data set's list of a hand's joints.
ORDERS = {
    "interhand": np.arange(N_JOINTS),
    "freihand": np.array(
        [4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13, 20, 19, 18, 17, 0]
    ),  # wrist, base … tip
    "rhd": np.array([*range(1, N_JOINTS), 0]),  # wrist, then tip … base
}

# Where the annotated joints lie in the generic hand, m, calibrated on InterHand2.6M: shift of the thumb's base joint
# and of the wrist from the mesh's own, of the thumb's other two towards its pad, and the depth of the fingertips below
# the end of the skin.
THUMB_BASE_SHIFT = (0.0024, -0.0016, 0.0107)
THUMB_PADWARDS = 0.002
WRIST_SHIFT = (0.0, 0.0, -0.003)
TIP_DEPTH = 0.003

WRIST_FLARE, FLARE_LENGTH = 0.06, 0.04  # share by which wrists are broader than the mesh's, and m to where that ends
FOLLOWS = 0.6  # bend of the last joint of a finger over that of the one before it, where it is unknown


def directions(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., 3] at length 1; those of length 0 stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def rotate(turns: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Matrices [..., 3, 3] applied to vectors [..., 3]."""
    return (turns @ vectors[..., None])[..., 0]


def inverse(turns: np.ndarray) -> np.ndarray:
    """Inverses of rotations [..., 3, 3]."""
    return np.swapaxes(turns, -1, -2)


def rotation_about(axes: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Rotations [..., 3, 3] by `angles` [...] (rad) about unit vectors [..., 3]."""
    x, y, z = np.moveaxis(axes, -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*axes.shape, 3)
    sine, cosine = (f(angles)[..., None, None] for f in (np.sin, np.cos))
    return np.eye(3) + sine * cross + (1 - cosine) * (cross @ cross)


def rotation_towards(start: np.ndarray, goal: np.ndarray, most: np.ndarray) -> np.ndarray:
    """The smallest rotations [..., 3, 3] of unit vectors [..., 3] onto others, by the angles `most` (rad) at most."""
    axes = np.cross(start, goal)
    angles = np.arctan2(np.linalg.norm(axes, axis=-1), (start * goal).sum(-1))
    return rotation_about(directions(axes), np.minimum(angles, most))


def bend_and_lean(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Angles [...] (rad) of vectors [..., 3] in a joint's frame, where straight on is −z: towards −y, then to −x."""
    x, y, z = np.moveaxis(directions(vectors), -1, 0)
    return np.arctan2(-y, -z), -np.arcsin(np.clip(x, -1, 1))


def bent(bend: np.ndarray, lean: np.ndarray) -> np.ndarray:
    """Rotations [..., 3, 3] that take −z where `bend_and_lean` gives these angles [...]."""
    bend, lean = np.broadcast_arrays(bend, lean)
    cb, sb, cl, sl = np.cos(bend), np.sin(bend), np.cos(lean), np.sin(lean)
    rows = [cl, np.zeros_like(cl), sl, -sl * sb, cb, cl * sb, -sl * cb, -sb, cl * cb]
    return np.stack(rows, -1).reshape(*cl.shape, 3, 3)


def nearest_angle(angles: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """The same angles (rad), within half a turn of `middle`."""
    return (angles - middle + np.pi) % (2 * np.pi) - np.pi + middle


@cache
def generic_hand() -> Rig:
    """The generic right hand as it is fitted: closed at the wrist, which is as broad as people's."""
    rig = load_rig(forearm=False)
    vertices = rig.vertices.copy()
    vertices[:, 0] *= 1 + WRIST_FLARE * np.clip(1 + vertices[:, 2] / FLARE_LENGTH, 0, 1)
    return replace(rig, vertices=vertices)


@cache
def landmarks() -> np.ndarray:
    """The annotated joints' places in the generic right hand at rest, float [21, 3] m."""
    rig = generic_hand()
    rest = rig.rest[:, :3, 3]
    points = np.zeros((N_JOINTS, 3))
    points[CHAINS[:, :3]] = rest[rig.phalanges]
    points[CHAINS[0, 0]] += THUMB_BASE_SHIFT
    points[CHAINS[0, 1:3]] -= THUMB_PADWARDS * rig.rest[rig.phalanges[0, 1:], :3, 1]
    points[WRIST] = rest[rig.joint("wrist")] + WRIST_SHIFT
    for chain, bones in zip(CHAINS, rig.phalanges, strict=True):
        last, tip = bones[-1], bones[-1] + 1
        along = directions(rest[tip] - rest[last])
        skin = rig.vertices[rig.weights[:, [last, tip]].sum(1) > 0.5]
        points[chain[3]] = rest[last] + along * (((skin - rest[last]) @ along).max() - TIP_DEPTH)
    return points


def complete_joints(
    points: np.ndarray, known: np.ndarray, lengths: np.ndarray, hinges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Guesses for unknown joints of fingers whose base is known: points float [B, 21, 3], and which are known now.

    Joints between two known ones are where bones of their `lengths` [B, 5, 3] meet when the finger bends about its
    hinge (unit `hinges` [B, 5, 3]); an unknown tip follows the joint before it.
    """
    points, known = points.copy(), known.copy()

    def fill(place: int, where: np.ndarray, found: np.ndarray) -> None:
        here = CHAINS[:, place]
        points[:, here] = np.where(where[..., None], found, points[:, here])
        known[:, here] |= where

    base, middle, end, tip = (known[:, CHAINS[:, place]] for place in range(4))
    first, second, third = np.moveaxis(lengths, -1, 0)
    whole = _two_bone_ik(points[:, CHAINS[:, 0]], points[:, CHAINS[:, 3]], first, second + third, hinges)
    fill(1, base & ~middle & ~end & tip, whole)
    fill(1, base & ~middle & end, _two_bone_ik(points[:, CHAINS[:, 0]], points[:, CHAINS[:, 2]], first, second, hinges))
    middle = known[:, CHAINS[:, 1]]
    fill(2, middle & ~end & tip, _two_bone_ik(points[:, CHAINS[:, 1]], points[:, CHAINS[:, 3]], second, third, hinges))
    fill(3, known[:, CHAINS[:, :3]].all(2) & ~tip, _following(points, third))
    return points, known


def _following(points: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Tips [B, 5, 3], where the last joint bends FOLLOWS times as far as the one before it."""
    bones = directions(np.diff(points[:, CHAINS[:, :3]], axis=2))
    bend = np.arccos(np.clip((bones[:, :, 0] * bones[:, :, 1]).sum(-1), -1, 1))
    axis = directions(np.cross(bones[:, :, 0], bones[:, :, 1]))
    last = rotate(rotation_about(axis, FOLLOWS * bend), bones[:, :, 1])
    return points[:, CHAINS[:, 2]] + length[..., None] * last


def _two_bone_ik(
    start: np.ndarray, end: np.ndarray, first: np.ndarray, second: np.ndarray, hinge: np.ndarray
) -> np.ndarray:
    """Where bones `first` and `second` long [...] between points [..., 3] meet, towards the back of the hand."""
    along = directions(end - start)
    far = np.linalg.norm(end - start, axis=-1)
    way = np.clip((far**2 + first**2 - second**2) / np.maximum(2 * far, 1e-9), -first, first)
    back = directions(np.cross(hinge, along))
    return start + along * way[..., None] + back * np.sqrt(first**2 - way**2)[..., None]
