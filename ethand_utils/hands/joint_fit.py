"""The generic hand fitted to the 21 annotated joints of real ones (REFERENCE.md section 4)."""

from dataclasses import dataclass

import numpy as np

from ethand_utils.hands.joints import (
    CHAINS,
    WRIST,
    bend_and_lean,
    bent,
    complete_joints,
    directions,
    generic_hand,
    inverse,
    landmarks,
    nearest_angle,
    rotate,
    rotation_about,
    rotation_towards,
)
from ethand_utils.hands.rig import LIMITS, PosedRig
from ethand_utils.labels import N_JOINTS

# How far an angle may lie beyond LIMITS, rad [5 fingers, 4 angles]: people differ, and annotated joints are mm off.
MARGINS = np.radians([[45, 45, 30, 40], *[[15, 25, 20, 30]] * 4])
SIDEWAYS = np.radians(15)  # that a bone may lean to the side at a joint that only bends, at most
STRETCH = (0.7, 1.5)  # bounds of a bone's length over that of the generic hand at the same overall scale
PALM_TURN = np.radians(20)  # that a bone of the palm may turn against the palm, at most
THUMB_SLIDE = 0.004  # m that the thumb's base may lie from where the palm has it, at most
TWIST = np.radians([50, *[25] * 4])  # bounds of a finger's roll about its first bone
TWIST_STEADY = 0.35  # length of the sum of a finger's two hinge axes at which half of the measured roll is believed
SCALES = (0.45, 1.6)  # of a whole hand over the generic one; children's are smaller

# Flesh over the generic hand's at the same length, calibrated on outlines: hands are broader, by as much as
# the finger bases are apart (of which BREADTH_SHARE is believed), deeper, and thumbs and fingers stouter.
BREADTH, BREADTH_SHARE, BREADTHS = 1.1, 0.3, (0.9, 1.3)
DEPTH = 1.1
GIRTH = np.array([1.05, *[1.06] * 4])

PALM_WEIGHTS = np.zeros(N_JOINTS)
PALM_WEIGHTS[[WRIST, *CHAINS[1:, 0]]] = 1
PALM_WEIGHTS[CHAINS[0, 0]] = 0.3  # the thumb's base moves


@dataclass(frozen=True)
class Fit:
    """The generic hand in B poses: `posed` its bones, `joints` float [B, 21, 3] m its own at the annotated places.

    `residual` float [B, 21] mm: how far they are from there, NaN where nothing was annotated.
    """

    posed: PosedRig
    joints: np.ndarray
    residual: np.ndarray


@dataclass(frozen=True)
class _Hands:
    """B hands while they are fitted: `points` [B, 21, 3] and which are `known`, `scale` and `breadth` [B] of each.

    At rest, as broad as it is: the places `rest` [B, 21, 3] of the annotated joints, `bones` [B, J, 3] of the rig's.
    Found so far: `turns` [B, J, 3, 3], `linear` [B, J, 3, 3] and `shift` [B, J, 3] of the rig's joints as in Posed, and
    `joints` [B, 21, 3].
    """

    points: np.ndarray
    known: np.ndarray
    scale: np.ndarray
    breadth: np.ndarray
    rest: np.ndarray
    bones: np.ndarray
    turns: np.ndarray
    linear: np.ndarray
    shift: np.ndarray
    joints: np.ndarray

    def place(self, bones, turns, start, at, along, girth, stretch) -> None:
        """Move bones [k] from rest points `start` [B, k, 3], along `along`, to `at` [B, k, 3], turned and stretched."""
        outer = along[..., :, None] * along[..., None, :]
        body = girth[..., None, None] * np.eye(3) + (stretch - girth)[..., None, None] * outer
        self.turns[:, bones] = turns
        self.linear[:, bones] = turns @ body
        self.shift[:, bones] = at - rotate(self.linear[:, bones], start)

    def carried(self, bones, points: np.ndarray) -> np.ndarray:
        """Where rest points [B, k, 3] are that hang on bones [k]."""
        return rotate(self.linear[:, bones], points) + self.shift[:, bones]

    def stretch(self, reach: np.ndarray, length: np.ndarray, sure: np.ndarray) -> np.ndarray:
        """Stretch [B, k] of bones of `length` that are to span `reach`, in bounds; the hand's own where not `sure`."""
        scale = self.scale[:, None]
        return np.where(sure, np.clip(reach / length, STRETCH[0] * scale, STRETCH[1] * scale), scale)


