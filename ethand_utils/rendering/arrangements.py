"""Two-hand interaction types (apart, overlapping, clasped, …) and their samplers."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from ethand_utils.hands.rig import MIRROR, WRIST_LIMITS, Pose, PosedRig, Rig, Shape, pose_joints, skin_vertices
from ethand_utils.hands.rigs import load_rig
from ethand_utils.labels import LEFT, RIGHT
from ethand_utils.rendering.contact import first_contact, hand_spheres, overlap
from ethand_utils.rendering.poses import FREE, named_pose, sample_pose

ALIKE_SHARE = 0.3  # of the pairs of hands not in a set contact whose hands show the same named pose
SLACK = 0.0012  # m that skin gives way where hands touch
INTERLEAVED_SLACK = 0.005  # m, between fingers squeezed together
SIDE_STEPS = (0.5, 0.6, 0.4, -0.5)  # shifts along the knuckles, in distances from one knuckle to the next
CLOSING_STEPS = 6
THUMB, INDEX = 0, 1  # rows of Pose.fingers
ACROSS = np.array([1.0, 0, 0])  # from the right hand towards the left one


@dataclass(frozen=True)
class Arm:
    """One arm as a right one, in a frame with x to the other arm, y down, z away from whoever looks at the person.

    A hand of `shape` has the `pose` called `name`; a point p of the forearm's frame is at
    `rotation` [3, 3] · p + `translation` [3] m.
    """

    name: str
    pose: Pose
    shape: Shape
    rotation: np.ndarray
    translation: np.ndarray
    posed: PosedRig

    @staticmethod
    def from_pose(name: str, pose: Pose, shape: Shape, rotation: np.ndarray) -> "Arm":
        """Create an arm with the middle of its hand at the origin."""
        posed = pose_joints(load_rig(shape.rig), pose.fingers[None], pose.wrist[None], shape)
        arm = Arm(name, pose, shape, rotation, np.zeros(3), posed)
        return arm.moved(-arm.joints[:-1].mean(0))

    @property
    def rig(self) -> Rig:
        """The rig of its hand."""
        return load_rig(self.shape.rig)

    @property
    def joints(self) -> np.ndarray:
        """Joints of the rig float [J, 3] m."""
        return self.posed.joints[0] @ self.rotation.T + self.translation

    @property
    def radii(self) -> np.ndarray:
        """Radii float [S] m of the spheres that fill the arm."""
        return hand_spheres(self.rig).scaled_radii(self.rig, self.shape)

    def spheres(self) -> np.ndarray:
        """Return the centres float [S, 3] m of the spheres that fill the arm."""
        return self.spheres_in(self.posed)[0]

    def spheres_in(self, posed: PosedRig) -> np.ndarray:
        """Return the same with other joint angles: float [B, S, 3] m."""
        return hand_spheres(self.rig).posed_centres(posed) @ self.rotation.T + self.translation

    def moved(self, shift: np.ndarray) -> "Arm":
        """Return the same arm, shifted by [3] m."""
        return replace(self, translation=self.translation + shift)

    def with_fingers(self, fingers: np.ndarray) -> "Arm":
        """Return the same arm with other angles of the `fingers` [5, 4] rad."""
        pose = Pose.clipped(fingers, self.pose.wrist)
        posed = pose_joints(self.rig, pose.fingers[None], pose.wrist[None], self.shape)
        return replace(self, pose=pose, posed=posed)

    def vertices(self) -> np.ndarray:
        """Return the skin's vertices float [V, 3] m."""
        return skin_vertices(self.rig, self.posed) @ self.rotation.T + self.translation


