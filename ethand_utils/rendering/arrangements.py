"""Where a person's two arms are: apart, one before the other, or in one of several ways of touching."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from ethand_utils.hands.rig import MIRROR, WRIST_LIMITS, Pose, PosedRig, Shape, load_rig, pose_joints, skin_vertices
from ethand_utils.labels import LEFT, RIGHT
from ethand_utils.rendering.contact import first_contact, hand_spheres, overlap
from ethand_utils.rendering.poses import FREE, named_pose, sample_pose

ALIKE_SHARE = 0.3  # of the pairs of hands that do not touch in a set way, whose hands show the same named pose
SLACK = 0.0012  # m that skin gives way where hands touch
INTERLEAVED_SLACK = 0.005  # m, between fingers squeezed together
ASIDE = (0.5, 0.6, 0.4, -0.5)  # of the way from one knuckle to the next
CLOSING_STEPS = 6
THUMB, INDEX = 0, 1  # rows of Pose.fingers
ACROSS = np.array([1.0, 0, 0])  # from the right hand towards the left one


@dataclass(frozen=True)
class Arm:
    """One arm as a right one, in a frame with x to the other arm, y down, z away from whoever looks at the person.

    A hand of `shape` has the `pose` called `name`; `turn` [3, 3] and `at` [3] m place the forearm's frame.
    """

    name: str
    pose: Pose
    shape: Shape
    turn: np.ndarray
    at: np.ndarray
    posed: PosedRig

    @staticmethod
    def from_pose(name: str, pose: Pose, shape: Shape, turn: np.ndarray) -> "Arm":
        """An arm with the middle of its hand at the origin."""
        posed = pose_joints(load_rig(), pose.fingers[None], pose.wrist[None], shape)
        arm = Arm(name, pose, shape, turn, np.zeros(3), posed)
        return arm.moved(-arm.joints[:-1].mean(0))

    @property
    def joints(self) -> np.ndarray:
        """Joints of the rig float [J, 3] m."""
        return self.posed.joints[0] @ self.turn.T + self.at

    @property
    def radii(self) -> np.ndarray:
        """Radii float [S] m of the spheres that fill the arm."""
        return hand_spheres().sizes(load_rig(), self.shape)

    def spheres(self) -> np.ndarray:
        """Centres float [S, 3] m of the spheres that fill the arm."""
        return self.bent_spheres(self.posed)[0]

    def bent_spheres(self, posed: PosedRig) -> np.ndarray:
        """The same with other joint angles: float [B, S, 3] m."""
        return hand_spheres().places(posed) @ self.turn.T + self.at

    def moved(self, shift: np.ndarray) -> "Arm":
        """The same arm, shifted by [3] m."""
        return replace(self, at=self.at + shift)

    def bent(self, fingers: np.ndarray) -> "Arm":
        """The same arm with other angles of the `fingers` [5, 4] rad."""
        pose = Pose.clipped(fingers, self.pose.wrist)
        posed = pose_joints(load_rig(), pose.fingers[None], pose.wrist[None], self.shape)
        return replace(self, pose=pose, posed=posed)

    def vertices(self) -> np.ndarray:
        """The skin's vertices float [V, 3] m."""
        return skin_vertices(load_rig(), self.posed) @ self.turn.T + self.at


