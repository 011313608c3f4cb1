"""Fit of a rig to the 21 annotated joints of real ones, in closed form (REFERENCE.md section 4)."""

from dataclasses import dataclass

import numpy as np

from ethand_utils.hands.joints import (
    CHAINS,
    WRIST,
    bend_and_lean,
    bone_rotation,
    complete_joints,
    directions,
    landmarks,
    nearest_angle,
    rotate,
    rotation_about,
    rotation_towards,
)
from ethand_utils.hands.rig import LIMITS, PosedRig, Rig
from ethand_utils.labels import N_JOINTS

# How far an angle may lie beyond LIMITS, rad [5 fingers, 4 angles]: people differ, and annotated joints are mm off.
MARGINS = np.radians([[45, 45, 30, 40], *[[15, 25, 20, 30]] * 4])
SIDEWAYS = np.radians(15)  # largest sideways lean of a bone at a joint that only bends
STRETCH = (0.7, 1.5)  # bounds of a bone's length over that of the generic hand at the same overall scale
PALM_TURN = np.radians(20)  # largest rotation of a bone of the palm against the palm
THUMB_SLIDE = 0.004  # m, largest distance of the thumb's base from where the palm has it
TWIST = np.radians([50, *[25] * 4])  # bounds of a finger's roll about its first bone
TWIST_STEADY = 0.35  # length of the sum of a finger's two hinge axes at which half of the measured roll is trusted
SCALES = (0.45, 1.6)  # of a whole hand over the generic one; children's are smaller

# Flesh over the generic hand's at the same length, calibrated on outlines: hands are broader, by as much as the finger
# bases are apart (weighted by BREADTH_SHARE), deeper, and thumbs and fingers stouter, by as much as people's index
# finger and thumb are broader (`subjects.FINGER_BREADTH`).
BREADTH, BREADTH_SHARE, BREADTHS = 1.1, 0.3, (0.9, 1.3)
DEPTH = 1.1
GIRTH = np.array([1.05, *[1.12] * 4])

PALM_WEIGHTS = np.zeros(N_JOINTS)
PALM_WEIGHTS[[WRIST, *CHAINS[1:, 0]]] = 1
PALM_WEIGHTS[CHAINS[0, 0]] = 0.3  # the thumb's base moves


@dataclass(frozen=True)
class Fit:
    """The generic hand in B poses: `posed` its bones, `joints` float [B, 21, 3] m its own annotated joints.

    `residual` float [B, 21] mm is their distance from the annotation, NaN where there is none.
    """

    posed: PosedRig
    joints: np.ndarray
    residual: np.ndarray


def fit_joints(rig: Rig, points: np.ndarray, valid: np.ndarray) -> Fit:
    """Fit a right hand to `points` float [B, 21, 3] (m, order of `labels.JOINT_PARTS`), `valid` bool [B, 21].

    In closed form, from the palm outwards: overall size from all bones, the palm aligned with wrist and finger bases,
    its bones and then each finger's rotated towards the next joint and stretched to it. Angles, lengths and roll stay
    within what hands can do, so that a joint that is annotated wrongly keeps a residual and does not tear the skin. A
    finger's roll is that of the plane in which it bends. Missing finger bases are where the palm has them, missing
    joints between valid ones are guessed (`joints.complete_joints`); a bone whose end is not even guessed goes
    straight on.
    """
    state = _align_hands(rig, points, valid)
    _bend_palm(state)
    for step in range(CHAINS.shape[1] - 1):
        _bend_fingers(state, step)
    tips = rig.phalanges[:, -1] + 1
    state.linear[:, tips], state.shift[:, tips] = state.linear[:, tips - 1], state.shift[:, tips - 1]
    posed_joints = state.move_points(slice(None), state.bones)
    residual = 1000 * np.linalg.norm(state.joints - points, axis=-1)
    linear = state.linear * _section(state.breadth)[:, None, None]
    return Fit(PosedRig(linear, state.shift, posed_joints), state.joints, np.where(valid, residual, np.nan))