def fit_joints(points: np.ndarray, known: np.ndarray) -> Fit:
    """Fit the generic right hand to `points` float [B, 21, 3] (m, order of `labels.JOINT_PARTS`), `known` bool [B, 21].

    In closed form, from the palm outwards: overall size from all bones, the palm laid on wrist and finger bases, its
    bones and then each finger's turned towards the next joint and stretched to it. Angles, lengths and roll stay
    within what hands can do, so that a joint that is annotated wrongly keeps a residual and does not tear the skin.
    A finger's roll is that of the plane in which it bends. Unknown finger bases are where the
    palm has them, unknown joints between known ones are guessed (`joints.guess_missing`); a bone whose end is not even
    guessed goes straight on.
    """
    hands = _begin(points, known)
    _bend_palm(hands)
    for step in range(CHAINS.shape[1] - 1):
        _bend_fingers(hands, step)
    rig = generic_hand()
    tips = rig.phalanges[:, -1] + 1
    hands.linear[:, tips], hands.shift[:, tips] = hands.linear[:, tips - 1], hands.shift[:, tips - 1]
    at = hands.carried(slice(None), hands.bones)
    residual = 1000 * np.linalg.norm(hands.joints - points, axis=-1)
    linear = hands.linear * _section(hands.breadth)[:, None, None]
    return Fit(PosedRig(linear, hands.shift, at), hands.joints, np.where(known, residual, np.nan))


def _section(breadth: np.ndarray) -> np.ndarray:
    """Factors [B, 3] on the generic hand at rest of hands of these breadths [B]."""
    return np.stack([breadth, np.full_like(breadth, DEPTH), np.ones_like(breadth)], axis=-1)


def _begin(points: np.ndarray, known: np.ndarray) -> _Hands:
    """Hands of which only size, breadth and the place of the palm are found."""
    rig, count = generic_hand(), len(points)
    scale, breadth = _size(points, known)
    section = _section(breadth)[:, None]
    rest, bones = landmarks() * section, rig.rest[:, :3, 3] * section
    turn, shift = _align_palm(points, known, scale, rest)
    lengths = scale[:, None, None] * np.linalg.norm(np.diff(rest[:, CHAINS], axis=2), axis=-1)
    hinges = rotate(turn[:, None], rig.rest[rig.phalanges[:, 1], :3, 0])
    bases = CHAINS[:, 0]
    usual = rotate(scale[:, None, None, None] * turn[:, None], rest[:, bases]) + shift[:, None]
    points, known = points.copy(), known.copy()
    points[:, bases] = np.where(known[:, bases, None], points[:, bases], usual)
    known[:, bases] = True
    points, known = complete_joints(points, known, lengths, hinges)
    turns = np.repeat(turn[:, None], len(rig.names), axis=1)
    linear, shift = scale[:, None, None, None] * turns, np.repeat(shift[:, None], len(rig.names), axis=1)
    hands = _Hands(points, known, scale, breadth, rest, bones, turns, linear, shift, np.zeros((count, N_JOINTS, 3)))
    hands.joints[:, WRIST] = hands.carried(0, rest[:, WRIST])
    return hands


