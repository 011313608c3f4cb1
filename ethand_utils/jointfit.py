"""The generic hand fitted to the 21 annotated joints of real ones (REFERENCE.md section 4)."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from ethand_utils.handmesh import LIMITS, Posed, load_rig
from ethand_utils.labels import FINGERS, N_JOINTS

# How far an angle may lie beyond LIMITS, rad [5 fingers, 4 angles]: people differ, and annotated joints are mm off.
MARGINS = np.radians([[45, 45, 30, 40], *[[15, 25, 20, 30]] * 4])
SIDEWAYS = np.radians(15)  # that a bone may lean to the side at a joint that only bends, at most
STRETCH = (0.7, 1.45)  # bounds of a bone's length over that of the generic hand at the same overall scale
PALM_TURN = np.radians(20)  # that a bone of the palm may turn against the palm, at most
THUMB_SLIDE = 0.012  # m that the thumb's base may lie from where the palm has it, at most
TWIST = np.radians([50, *[25] * 4])  # bounds of a finger's roll about its first bone
TWIST_STEADY = 0.35  # length of the sum of a finger's two hinge axes at which half of the measured roll is believed
SCALES = (0.45, 1.6)  # of a whole hand over the generic one; children's are smaller
FOLLOWS = 0.6  # bend of a joint over that of the one before it, where nothing is known of it

# Where the annotated joints lie in the generic hand, m, calibrated on InterHand2.6M: shift of the thumb's base joint
# and of the wrist from the mesh's own, and the depth of the fingertips below the end of the skin.
THUMB_BASE_SHIFT = (0.0024, -0.0016, 0.0107)
WRIST_SHIFT = (0.0, 0.0, -0.003)
TIP_DEPTH = 0.003

CHAINS = np.arange(4 * len(FINGERS)).reshape(-1, 4)[:, ::-1]  # each finger's joints from base to tip, as annotated
WRIST = N_JOINTS - 1
PALM_WEIGHTS = np.zeros(N_JOINTS)
PALM_WEIGHTS[[WRIST, *CHAINS[1:, 0]]] = 1
PALM_WEIGHTS[CHAINS[0, 0]] = 0.3  # the thumb's base moves


@dataclass(frozen=True)
class Fit:
    """The generic hand in B poses: `posed` its bones, `joints` float [B, 21, 3] m its own at the annotated places.

    `residual` float [B, 21] mm: how far they are from there, NaN where nothing was annotated.
    """

    posed: Posed
    joints: np.ndarray
    residual: np.ndarray


@cache
def _landmarks() -> np.ndarray:
    """The annotated joints' places in the generic right hand at rest, float [21, 3] m."""
    rig = load_rig(forearm=False)
    rest = rig.rest[:, :3, 3]
    points = np.zeros((N_JOINTS, 3))
    points[CHAINS[:, :3]] = rest[rig.phalanges]
    points[CHAINS[0, 0]] += THUMB_BASE_SHIFT
    points[WRIST] = rest[rig.joint("wrist")] + WRIST_SHIFT
    for chain, bones in zip(CHAINS, rig.phalanges, strict=True):
        last, tip = bones[-1], bones[-1] + 1
        along = (rest[tip] - rest[last]) / np.linalg.norm(rest[tip] - rest[last])
        skin = rig.vertices[rig.weights[:, [last, tip]].sum(1) > 0.5]
        points[chain[3]] = rest[last] + along * (((skin - rest[last]) @ along).max() - TIP_DEPTH)
    return points


def fit_joints(points: np.ndarray, known: np.ndarray) -> Fit:
    """Fit the generic right hand to `points` float [B, 21, 3] (m, order of `labels.JOINT_PARTS`), `known` bool [B, 21].

    In closed form, from the palm outwards: overall size from all bones, the palm placed on wrist and finger bases, its
    bones and then each finger's turned towards the next joint and stretched to it. Angles, lengths and roll stay
    within what hands can do, so that a joint that is annotated wrongly keeps a residual and does not tear the skin.
    A finger's roll is that of the plane in which it bends. An unknown joint is bent as its neighbour is.
    """
    scale = _overall_scale(points, known)
    turn, shift = _place_palm(points, known, scale)
    rig, rest = load_rig(forearm=False), _landmarks()
    count = len(points)
    linear = np.broadcast_to((scale[:, None, None] * turn)[:, None], (count, len(rig.names), 3, 3)).copy()
    moved = np.broadcast_to(shift[:, None], (count, len(rig.names), 3)).copy()
    joints = np.zeros((count, N_JOINTS, 3))
    joints[:, WRIST] = _apply(linear[:, 0], moved[:, 0], rest[WRIST])
    turns = np.repeat(turn[:, None], len(FINGERS), axis=1)

    _bend_palm(points, known, scale, turns, linear, moved, joints)
    _bend_fingers(points, known, scale, turns, linear, moved, joints)
    residual = 1000 * np.linalg.norm(joints - points, axis=-1)
    at = _apply(linear, moved, rig.rest[:, :3, 3])
    return Fit(Posed(linear, moved, at), joints, np.where(known, residual, np.nan))