@dataclass(frozen=True)
class _FitState:
    """State of the fit of B hands; its arrays are filled in place, from the palm outwards.

    `points` [B, 21, 3] m and which are `valid` or guessed; `scale` and `breadth` [B]. At rest and of that breadth: the
    annotated joints `rest` [B, 21, 3] and the rig's joints `bones` [B, J, 3]. Fitted so far: `rotations`
    [B, J, 3, 3], `linear` [B, J, 3, 3] and `shift` [B, J, 3] of the rig's joints as in PosedRig, and the annotated
    `joints` [B, 21, 3].
    """

    rig: Rig
    points: np.ndarray
    valid: np.ndarray
    scale: np.ndarray
    breadth: np.ndarray
    rest: np.ndarray
    bones: np.ndarray
    rotations: np.ndarray
    linear: np.ndarray
    shift: np.ndarray
    joints: np.ndarray

    def set_bones(self, bones, rotations, start, target, along, girth, stretch) -> None:
        """Rotate bones [k] and stretch them along `along`; their rest points `start` [B, k, 3] move to `target`."""
        outer = along[..., :, None] * along[..., None, :]
        body = girth[..., None, None] * np.eye(3) + (stretch - girth)[..., None, None] * outer
        self.rotations[:, bones] = rotations
        self.linear[:, bones] = rotations @ body
        self.shift[:, bones] = target - rotate(self.linear[:, bones], start)

    def move_points(self, bones, points: np.ndarray) -> np.ndarray:
        """Return where rest points [B, k, 3] that follow bones [k] are now."""
        return rotate(self.linear[:, bones], points) + self.shift[:, bones]

    def stretch(self, reach: np.ndarray, length: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Return the bounded stretch [B, k] of bones of `length` to `reach`; the hand's scale where not `valid`."""
        scale = self.scale[:, None]
        return np.where(valid, np.clip(reach / length, STRETCH[0] * scale, STRETCH[1] * scale), scale)


def _align_hands(rig: Rig, points: np.ndarray, valid: np.ndarray) -> _FitState:
    """Return hands of the right size and breadth, straight, with their palms aligned and missing joints guessed."""
    count = len(points)
    scale, breadth = _size(landmarks(rig), points, valid)
    section = _section(breadth)[:, None]
    rest, bones = landmarks(rig) * section, rig.rest[:, :3, 3] * section
    rotation, shift = _align_palm(points, valid, scale, rest)
    lengths = scale[:, None, None] * np.linalg.norm(np.diff(rest[:, CHAINS], axis=2), axis=-1)
    hinges = rotate(rotation[:, None], rig.rest[rig.phalanges[:, 1], :3, 0])
    bases = CHAINS[:, 0]
    palm_bases = rotate(scale[:, None, None, None] * rotation[:, None], rest[:, bases]) + shift[:, None]
    points, valid = points.copy(), valid.copy()
    points[:, bases] = np.where(valid[:, bases, None], points[:, bases], palm_bases)
    valid[:, bases] = True
    points, valid = complete_joints(points, valid, lengths, hinges)
    rotations = np.repeat(rotation[:, None], len(rig.names), axis=1)
    linear, shift = scale[:, None, None, None] * rotations, np.repeat(shift[:, None], len(rig.names), axis=1)
    joints = np.zeros((count, N_JOINTS, 3))
    state = _FitState(rig, points, valid, scale, breadth, rest, bones, rotations, linear, shift, joints)
    state.joints[:, WRIST] = state.move_points(0, rest[:, WRIST])
    return state


def _section(breadth: np.ndarray) -> np.ndarray:
    """Return the factors [B, 3] from the generic hand at rest to hands of these breadths [B]."""
    return np.stack([breadth, np.full_like(breadth, DEPTH), np.ones_like(breadth)], axis=-1)


def _size(generic: np.ndarray, points: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scale [B] over `generic` joints [21, 3] from all bones, and the breadth [B] from the finger bases."""
    bases = CHAINS[1:, 0]
    starts, ends = np.r_[CHAINS[:, :3].ravel(), [WRIST] * 4], np.r_[CHAINS[:, 1:].ravel(), bases]
    scale = _ratio(generic, points, valid, starts, ends)
    scale = np.clip(np.where(np.isfinite(scale), scale, 1), *SCALES)
    measured = _ratio(generic, points, valid, bases[:-1], bases[1:]) / scale
    measured = np.clip(np.where(np.isfinite(measured), measured, BREADTH), *BREADTHS)
    return scale, BREADTH ** (1 - BREADTH_SHARE) * measured**BREADTH_SHARE


def _ratio(generic: np.ndarray, points: np.ndarray, valid: np.ndarray, starts, ends) -> np.ndarray:
    """Return the median [B] of the distances from joints `starts` to `ends` over the `generic` ones; NaN if none."""
    both = valid[:, starts] & valid[:, ends]
    measured = np.linalg.norm(points[:, ends] - points[:, starts], axis=-1)
    lengths = np.linalg.norm(generic[ends] - generic[starts], axis=-1)
    ratios = np.sort(np.where(both, measured / lengths, np.inf), axis=1)  # inf last: the median is among the valid
    count = both.sum(1)
    low, high = ((count - 1) // 2).clip(0), (count // 2).clip(0, len(starts) - 1)
    return np.where(count > 0, (ratios[np.arange(len(points)), low] + ratios[np.arange(len(points)), high]) / 2, np.nan)


def _align_palm(points, valid, scale, rest) -> tuple[np.ndarray, np.ndarray]:
    """Return the rotations [B, 3, 3] and shifts [B, 3] that align palms with their joints in least squares (Kabsch)."""
    weights = PALM_WEIGHTS * valid
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-9)
    middle, target = (np.einsum("bj,bjk->bk", weights, joints) for joints in (rest, points))
    covariance = np.einsum("bj,bjk,bjl->bkl", weights, points - target[:, None], rest - middle[:, None])
    u, _, vt = np.linalg.svd(covariance)
    mirrored = np.ones((len(points), 3))
    mirrored[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * mirrored[:, None]) @ vt
    return rotation, target - scale[:, None] * rotate(rotation, middle)


def _bend_palm(state: _FitState) -> None:
    """Rotate and stretch the palm's four bones towards the finger bases; slide the thumb's base to its annotation."""
    bones, bases = state.rig.phalanges[1:, 0] - 1, CHAINS[1:, 0]
    start, valid = state.bones[:, bones], state.valid[:, bases]
    span = state.rest[:, bases] - start
    origin, along = state.move_points(bones, start), directions(span)
    to_base = state.points[:, bases] - origin
    goal = rotate(state.rotations[:, bones].mT, directions(to_base))
    rotations = state.rotations[:, bones] @ rotation_towards(along, goal, np.where(valid, PALM_TURN, 0))
    stretch = state.stretch(np.linalg.norm(to_base, axis=-1), np.linalg.norm(span, axis=-1), valid)
    state.set_bones(bones, rotations, start, origin, along, np.repeat(state.scale[:, None], len(bones), 1), stretch)
    state.joints[:, bases] = state.move_points(bones, state.rest[:, bases])

    thumb = CHAINS[0, 0]
    base = state.move_points(0, state.rest[:, thumb])
    slide = np.where(state.valid[:, thumb, None], state.points[:, thumb] - base, 0)
    excess = np.linalg.norm(slide, axis=-1) / (THUMB_SLIDE * state.scale)
    state.joints[:, thumb] = base + slide / np.maximum(excess, 1)[:, None]


def _bend_fingers(state: _FitState, step: int) -> None:
    """Rotate the bones `step` of all fingers, counted from the base, towards the next joint and stretch them to it."""
    rig = state.rig
    bones, near, far = rig.phalanges[:, step], CHAINS[:, step], CHAINS[:, step + 1]
    axes, valid = rig.rest[bones, :3, :3], state.valid[:, far]
    start, span = state.rest[:, near], state.rest[:, far] - state.rest[:, near]
    along, origin = directions(span), state.joints[:, near]
    to_joint = state.points[:, far] - origin
    frame = state.rotations[:, bones - 1 if step else [0, *(bones[1:] - 1)]] @ axes
    local = _bounded_rotation(step, rotate(axes.mT, along), rotate(frame.mT, to_joint), valid)
    rotations = frame @ local @ axes.mT
    if step == 0:
        rotations = _roll_fingers(rotations, along, state)
    reach = (rotate(rotations, along) * to_joint).sum(-1)
    stretch = state.stretch(reach, np.linalg.norm(span, axis=-1), valid)
    state.set_bones(bones, rotations, start, origin, along, state.scale[:, None] * GIRTH, stretch)
    state.joints[:, far] = state.move_points(bones, state.rest[:, far])


def _bounded_rotation(step: int, straight: np.ndarray, goal: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return rotations [B, 5, 3, 3] of bones from `straight` to `goal` (in the joint's frame), as far as hands bend."""
    bend0, lean0 = bend_and_lean(straight)
    bend, lean = bend_and_lean(goal)
    low, high = (LIMITS[:, 1 + step] + MARGINS[:, 1 + step, None] * (-1, 1)).T
    aside = (LIMITS[:, 0] + MARGINS[:, :1] * (-1, 1)).T if step == 0 else (-SIDEWAYS, SIDEWAYS)
    bend = np.clip(nearest_angle(bend - bend0, (low + high) / 2), low, high)
    lean = np.clip(lean - lean0, *aside)
    bend, lean = np.where(valid, bend, 0), np.where(valid, lean, 0)
    return bone_rotation(bend0 + bend, lean0 + lean) @ bone_rotation(bend0, lean0).mT


def _roll_fingers(rotations: np.ndarray, along: np.ndarray, state: _FitState) -> np.ndarray:
    """Roll fingers about their first bone so that their joints bend in the plane in which the points lie."""
    rig = state.rig
    bones = directions(np.diff(state.points[:, CHAINS], axis=2))
    hinge = -(np.cross(bones[:, :, 0], bones[:, :, 1]) + np.cross(bones[:, :, 1], bones[:, :, 2]))
    first = rotate(rotations, along)
    axis = rotate(rotations, rig.rest[rig.phalanges[:, 1], :3, 0])
    axis = axis - first * (axis * first).sum(-1, keepdims=True)
    angle = np.arctan2((np.cross(axis, hinge) * first).sum(-1), (axis * hinge).sum(-1))
    strength = (hinge**2).sum(-1)
    trusted = angle * strength / (strength + TWIST_STEADY**2)
    valid = (np.abs(angle) < np.pi / 2) & state.valid[:, CHAINS].all(2)
    return rotation_about(first, np.clip(np.where(valid, trusted, 0), -TWIST, TWIST)) @ rotations