def _size(points: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale [B] over the generic hand from the lengths of all bones, breadth [B] from the gaps between finger bases."""
    bases = CHAINS[1:, 0]
    scale = _ratio(points, known, np.r_[CHAINS[:, :3].ravel(), [WRIST] * 4], np.r_[CHAINS[:, 1:].ravel(), bases])
    scale = np.clip(np.where(np.isfinite(scale), scale, 1), *SCALES)
    measured = _ratio(points, known, bases[:-1], bases[1:]) / scale
    measured = np.clip(np.where(np.isfinite(measured), measured, BREADTH), *BREADTHS)
    return scale, BREADTH ** (1 - BREADTH_SHARE) * measured**BREADTH_SHARE


def _ratio(points: np.ndarray, known: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Median [B] of the known distances between the joints `starts` and `ends` over the generic hand's, NaN if none."""
    both = known[:, starts] & known[:, ends]
    measured = np.linalg.norm(points[:, ends] - points[:, starts], axis=-1)
    generic = np.linalg.norm(landmarks()[ends] - landmarks()[starts], axis=-1)
    ratios = np.sort(np.where(both, measured / generic, np.inf), axis=1)  # inf last: the median is among the known
    count = both.sum(1)
    low, high = ((count - 1) // 2).clip(0), (count // 2).clip(0, len(starts) - 1)
    return np.where(count > 0, (ratios[np.arange(len(points)), low] + ratios[np.arange(len(points)), high]) / 2, np.nan)


def _align_palm(points, known, scale, rest) -> tuple[np.ndarray, np.ndarray]:
    """Rotation [B, 3, 3] and shift [B, 3] that lay the scaled palm on its known joints in the least-squares sense."""
    weights = PALM_WEIGHTS * known
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-9)
    middle, target = (np.einsum("bj,bjk->bk", weights, places) for places in (rest, points))
    spread = np.einsum("bj,bjk,bjl->bkl", weights, points - target[:, None], rest - middle[:, None])
    u, _, vt = np.linalg.svd(spread)
    mirrored = np.ones((len(points), 3))
    mirrored[:, 2] = np.sign(np.linalg.det(u @ vt))
    turn = (u * mirrored[:, None]) @ vt
    return turn, target - scale[:, None] * rotate(turn, middle)


def _bend_palm(hands: _Hands) -> None:
    """Turn and stretch the palm's four bones towards the finger bases; slide the thumb's base to its place."""
    bones, bases = generic_hand().phalanges[1:, 0] - 1, CHAINS[1:, 0]
    start, sure = hands.bones[:, bones], hands.known[:, bases]
    span = hands.rest[:, bases] - start
    at, along = hands.carried(bones, start), directions(span)
    to = hands.points[:, bases] - at
    wanted = rotate(inverse(hands.turns[:, bones]), directions(to))
    turns = hands.turns[:, bones] @ rotation_towards(along, wanted, np.where(sure, PALM_TURN, 0))
    stretch = hands.stretch(np.linalg.norm(to, axis=-1), np.linalg.norm(span, axis=-1), sure)
    hands.place(bones, turns, start, at, along, np.repeat(hands.scale[:, None], len(bones), 1), stretch)
    hands.joints[:, bases] = hands.carried(bones, hands.rest[:, bases])

    thumb = CHAINS[0, 0]
    base = hands.carried(0, hands.rest[:, thumb])
    slide = np.where(hands.known[:, thumb, None], hands.points[:, thumb] - base, 0)
    far = np.linalg.norm(slide, axis=-1) / (THUMB_SLIDE * hands.scale)
    hands.joints[:, thumb] = base + slide / np.maximum(far, 1)[:, None]


def _bend_fingers(hands: _Hands, step: int) -> None:
    """Turn the bones `step` of all fingers, counted from the base, towards the next joint and stretch them to it."""
    rig = generic_hand()
    bones, here, there = rig.phalanges[:, step], CHAINS[:, step], CHAINS[:, step + 1]
    axes, sure = rig.rest[bones, :3, :3], hands.known[:, there]
    start, span = hands.rest[:, here], hands.rest[:, there] - hands.rest[:, here]
    along, at = directions(span), hands.joints[:, here]
    to = hands.points[:, there] - at
    frame = hands.turns[:, bones - 1 if step else [0, *(bones[1:] - 1)]] @ axes
    local = _bounded(step, rotate(inverse(axes), along), rotate(inverse(frame), to), sure)
    turns = frame @ local @ inverse(axes)
    if step == 0:
        turns = _roll(turns, along, hands)
    reach = (rotate(turns, along) * to).sum(-1)
    stretch = hands.stretch(reach, np.linalg.norm(span, axis=-1), sure)
    hands.place(bones, turns, start, at, along, hands.scale[:, None] * GIRTH, stretch)
    hands.joints[:, there] = hands.carried(bones, hands.rest[:, there])


def _bounded(step: int, straight: np.ndarray, wanted: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """Rotations [B, 5, 3, 3] of bones from `straight` to `wanted` (in the joint's frame), as far as hands can bend."""
    bend0, lean0 = bend_and_lean(straight)
    bend, lean = bend_and_lean(wanted)
    low, high = (LIMITS[:, 1 + step] + MARGINS[:, 1 + step, None] * (-1, 1)).T
    aside = (LIMITS[:, 0] + MARGINS[:, :1] * (-1, 1)).T if step == 0 else (-SIDEWAYS, SIDEWAYS)
    bend = np.clip(nearest_angle(bend - bend0, (low + high) / 2), low, high)
    lean = np.clip(lean - lean0, *aside)
    bend, lean = np.where(sure, bend, 0), np.where(sure, lean, 0)
    return bent(bend0 + bend, lean0 + lean) @ inverse(bent(bend0, lean0))


def _roll(turns: np.ndarray, along: np.ndarray, hands: _Hands) -> np.ndarray:
    """Roll fingers about their first bone so that their joints bend in the plane in which the points lie."""
    rig = generic_hand()
    bones = directions(np.diff(hands.points[:, CHAINS], axis=2))
    hinge = -(np.cross(bones[:, :, 0], bones[:, :, 1]) + np.cross(bones[:, :, 1], bones[:, :, 2]))
    first = rotate(turns, along)
    axis = rotate(turns, rig.rest[rig.phalanges[:, 1], :3, 0])
    axis = axis - first * (axis * first).sum(-1, keepdims=True)
    angle = np.arctan2((np.cross(axis, hinge) * first).sum(-1), (axis * hinge).sum(-1))
    strength = (hinge**2).sum(-1)
    believed = angle * strength / (strength + TWIST_STEADY**2)
    sure = (np.abs(angle) < np.pi / 2) & hands.known[:, CHAINS].all(2)
    return rotation_about(first, np.clip(np.where(sure, believed, 0), -TWIST, TWIST)) @ turns