def _apply(linear: np.ndarray, shift: np.ndarray, points: np.ndarray) -> np.ndarray:
    return (linear @ points[..., None])[..., 0] + shift


def _overall_scale(points: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Size [B] over the generic hand's, from the lengths of all known bones and from wrist to finger bases."""
    starts = np.concatenate([CHAINS[:, :3].ravel(), [WRIST] * 4])
    ends = np.concatenate([CHAINS[:, 1:].ravel(), CHAINS[1:, 0]])
    both = known[:, starts] & known[:, ends]
    lengths = np.linalg.norm(points[:, ends] - points[:, starts], axis=-1)
    generic = np.linalg.norm(_landmarks()[ends] - _landmarks()[starts], axis=-1)
    scale = (lengths * both).sum(1) / np.maximum((generic * both).sum(1), 1e-9)
    return np.clip(scale, *SCALES)


def _place_palm(points: np.ndarray, known: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation [B, 3, 3] and shift [B, 3] that lay the scaled palm on its known joints in the least-squares sense."""
    weights = PALM_WEIGHTS * known
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-9)
    rest = _landmarks()
    middle, target = weights @ rest, np.einsum("bj,bjk->bk", weights, points)
    spread = np.einsum("bj,bjk,bjl->bkl", weights, points - target[:, None], rest - middle[:, None])
    u, _, vt = np.linalg.svd(spread)
    flip = np.ones((len(points), 3))
    flip[:, 2] = np.sign(np.linalg.det(u @ vt))
    turn = (u * flip[:, None]) @ vt
    return turn, target - scale[:, None] * (turn @ middle[..., None])[..., 0]


def _bend_palm(points, known, scale, turns, linear, moved, joints) -> None:
    """Turn and stretch the palm's four bones towards the finger bases, and slide the thumb's base to its place."""
    rig, rest = load_rig(forearm=False), _landmarks()
    bones = rig.phalanges[1:, 0] - 1
    bases = CHAINS[1:, 0]
    start, along = rig.rest[bones, :3, 3], rest[bases] - rig.rest[bones, :3, 3]
    length = np.linalg.norm(along, axis=-1)
    along = along / length[:, None]
    at = _apply(linear[:, bones], moved[:, bones], start)
    to = points[:, bases] - at
    reach = np.linalg.norm(to, axis=-1)
    wanted = (turns[:, 1:].swapaxes(-1, -2) @ (to / np.maximum(reach, 1e-9)[..., None])[..., None])[..., 0]
    turn = turns[:, 1:] @ _towards(along, wanted, np.where(known[:, bases], PALM_TURN, 0))
    stretch = np.where(known[:, bases], np.clip(reach / length, *_bounds(scale)), scale[:, None])
    turns[:, 1:] = turn
    _set_bones(bones, turn, start, at, along, scale, stretch, linear, moved)
    joints[:, bases] = _apply(linear[:, bones], moved[:, bones], rest[bases])

    thumb = CHAINS[0, 0]
    base = _apply(linear[:, 0], moved[:, 0], rest[thumb])
    slide = np.where(known[:, thumb, None], points[:, thumb] - base, 0)
    far = np.linalg.norm(slide, axis=-1, keepdims=True) / (THUMB_SLIDE * scale[:, None])
    joints[:, thumb] = base + slide / np.maximum(far, 1)


def _bend_fingers(points, known, scale, turns, linear, moved, joints) -> None:
    """Bone by bone from the base, all fingers at a time: turn it towards the next joint and stretch it."""
    rig, rest = load_rig(forearm=False), _landmarks()
    flexion = np.zeros(turns.shape[:2])
    for step in range(3):
        bones, here, there = rig.phalanges[:, step], CHAINS[:, step], CHAINS[:, step + 1]
        axes = rig.rest[bones, :3, :3]
        along = rest[there] - rest[here]
        length = np.linalg.norm(along, axis=-1)
        along = along / length[:, None]
        straight = (axes.swapaxes(-1, -2) @ along[..., None])[..., 0]
        at, sure = joints[:, here], known[:, there]
        to = points[:, there] - at
        frame = turns @ axes
        wanted = (frame.swapaxes(-1, -2) @ to[..., None])[..., 0]
        bend, lean = _angles(wanted)
        bend0, lean0 = _angles(straight)
        guess = FOLLOWS * flexion if step else flexion
        low, high = LIMITS[:, 1 + step, 0] - MARGINS[:, 1 + step], LIMITS[:, 1 + step, 1] + MARGINS[:, 1 + step]
        aside = LIMITS[:, 0] + MARGINS[:, :1] * (-1, 1) if step == 0 else np.array([[-SIDEWAYS, SIDEWAYS]])
        flexion = np.clip(np.where(sure, _wrapped(bend - bend0, (low + high) / 2), guess), low, high)
        lean = np.clip(np.where(sure, lean - lean0, 0), aside[:, 0], aside[:, 1])
        local = _bent(bend0 + flexion, lean0 + lean) @ _bent(bend0, lean0).swapaxes(-1, -2)
        turns = frame @ local @ axes.swapaxes(-1, -2)
        if step == 0:
            turns = _roll(turns, along, points, known)
        direction = (turns @ along[..., None])[..., 0]
        reach = np.einsum("bfk,bfk->bf", direction, to)
        stretch = np.where(sure, np.clip(reach / length, *_bounds(scale)), scale[:, None])
        _set_bones(bones, turns, rest[here], at, along, scale, stretch, linear, moved)
        joints[:, there] = _apply(linear[:, bones], moved[:, bones], rest[there])
    tips = rig.phalanges[:, -1]
    linear[:, tips + 1], moved[:, tips + 1] = linear[:, tips], moved[:, tips]


def _set_bones(bones, turns, start, at, along, scale, stretch, linear, moved) -> None:
    """Move bones from rest point `start` [k, 3], along `along` [k, 3], to `at` [B, k, 3], turned and stretched."""
    outer = along[:, :, None] * along[:, None, :]
    body = scale[:, None, None, None] * np.eye(3) + (stretch - scale[:, None])[..., None, None] * outer
    linear[:, bones] = turns @ body
    moved[:, bones] = at - (linear[:, bones] @ start[..., None])[..., 0]


def _bounds(scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest stretch [B, 1] of a bone of hands of size `scale` [B]."""
    return STRETCH[0] * scale[:, None], STRETCH[1] * scale[:, None]


def _angles(directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flexion and sideways angle [...] (rad) of directions [..., 3] in a joint's frame, where straight on is −z."""
    x, y, z = np.moveaxis(directions / np.maximum(np.linalg.norm(directions, axis=-1, keepdims=True), 1e-9), -1, 0)
    return np.arctan2(-y, -z), -np.arcsin(np.clip(x, -1, 1))


def _bent(flexion: np.ndarray, lean: np.ndarray) -> np.ndarray:
    """Rotations [..., 3, 3] by `lean` about y, then by minus `flexion` about x; the inverse of `_angles`."""
    cf, sf, cl, sl = np.cos(flexion), np.sin(flexion), np.cos(lean), np.sin(lean)
    zero = np.zeros_like(cf * cl)
    rows = [cl, zero, sl, -sl * sf, cf, cl * sf, -sl * cf, -sf, cl * cf]
    return np.stack(np.broadcast_arrays(*rows), -1).reshape(*zero.shape, 3, 3)


def _wrapped(angle: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """The same angles within half a turn of `middle`."""
    return (angle - middle + np.pi) % (2 * np.pi) - np.pi + middle


def _towards(start: np.ndarray, goal: np.ndarray, most: np.ndarray) -> np.ndarray:
    """The smallest rotations [B, k, 3, 3] of unit vectors [k, 3] onto others [B, k, 3], by the angle `most` at most."""
    axis = np.cross(np.broadcast_to(start, goal.shape), goal)
    sine = np.linalg.norm(axis, axis=-1)
    angle = np.minimum(np.arctan2(sine, (start * goal).sum(-1)), most)
    return _about(axis / np.maximum(sine, 1e-9)[..., None], angle)


def _about(axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rotations [..., 3, 3] by `angle` [...] about unit vectors [..., 3]."""
    x, y, z = np.moveaxis(axis, -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*axis.shape, 3)
    return np.eye(3) + np.sin(angle)[..., None, None] * cross + (1 - np.cos(angle))[..., None, None] * (cross @ cross)


def _roll(turns: np.ndarray, along: np.ndarray, points: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Roll fingers about their first bone so that their joints bend in the plane in which the points lie."""
    rig = load_rig(forearm=False)
    bones = np.diff(points[:, CHAINS], axis=2)
    bones /= np.maximum(np.linalg.norm(bones, axis=-1, keepdims=True), 1e-9)
    hinge = -(np.cross(bones[:, :, 0], bones[:, :, 1]) + np.cross(bones[:, :, 1], bones[:, :, 2]))
    first = (turns @ along[..., None])[..., 0]
    axis = turns @ rig.rest[rig.phalanges[:, 1], :3, 0][..., None]
    axis = axis[..., 0] - first * np.einsum("bfk,bfk->bf", axis[..., 0], first)[..., None]
    angle = np.arctan2((np.cross(axis, hinge) * first).sum(-1), (axis * hinge).sum(-1))
    strength = (hinge**2).sum(-1)
    believed = angle * strength / (strength + TWIST_STEADY**2)
    believed = np.where((np.abs(angle) < np.pi / 2) & known[:, CHAINS].all(2), believed, 0)
    return _about(first, np.clip(believed, -TWIST, TWIST)) @ turns