def facing(fingers: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Rotation [3, 3] that turns a rig hand's fingers towards `fingers` and its back as near as can be to `back`."""
    z = -np.asarray(fingers, float) / np.linalg.norm(fingers)
    y = back - z * (z @ back)
    y /= np.linalg.norm(y)
    return np.stack([np.cross(y, z), y, z], axis=1)


def hanging_arm(rng: np.random.Generator, shape: Shape, like: str = FREE) -> Arm:
    """An arm with its elbow beside and below, thumb side mostly up, the hand's middle at the origin.

    Its pose is any, or the named one `like`.
    """
    name, pose = sample_pose(rng, like)
    elbow = _towards_elbow(rng)
    back = np.array([-1.0, 0, 0])
    roll = Rotation.from_rotvec(elbow / np.linalg.norm(elbow) * rng.normal(0, np.radians(45)))
    return Arm.from_pose(name, pose, shape, roll.as_matrix() @ facing(-elbow, back))


def reaching_arm(name: str, hand: np.ndarray, rng: np.random.Generator, shape: Shape, looseness: float = 0.6) -> Arm:
    """An arm whose hand shows the pose `name` and has the rotation `hand` [3, 3].

    Its wrist bends towards where the elbow is, within its limits; `looseness` is that of `named_pose`.
    """
    elbow = hand.T @ _towards_elbow(rng)
    elbow /= np.linalg.norm(elbow)
    bend = np.array([np.arctan2(-elbow[1], elbow[2]), -np.arcsin(elbow[0])])
    bend = np.clip(bend, *WRIST_LIMITS.T)
    turn = Rotation.from_euler("YX", [bend[1], -bend[0]]).as_matrix()
    pose = Pose(named_pose(name, rng, looseness).fingers, bend)
    return Arm.from_pose(name, pose, shape, hand @ turn.T)


def _hanging_arms(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """Two arms whose hands show the same or any poses."""
    left = hanging_arm(rng, shape)
    return [left, hanging_arm(rng, shape, left.name if rng.random() < ALIKE_SHARE else FREE)]


def _towards_elbow(rng: np.random.Generator) -> np.ndarray:
    return np.array([-rng.uniform(0.3, 1.0), rng.uniform(0.1, 1.0), rng.uniform(-0.1, 0.7)])


def _tilted(rng: np.random.Generator, inward: float, pitch: float) -> np.ndarray:
    """Rotation of an upright hand (fingers up, palm to the other hand), turned inwards and tipped forwards, in rad."""
    upright = facing(np.array([0, -1.0, 0]), np.array([-1.0, 0, 0]))
    noise = Rotation.from_rotvec(rng.normal(0, np.radians(3), 3))
    return (noise * Rotation.from_euler("YX", [-inward, pitch])).as_matrix() @ upright


def _moved_together(arms: list[Arm], direction: np.ndarray) -> list[Arm]:
    """The right arm shifted along the unit `direction` [3] until it touches the left one."""
    left, right = arms
    way = first_contact(right.spheres(), right.radii, left.spheres() * MIRROR, left.radii, direction)
    return [left, right.moved(direction * (way + SLACK))] if np.isfinite(way) else arms


def _closed(arms: list[Arm], hand: int, target: tuple, slack: float = SLACK) -> list[Arm]:
    """The fingers of one hand bent towards `target` [5, 4] degrees, each until it meets the other hand."""
    arm, other = arms[hand], arms[1 - hand]
    now = arm.pose.fingers
    way = np.clip(np.radians(target) - now, 0, None) * [0, 1, 1, 1]
    fingers = now + np.linspace(0, 1, CLOSING_STEPS)[:, None, None] * way
    posed = pose_joints(load_rig(), fingers, np.broadcast_to(arm.pose.wrist, (len(fingers), 2)), arm.shape)
    finger_of = load_rig().finger_of[hand_spheres().joint]
    moving = finger_of >= 0
    into = overlap(arm.bent_spheres(posed)[:, moving] * MIRROR, arm.radii[moving], other.spheres(), other.radii)
    chosen = now.copy()
    for finger in range(len(now)):
        deepest = into[:, finger_of[moving] == finger].max(1)
        free = deepest < max(slack, deepest[0] + SLACK)
        chosen[finger] = fingers[max(np.argmin(np.append(free, False)) - 1, 0), finger]
    both = [arm.bent(chosen), other]
    return both if hand == LEFT else both[::-1]


def _matched(arms: list[Arm], mine: np.ndarray, theirs: np.ndarray, offset: np.ndarray) -> list[Arm]:
    """The right arm shifted so that its point `mine` [3] meets the left arm's `theirs`, `offset` [3] m apart."""
    return [arms[LEFT], arms[RIGHT].moved(theirs * MIRROR - mine + offset)]


def _knuckles(arm: Arm) -> np.ndarray:
    return arm.joints[load_rig().phalanges[1:, 0]].mean(0)


def _tips(arm: Arm) -> np.ndarray:
    return arm.joints[load_rig().phalanges[1:, 2] + 1].mean(0)


def _pair(arms: list[Arm], place: Callable[[Arm], np.ndarray], offset: np.ndarray) -> list[Arm]:
    """The right arm shifted so that the `place` of both hands is the same but for `offset` [3] m."""
    return _matched(arms, place(arms[RIGHT]), place(arms[LEFT]), offset)


def apart(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """Side by side, not touching or hardly."""
    offset = np.array([rng.uniform(0.01, 0.06), rng.normal(0, 0.02), rng.normal(0, 0.02)])
    arms = _hanging_arms(rng, shape)
    return [arm.moved(offset * [-1, side, side]) for arm, side in zip(arms, (-1, 1), strict=True)]


def overlapping(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """One some way behind the other, as they are seen from in front."""
    offset = np.array([rng.normal(0, 0.02), rng.normal(0, 0.02), rng.choice([-1, 1]) * rng.uniform(0.025, 0.06)])
    arms = _hanging_arms(rng, shape)
    return [arm.moved(offset * [-1, side, side]) for arm, side in zip(arms, (-1, 1), strict=True)]


def touching(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """Any two poses, brought together from a random side."""
    left, right = _hanging_arms(rng, shape)
    arms = [left, right.moved(rng.normal(0, 0.025, 3))]
    direction = rng.normal(0, 1, 3) * [1, 0.7, 0.7] + [0.6, 0, 0]
    return _moved_together(arms, direction / np.linalg.norm(direction))


def palms(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """Palm to palm, as in prayer or clapping."""
    pitch, name = rng.uniform(-0.4, 1.4), str(rng.choice(["flat", "flat", "open", "spread", "relaxed"]))
    hands = [_tilted(rng, rng.normal(0, 0.1), pitch + rng.normal(0, 0.1)) for _ in range(2)]
    arms = [reaching_arm(name, hand, rng, shape) for hand in hands]
    return _moved_together(_pair(arms, _knuckles, rng.normal(0, [0, 0.008, 0.008])), ACROSS)


def clasped(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """Fingers of one hand between those of the other, bent over its back."""
    inward, pitch = rng.uniform(0.7, 1.1), rng.uniform(0.9, 1.7)
    arms = [reaching_arm("spread", _tilted(rng, inward, pitch), rng, shape, 0.2) for _ in range(2)]
    arms = _interleaved(_pair(arms, _knuckles, np.zeros(3)), rng)
    around, down = ((0, 35, 40, 35), *((0, 0, 95, 55),) * 4), ((0, 35, 40, 35), *((0, 75, 95, 55),) * 4)
    for target in (around, down):
        for hand in rng.permutation(2):
            arms = _closed(arms, int(hand), target, INTERLEAVED_SLACK)
    return arms


def _interleaved(arms: list[Arm], rng: np.random.Generator) -> list[Arm]:
    """The right arm shifted so that the fingers of both hands pass between each other as deep as they can.

    Tried are places half a finger to either side along the knuckles, from knuckle on knuckle outwards.
    """
    left, right = arms
    row = right.joints[load_rig().phalanges[[1, 4], 0]]
    pitch = (row[0] - row[1]) / 3 * rng.choice([-1, 1])
    shifts = np.array([-ACROSS * way + pitch * aside for way in np.linspace(0.03, 0.09, 9) for aside in ASIDE])
    fingers = load_rig().finger_of[hand_spheres().joint] > THUMB
    into = overlap(
        right.spheres()[fingers] + shifts[:, None], right.radii[fingers], left.spheres() * MIRROR, left.radii
    ).max(1)
    fits = np.flatnonzero(into < INTERLEAVED_SLACK)
    return [left, right.moved(shifts[fits[0] if len(fits) else into.argmin()])]


def stacked(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """One hand laid on the back or in the palm of the other."""
    tip = Rotation.from_rotvec(rng.normal(0, 0.15, 3)).as_matrix()
    below = facing([rng.uniform(0.3, 1.2), 0, -1], [0, rng.choice([-1.0, -1.0, 1.0]), 0])
    above = facing([rng.uniform(0.3, 1.5), 0, -1], [0, -1.0, 0])
    names = rng.choice(["flat", "flat", "relaxed", "open", "cup"], 2)
    arms = [reaching_arm(str(n), tip @ hand, rng, shape) for n, hand in zip(names, (below, above), strict=True)]
    arms = _moved_together(_pair(arms, _knuckles, rng.normal(0, [0.02, 0, 0.02])), np.array([0, 1.0, 0]))
    return _closed(arms, RIGHT, ((0, 20, 20, 20), *((0, 45, 50, 30),) * 4))


def fingertips(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """The tips of the fingers of both hands against each other."""
    inward, pitch = rng.uniform(0.1, 0.5), rng.uniform(-0.3, 1.3)
    name = str(rng.choice(["cup", "relaxed", "open", "claw", "pinch"]))
    arms = [reaching_arm(name, _tilted(rng, inward, pitch), rng, shape, 0.4) for _ in range(2)]
    return _moved_together(_pair(arms, _tips, rng.normal(0, [0, 0.005, 0.005])), ACROSS)


def pointing(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """A finger of one hand at some place of the other."""
    direction = np.array([1.0, rng.normal(0, 0.3), rng.normal(-0.2, 0.4)])
    direction /= np.linalg.norm(direction)
    name = str(rng.choice(["point", "point", "two", "pinch", "rocker"]))
    hand = facing(direction, np.array([-0.5, -0.5, -0.7]) + rng.normal(0, 0.4, 3))
    arms = [hanging_arm(rng, shape), reaching_arm(name, hand, rng, shape)]
    tip = arms[RIGHT].joints[load_rig().phalanges[INDEX, 2] + 1]
    goal = arms[LEFT].joints[rng.integers(len(load_rig().names) - 1)]
    return _moved_together(_matched(arms, tip, goal, rng.normal(0, 0.006, 3)), direction)


def enclosed(rng: np.random.Generator, shape: Shape) -> list[Arm]:
    """One hand closed about the other."""
    inner = str(rng.choice(["fist", "fist", "thumbs_up", "flat", "point", "relaxed"]))
    pitch = rng.uniform(0.0, 1.5)
    hands = [_tilted(rng, rng.uniform(-0.2, 0.6), pitch), _tilted(rng, rng.uniform(0, 0.6), pitch - 0.3)]
    arms = [reaching_arm(name, hand, rng, shape) for name, hand in zip((inner, "flat"), hands, strict=True)]
    arms = _moved_together(_pair(arms, _knuckles, rng.normal(0, [0, 0.015, 0.015])), ACROSS)
    return _closed(arms, RIGHT, ((0, 35, 40, 35), *((0, 80, 80, 45),) * 4))


Arrange = Callable[[np.random.Generator, Shape], list[Arm]]

# Each way with its share of the two-hand scenes.
ARRANGEMENTS: dict[str, tuple[Arrange, float]] = {
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