def apart(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """Sample hands side by side that hardly touch."""
    offset = np.array([rng.uniform(0.01, 0.06), rng.normal(0, 0.02), rng.normal(0, 0.02)])
    arms = _hanging_arms(rng, shape)
    return [arm.moved(offset * [-1, side, side]) for arm, side in zip(arms, (-1, 1), strict=True)]


def overlapping(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """Sample one hand behind the other, seen from the front."""
    offset = np.array([rng.normal(0, 0.02), rng.normal(0, 0.02), rng.choice([-1, 1]) * rng.uniform(0.025, 0.06)])
    arms = _hanging_arms(rng, shape)
    return [arm.moved(offset * [-1, side, side]) for arm, side in zip(arms, (-1, 1), strict=True)]


def touching(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """Sample any two poses, brought together from a random side."""
    left, right = _hanging_arms(rng, shape)
    arms = [left, right.moved(rng.normal(0, 0.025, 3))]
    direction = rng.normal(0, 1, 3) * [1, 0.7, 0.7] + [0.6, 0, 0]
    return _bring_together(arms, direction / np.linalg.norm(direction))


def palms(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """Sample hands palm to palm, as in prayer or clapping."""
    pitch, name = rng.uniform(-0.4, 1.4), str(rng.choice(["flat", "flat", "open", "spread", "relaxed"]))
    hands = [_upright_rotation(rng, rng.normal(0, 0.1), pitch + rng.normal(0, 0.1)) for _ in range(2)]
    arms = [reaching_arm(name, hand, rng, shape) for hand in hands]
    return _bring_together(_align(arms, _knuckles, rng.normal(0, [0, 0.008, 0.008])), ACROSS)


def clasped(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """Sample hands with the fingers of one between those of the other, bent over its back."""
    inward, pitch = rng.uniform(0.7, 1.1), rng.uniform(0.9, 1.7)
    arms = [reaching_arm("spread", _upright_rotation(rng, inward, pitch), rng, shape, 0.2) for _ in range(2)]
    arms = _interleave(_align(arms, _knuckles, np.zeros(3)), rng)
    around, down = ((0, 35, 40, 35), *((0, 0, 95, 55),) * 4), ((0, 35, 40, 35), *((0, 75, 95, 55),) * 4)
    for target in (around, down):
        for hand in rng.permutation(2):
            arms = _close_fingers(arms, int(hand), target, INTERLEAVED_SLACK)
    return arms


def stacked(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """Sample one hand laid on the back or in the palm of the other."""
    tilt = Rotation.from_rotvec(rng.normal(0, 0.15, 3)).as_matrix()
    below = facing_rotation([rng.uniform(0.3, 1.2), 0, -1], [0, rng.choice([-1.0, -1.0, 1.0]), 0])
    above = facing_rotation([rng.uniform(0.3, 1.5), 0, -1], [0, -1.0, 0])
    names = rng.choice(["flat", "flat", "relaxed", "open", "cup"], 2)
    arms = [reaching_arm(str(n), tilt @ hand, rng, shape) for n, hand in zip(names, (below, above), strict=True)]
    arms = _bring_together(_align(arms, _knuckles, rng.normal(0, [0.02, 0, 0.02])), np.array([0, 1.0, 0]))
    return _close_fingers(arms, RIGHT, ((0, 20, 20, 20), *((0, 45, 50, 30),) * 4))


def fingertips(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """Sample hands with the tips of their fingers against each other."""
    inward, pitch = rng.uniform(0.1, 0.5), rng.uniform(-0.3, 1.3)
    name = str(rng.choice(["cup", "relaxed", "open", "claw", "pinch"]))
    arms = [reaching_arm(name, _upright_rotation(rng, inward, pitch), rng, shape, 0.4) for _ in range(2)]
    return _bring_together(_align(arms, _tips, rng.normal(0, [0, 0.005, 0.005])), ACROSS)


def pointing(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """Sample one hand whose finger touches a random joint of the other."""
    direction = np.array([1.0, rng.normal(0, 0.3), rng.normal(-0.2, 0.4)])
    direction /= np.linalg.norm(direction)
    name = str(rng.choice(["point", "point", "two", "pinch", "rocker"]))
    hand = facing_rotation(direction, np.array([-0.5, -0.5, -0.7]) + rng.normal(0, 0.4, 3))
    arms = [hanging_arm(rng, shape), reaching_arm(name, hand, rng, shape)]
    tip = arms[RIGHT].joints[arms[RIGHT].rig.phalanges[INDEX, 2] + 1]
    goal = arms[LEFT].joints[rng.integers(len(arms[LEFT].rig.names) - 1)]
    return _bring_together(_align_points(arms, tip, goal, rng.normal(0, 0.006, 3)), direction)


def enclosed(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """Sample one hand closed around the other."""
    inner = str(rng.choice(["fist", "fist", "thumbs_up", "flat", "point", "relaxed"]))
    pitch = rng.uniform(0.0, 1.5)
    hands = [_upright_rotation(rng, rng.uniform(low, 0.6), tip) for low, tip in ((-0.2, pitch), (0, pitch - 0.3))]
    arms = [reaching_arm(name, hand, rng, shape) for name, hand in zip((inner, "flat"), hands, strict=True)]
    arms = _bring_together(_align(arms, _knuckles, rng.normal(0, [0, 0.015, 0.015])), ACROSS)
    return _close_fingers(arms, RIGHT, ((0, 35, 40, 35), *((0, 80, 80, 45),) * 4))


Sampler = Callable[[np.random.Generator, Shape], list[Arm]]

# Interaction types as stores name them, each with its sampler and its share of the two-hand scenes.
ARRANGEMENTS: dict[str, tuple[Sampler, float]] = {
    "apart": (apart, 0.16),
    "overlapping": (overlapping, 0.14),
    "touching": (touching, 0.14),
    "palms": (palms, 0.13),
    "clasped": (clasped, 0.14),
    "stacked": (stacked, 0.09),
    "fingertips": (fingertips, 0.07),
    "pointing": (pointing, 0.06),
    "held": (enclosed, 0.07),
}


# Single arms


def _hanging_arms(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """Sample two arms, ALIKE_SHARE of them with the same named pose."""
    left = hanging_arm(rng, shape)
    return [left, hanging_arm(rng, shape, left.name if rng.random() < ALIKE_SHARE else FREE)]


def hanging_arm(rng: np.random.Generator, shape: Shape, name: str = FREE) -> Arm:
    """Sample an arm with its elbow beside and below, thumb side mostly up, the hand's middle at the origin.

    It shows the pose `name`, or any (FREE).
    """
    name, pose = sample_pose(rng, name)
    elbow = _sample_elbow(rng)
    back = np.array([-1.0, 0, 0])
    roll = Rotation.from_rotvec(elbow / np.linalg.norm(elbow) * rng.normal(0, np.radians(45)))
    return Arm.from_pose(name, pose, shape, roll.as_matrix() @ facing_rotation(-elbow, back))


def reaching_arm(name: str, hand: np.ndarray, rng: np.random.Generator, shape: Shape, looseness: float = 0.6) -> Arm:
    """Sample an arm whose hand shows the pose `name` and has the rotation `hand` [3, 3].

    Its wrist bends towards the elbow, within its limits; `looseness` is that of `named_pose`.
    """
    elbow = hand.T @ _sample_elbow(rng)
    elbow /= np.linalg.norm(elbow)
    bend = np.array([np.arctan2(-elbow[1], elbow[2]), -np.arcsin(elbow[0])])
    bend = np.clip(bend, *WRIST_LIMITS.T)
    wrist = Rotation.from_euler("YX", [bend[1], -bend[0]]).as_matrix()
    pose = Pose(named_pose(name, rng, looseness).fingers, bend)
    return Arm.from_pose(name, pose, shape, hand @ wrist.T)


def _sample_elbow(rng: np.random.Generator) -> np.ndarray:
    """Sample a direction [3] from the hand towards the elbow."""
    return np.array([-rng.uniform(0.3, 1.0), rng.uniform(0.1, 1.0), rng.uniform(-0.1, 0.7)])


def _upright_rotation(rng: np.random.Generator, inward: float, pitch: float) -> np.ndarray:
    """Return the rotation of an upright hand, its palm to the other one, turned inwards and tipped forwards, in rad."""
    upright = facing_rotation(np.array([0, -1.0, 0]), np.array([-1.0, 0, 0]))
    noise = Rotation.from_rotvec(rng.normal(0, np.radians(3), 3))
    return (noise * Rotation.from_euler("YX", [-inward, pitch])).as_matrix() @ upright


def facing_rotation(fingers: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Return the rotation [3, 3] of a rig hand whose fingers point to `fingers` [3].

    The back of the hand is turned as nearly as possible to `back` [3].
    """
    z = -np.asarray(fingers, float) / np.linalg.norm(fingers)
    y = back - z * (z @ back)
    y /= np.linalg.norm(y)
    return np.stack([np.cross(y, z), y, z], axis=1)


# Both arms


def _bring_together(arms: list[Arm], direction: np.ndarray) -> list[Arm]:
    """Shift the right arm along the unit `direction` [3] until it touches the left one."""
    left, right = arms
    distance = first_contact(right.spheres(), right.radii, left.spheres() * MIRROR, left.radii, direction)
    return [left, right.moved(direction * (distance + SLACK))] if np.isfinite(distance) else arms


def _align(arms: list[Arm], landmark: Callable[[Arm], np.ndarray], offset: np.ndarray) -> list[Arm]:
    """Shift the right arm so that the same `landmark` of both hands is `offset` [3] m apart."""
    return _align_points(arms, landmark(arms[RIGHT]), landmark(arms[LEFT]), offset)


def _align_points(arms: list[Arm], right: np.ndarray, left: np.ndarray, offset: np.ndarray) -> list[Arm]:
    """Shift the right arm so that its point `right` [3] is `offset` [3] m from the left arm's point `left`."""
    return [arms[LEFT], arms[RIGHT].moved(left * MIRROR - right + offset)]


def _knuckles(arm: Arm) -> np.ndarray:
    return arm.joints[arm.rig.phalanges[1:, 0]].mean(0)


def _tips(arm: Arm) -> np.ndarray:
    return arm.joints[arm.rig.phalanges[1:, 2] + 1].mean(0)


def _close_fingers(arms: list[Arm], hand: int, target: tuple, slack: float = SLACK) -> list[Arm]:
    """Bend the fingers of one hand towards `target` [5, 4] degrees, each until it meets the other hand."""
    arm, other = arms[hand], arms[1 - hand]
    start = arm.pose.fingers
    bend = np.clip(np.radians(target) - start, 0, None) * [0, 1, 1, 1]
    fingers = start + np.linspace(0, 1, CLOSING_STEPS)[:, None, None] * bend
    posed = pose_joints(arm.rig, fingers, np.broadcast_to(arm.pose.wrist, (len(fingers), 2)), arm.shape)
    finger_of = arm.rig.finger_of[hand_spheres(arm.rig).joint]
    moving = finger_of >= 0
    depth = overlap(arm.spheres_in(posed)[:, moving] * MIRROR, arm.radii[moving], other.spheres(), other.radii)
    closed = start.copy()
    for finger in range(len(start)):
        deepest = depth[:, finger_of[moving] == finger].max(1)
        free = deepest < max(slack, deepest[0] + SLACK)
        closed[finger] = fingers[max(np.argmin(np.append(free, False)) - 1, 0), finger]
    both = [arm.with_fingers(closed), other]
    return both if hand == LEFT else both[::-1]


def _interleave(arms: list[Arm], rng: np.random.Generator) -> list[Arm]:
    """Shift the right arm so that the fingers of both hands pass between each other as deep as they can.

    Candidates are half a finger to either side along the knuckles, from knuckle on knuckle outwards.
    """
    left, right = arms
    row = right.joints[right.rig.phalanges[[1, 4], 0]]
    pitch = (row[0] - row[1]) / 3 * rng.choice([-1, 1])
    shifts = np.array([-ACROSS * back + pitch * aside for back in np.linspace(0.03, 0.09, 9) for aside in SIDE_STEPS])
    fingers = right.rig.finger_of[hand_spheres(right.rig).joint] > THUMB
    moved = right.spheres()[fingers] + shifts[:, None]
    depth = overlap(moved, right.radii[fingers], left.spheres() * MIRROR, left.radii).max(1)
    free = np.flatnonzero(depth < INTERLEAVED_SLACK)
    return [left, right.moved(shifts[free[0] if len(free) else depth.argmin()])]
