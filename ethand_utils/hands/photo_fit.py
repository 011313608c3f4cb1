"""Fit of the generic hand to the joints of one hand in a photo, by least squares; depth and bones are unknown."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.spatial.transform import Rotation

from ethand_utils.exceptions import EthandError
from ethand_utils.hands.amodal import HandError
from ethand_utils.hands.joints import CHAINS, WRIST, directions, landmarks
from ethand_utils.hands.raycast import Camera
from ethand_utils.hands.rig import LIMITS
from ethand_utils.hands.rigs import load_rig
from ethand_utils.labels import FINGERS, HANDS, LEFT, N_JOINTS, RIGHT

FEWEST, FEWEST_PALM = 6, 3  # joints, and among them wrist and finger bases, that a fit needs
SMALLEST = 8.0  # px over which they must reach
FOCAL = 1.0  # of a photo whose lens is unknown, over its diagonal: between a phone's and a cropped photo's

# What is expected of a hand. Angles, rad: mean and deviation of spread, base, middle and end flexion, thumb first.
ANGLES = np.radians([[0, 8, 15, 20], *[[0, 30, 40, 25]] * 4])
ANGLE_DEVIATIONS = np.radians([[15, 20, 22, 30], *[[9, 32, 38, 26]] * 4])
COUPLING, COUPLING_DEVIATION = 0.62, np.radians(12)  # a finger's end bends with its middle joint
LIMIT_DEVIATION = np.radians(4)  # softness of the joint limits
# Lengths of the bones, base to end, and of the palm's breadth over those of the rig, rounded from other hands; the
# deviations of their logarithms: all bones together, a finger's, a bone alone, the breadth.
LENGTHS, BREADTH = np.array([[0.95, 1.0, 1.15], *[[0.97, 1.06, 1.04]] * 4]), 1.1
LENGTH_DEVIATIONS, BREADTH_DEVIATION = (0.05, 0.05, 0.05), 0.08
THUMB_DEVIATION = 0.004  # m along an axis, of the thumb's base in the palm
DEVIATION = 0.003  # m, of a joint from where the fitted hand has it, as clicked and as people differ
OUTLIER = 3.0  # deviations beyond which a joint loses weight

VIEWS, STARTS, STEPS, REFINING_STEPS = 96, 8, 30, 12
APART = 0.5  # least distance of two starts' rotations, rad
OTHER = 0.006  # m, by which depths of a second answer differ from those of the first, as root mean square
UNLIKELY = 40.0  # cost by which an answer may exceed the best one

N_ANGLES = LIMITS[..., 0].size
N_BONES = LENGTHS.size
ROTATION, POSITION, ANGLE = slice(0, 3), slice(3, 6), slice(6, 6 + N_ANGLES)
LENGTH, BROAD = slice(ANGLE.stop, ANGLE.stop + N_BONES), ANGLE.stop + N_BONES
THUMB = slice(BROAD + 1, BROAD + 4)
N_PARAMETERS = THUMB.stop


@dataclass(frozen=True)
class PhotoFit:
    """One hand in a photo: `joints` float [21, 3] m in the camera's frame and `pixels` float [21, 2] px of them.

    `residual` float [21] px is each joint's distance from where the fitted hand has it, NaN where none was given; the
    `joints` themselves lie on the rays of those that were. `state` float [k] starts another fit, a lower `cost` is the
    likelier hand.
    """

    joints: np.ndarray
    pixels: np.ndarray
    residual: np.ndarray
    state: np.ndarray
    cost: float


def guess_camera(width: float, height: float) -> Camera:
    """Return a camera for a photo of `width`×`height` px, of whose lens nothing is known."""
    focal = FOCAL * float(np.hypot(width, height))
    return Camera((focal, focal), (width / 2, height / 2))


def fit_photo_joints(
    points: np.ndarray,
    side: int,
    camera: Camera,
    weights: np.ndarray | None = None,
    start: PhotoFit | None = None,
) -> list[PhotoFit]:
    """Fit a hand to `points` float [21, 2] px in the order of `labels.JOINT_PARTS`, NaN where unknown.

    `side` is LEFT or RIGHT, `weights` float [21] are those of the points, 1 by default. Returns the likeliest hand
    and, where one bent the other way in depth explains the points too, that one; with `start`, what that answer
    becomes, alone. Raises HandError for too few points, or points that are all in one place.
    """
    points, weights = _checked(points, side, weights)
    mirror = np.array([-1.0, 1.0]) if side == LEFT else np.ones(2)
    rays = (points - camera.centre) / camera.focal * mirror  # as of a right hand
    data = _Data.create(rays, weights)
    states = start.state[None] if start is not None else _starts(data)
    states, costs = _minimise(data, states, STEPS if start is None else REFINING_STEPS)
    fits = []
    for state, cost in _distinct(states, costs) if start is None else [(states[0], costs[0])]:
        fits.append(_answer(data, points, camera, mirror, state, cost))
    return fits


def _checked(points: np.ndarray, side: int, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return points and weights [21], 0 where there is no point."""
    points = np.asarray(points, float)
    if points.shape != (N_JOINTS, 2) or side not in (LEFT, RIGHT):
        raise EthandError(f"points {list(points.shape)}, side {side}: expected [{N_JOINTS}, 2] px, side 0 or 1")
    valid = np.isfinite(points).all(1)
    weights = np.where(valid, 1.0 if weights is None else weights, 0.0)
    palm = valid[[WRIST, *CHAINS[:, 0]]].sum()
    if valid.sum() < FEWEST or palm < FEWEST_PALM:
        raise HandError(
            f"joints: {valid.sum()} of the {HANDS[side]} hand, {palm} of its palm; "
            f"mark {FEWEST} or more, {FEWEST_PALM} of them its wrist or a finger's base"
        )
    if np.ptp(points[valid], axis=0).max() < SMALLEST:
        raise HandError(f"joints: all of the {HANDS[side]} hand within {SMALLEST:.0f} px; mark them where they are")
    return points, weights


@dataclass(frozen=True)
class _Skeleton:
    """The annotated joints of the generic hand at rest: `palm` float [6, 3] m, the finger bases and then the wrist.

    In the frame of each finger's bone that it follows: `bones` float [5, 3, 3] m from one joint to the next, and
    `turns` float [5, 3, 3, 3] from the frame of the bone before it.
    """

    palm: np.ndarray
    bones: np.ndarray
    turns: np.ndarray


@cache
def _skeleton() -> _Skeleton:
    rig = load_rig().hand
    points, axes = landmarks(rig), rig.rest[:, :3, :3][rig.phalanges]
    bones = (axes.mT @ np.diff(points[CHAINS], axis=1)[..., None])[..., 0]
    before = np.concatenate([np.broadcast_to(np.eye(3), (len(FINGERS), 1, 3, 3)), axes[:, :-1]], axis=1)
    palm = points[[*CHAINS[:, 0], WRIST]]
    return _Skeleton(palm - palm.mean(0), bones, before.mT @ axes)


def _pose(states: np.ndarray, jacobian: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the joints float [B, 21, 3] m of hands [B, k], and their derivatives float [B, 21, 3, k]."""
    skeleton, count = _skeleton(), len(states)
    turn = Rotation.from_rotvec(states[:, ROTATION]).as_matrix()
    angles = states[:, ANGLE].reshape(count, len(FINGERS), -1)
    position = np.exp(states[:, 5:6]) * np.append(states[:, 3:5], np.ones((count, 1)), axis=1)
    stretch = np.exp(states[:, LENGTH]).reshape(count, len(FINGERS), -1, 1)
    palm = np.repeat(skeleton.palm[None], count, axis=0)
    palm[..., 0] *= np.exp(states[:, BROAD, None])
    broad = palm[..., :1].copy()
    palm[:, 0] += states[:, THUMB]
    palm = palm @ turn.mT
    joints, slopes = np.empty((count, N_JOINTS, 3)), np.zeros((count, N_JOINTS, 3, N_PARAMETERS))
    joints[:, WRIST] = palm[:, -1]
    joints[:, CHAINS[:, 0]] = palm[:, :-1]
    frame = turn[:, None]
    hinges = []
    for step in range(CHAINS.shape[1] - 1):
        frame = frame @ skeleton.turns[:, step]
        if step == 0:
            hinges.append(frame[..., 1])
            frame = frame @ _about_y(angles[..., 0])
        hinges.append(-frame[..., 0])
        frame = frame @ _about_x(-angles[..., 1 + step])
        bone = (frame @ skeleton.bones[:, step, :, None])[..., 0] * stretch[:, :, step]
        joints[:, CHAINS[:, step + 1]] = joints[:, CHAINS[:, step]] + bone
    if jacobian:
        _fill_slopes(slopes, joints, broad, turn, hinges)
        slopes[:, :, :2, 3:5] = np.eye(2) * np.exp(states[:, 5])[:, None, None, None]
        slopes[..., 5] = position[:, None]
    return joints + position[:, None], slopes if jacobian else None


def _fill_slopes(slopes: np.ndarray, joints: np.ndarray, broad: np.ndarray, turn: np.ndarray, hinges: list) -> None:
    """Fill in the derivatives by rotation, angles and lengths of `joints` [B, 21, 3] about the palm's middle."""
    slopes[:, :, 0, 1], slopes[:, :, 0, 2] = joints[..., 2], -joints[..., 1]
    slopes[:, :, 1, 0], slopes[:, :, 1, 2] = -joints[..., 2], joints[..., 0]
    slopes[:, :, 2, 0], slopes[:, :, 2, 1] = joints[..., 1], -joints[..., 0]
    fingers = np.arange(len(FINGERS))
    for angle, hinge in enumerate(hinges):
        near, numbers = max(angle - 1, 0), ANGLE.start + len(hinges) * fingers + angle
        for beyond in range(near + 1, CHAINS.shape[1]):
            moved = np.cross(hinge, joints[:, CHAINS[:, beyond]] - joints[:, CHAINS[:, near]])
            slopes[:, CHAINS[:, beyond], :, numbers] = moved.swapaxes(0, 1)
    for step in range(CHAINS.shape[1] - 1):
        bone = joints[:, CHAINS[:, step + 1]] - joints[:, CHAINS[:, step]]
        numbers = LENGTH.start + (CHAINS.shape[1] - 1) * fingers + step
        for beyond in range(step + 1, CHAINS.shape[1]):
            slopes[:, CHAINS[:, beyond], :, numbers] = bone.swapaxes(0, 1)
    across = turn[:, None, :, 0] * broad  # of the palm's joints by its breadth
    slopes[:, WRIST, :, BROAD] = across[:, -1]
    for finger, chain in enumerate(CHAINS):
        slopes[..., BROAD][:, chain] = across[:, finger, None]
    slopes[:, CHAINS[0], :, THUMB] = turn[:, None]


def _about_x(angles: np.ndarray) -> np.ndarray:
    c, s, zero = np.cos(angles), np.sin(angles), np.zeros_like(angles)
    return np.stack([zero + 1, zero, zero, zero, c, -s, zero, s, c], -1).reshape(*angles.shape, 3, 3)


def _about_y(angles: np.ndarray) -> np.ndarray:
    c, s, zero = np.cos(angles), np.sin(angles), np.zeros_like(angles)
    return np.stack([c, zero, s, zero, zero + 1, zero, -s, zero, c], -1).reshape(*angles.shape, 3, 3)


@dataclass(frozen=True)
class _Data:
    """What a fit has to meet: `rays` float [21, 2], x and y over z, 0 where unknown, and their `weights` [21].

    `deviation` is that of a ray.
    """

    rays: np.ndarray
    weights: np.ndarray
    deviation: float

    @staticmethod
    def create(rays: np.ndarray, weights: np.ndarray) -> "_Data":
        """Create it from rays that are NaN where unknown; how large the hand appears sets their deviation."""
        data = _Data(np.where(weights[:, None] > 0, rays, 0), weights, 1.0)
        sizes, errors = _match_templates(data)[:2]
        size = np.abs(sizes[errors.argmin()])
        return _Data(data.rays, weights, float(DEVIATION * size))


@cache
def _templates() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rotation vectors [T, 3], angles [T, 20] and joints [T, 21, 3] of hands seen from all sides."""
    step = np.arange(VIEWS) + 0.5
    z, around = 1 - 2 * step / VIEWS, np.pi * (1 + 5**0.5) * step
    views = np.stack([np.cos(around) * np.sqrt(1 - z**2), np.sin(around) * np.sqrt(1 - z**2), z], 1)
    across = directions(np.cross(views, np.roll(views, 1, axis=1)))
    turns = np.stack([across, np.cross(views, across), views], axis=1)
    curls = np.radians(
        [
            [-4, 3, 4, 4, 3],
            [0, 25, 35, 20, 15],
            [0, 55, 60, 35, 25],
            [0, 80, 95, 60, 35],
            [0, 70, 10, 5, 5],
            [0, 0, 80, 55, 15],
        ]
    )
    fingers = np.zeros((len(curls), 5, 4))
    fingers[:, 1:] = curls[:, None, :4]
    fingers[:, 0, 1:] = curls[:, 4:]
    states = np.zeros((VIEWS, len(curls), N_PARAMETERS))
    states[..., ROTATION] = Rotation.from_matrix(turns).as_rotvec()[:, None]
    states[..., ANGLE] = fingers.reshape(len(curls), -1)
    states = states.reshape(-1, N_PARAMETERS)
    states[:, POSITION], states[:, LENGTH.start :] = 0, _prior()[0][LENGTH.start :]
    joints = _pose(states, False)[0] - (0, 0, 1)
    return states[:, ROTATION], states[:, ANGLE], joints


def _match_templates(data: _Data) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return of every template the complex factor [T] that lays it over the rays, the error [T], and both middles."""
    joints = _templates()[2]
    flat, rays = joints[..., 0] + 1j * joints[..., 1], data.rays[:, 0] + 1j * data.rays[:, 1]
    weights = data.weights / data.weights.sum()
    middles, middle = flat @ weights, rays @ weights
    flat, rays = flat - middles[:, None], rays - middle
    spread = (np.abs(flat) ** 2) @ weights
    factor = (flat.conj() * rays) @ weights / np.maximum(spread, 1e-12)
    return factor, (np.abs(rays) ** 2) @ weights - np.abs(factor) ** 2 * spread, middles, middle


def _starts(data: _Data) -> np.ndarray:
    """Return the states [B, k] of those templates that come closest to the rays, each another rotation."""
    factor, error, middles, middle = _match_templates(data)
    rotvecs, angles, _ = _templates()
    towards = _rotation_to_ray(middle)
    chosen, turns, mean = [], [], _prior()[0]
    for template in error.argsort():
        inplane = Rotation.from_rotvec([0, 0, np.angle(factor[template])])
        turn = towards * inplane * Rotation.from_rotvec(rotvecs[template])
        if all((turn * other.inv()).magnitude() > APART for other in turns):
            depth = 1 / np.abs(factor[template])
            centre = middle - factor[template] * middles[template]
            position = [centre.real, centre.imag, np.log(depth)]
            chosen.append(np.concatenate([turn.as_rotvec(), position, angles[template], mean[LENGTH.start :]]))
            turns.append(turn)
        if len(chosen) == STARTS:
            break
    return np.array(chosen)


def _rotation_to_ray(middle: complex) -> Rotation:
    """Return the rotation from the optical axis to a ray."""
    ray = directions(np.array([middle.real, middle.imag, 1.0]))
    axis = np.cross([0, 0, 1.0], ray)
    return Rotation.from_rotvec(directions(axis) * np.arctan2(np.linalg.norm(axis), ray[2]))


@cache
def _prior() -> tuple[np.ndarray, np.ndarray]:
    """Return the mean float [k] of the parameters and the inverse of their covariance float [k, k]."""
    mean, inverse = np.zeros(N_PARAMETERS), np.zeros((N_PARAMETERS, N_PARAMETERS))
    mean[ANGLE] = ANGLES.ravel()
    inverse[ANGLE, ANGLE] = np.diag(ANGLE_DEVIATIONS.ravel() ** -2)
    for finger in range(1, len(FINGERS)):
        middle = ANGLE.start + 4 * finger + 2
        slope = np.zeros(N_PARAMETERS)
        slope[middle], slope[middle + 1] = COUPLING, -1
        inverse += np.outer(slope, slope) / COUPLING_DEVIATION**2
    together, finger, alone = LENGTH_DEVIATIONS
    same = np.kron(np.eye(len(FINGERS)), np.ones((LENGTHS.shape[1],) * 2))
    covariance = together**2 + finger**2 * same + alone**2 * np.eye(N_BONES)
    mean[LENGTH], mean[BROAD] = np.log(LENGTHS).ravel(), np.log(BREADTH)
    inverse[LENGTH, LENGTH] = np.linalg.inv(covariance)
    inverse[BROAD, BROAD] = BREADTH_DEVIATION**-2
    inverse[THUMB, THUMB] = np.eye(3) * THUMB_DEVIATION**-2
    return mean, inverse


def _cost(data: _Data, states: np.ndarray, slopes: bool) -> tuple:
    """Return the costs [B] and, with `slopes`, half their gradients [B, k] and Gauss-Newton's matrices [B, k, k]."""
    joints, jacobian = _pose(states, slopes)
    depth = np.maximum(joints[..., 2:], 1e-3)
    offset = (joints[..., :2] / depth - data.rays) / data.deviation
    squared = (offset**2).sum(-1)
    loss = data.weights * OUTLIER**2 * np.log1p(squared / OUTLIER**2)
    mean, inverse = _prior()
    away = states - mean
    away[:, :6] = 0
    pull = away @ inverse
    angles = states[:, ANGLE]
    low, high = LIMITS.reshape(-1, 2).T
    excess = (np.maximum(angles - high, 0) - np.maximum(low - angles, 0)) / LIMIT_DEVIATION
    cost = loss.sum(1) + (away * pull).sum(1) + (excess**2).sum(1)
    if not slopes:
        return cost, None, None
    strength = data.weights / (1 + squared / OUTLIER**2)
    flat = (jacobian[..., :2, :] - (joints[..., :2] / depth)[..., None] * jacobian[..., 2:, :]) / depth[..., None]
    flat = (flat / data.deviation * np.sqrt(strength)[..., None, None]).reshape(len(states), -1, N_PARAMETERS)
    residual = (offset * np.sqrt(strength)[..., None]).reshape(len(states), -1, 1)
    gradient = (flat.mT @ residual)[..., 0] + pull
    gradient[:, ANGLE] += excess / LIMIT_DEVIATION
    matrix = flat.mT @ flat + inverse
    diagonal = np.arange(ANGLE.start, ANGLE.stop)
    matrix[:, diagonal, diagonal] += (excess != 0) / LIMIT_DEVIATION**2
    return cost, gradient, matrix


def _minimise(data: _Data, states: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return states [B, k] at minima of the cost, by Levenberg and Marquardt's method, and their costs [B]."""
    states, damping = states.copy(), np.full(len(states), 1e-2)
    cost, gradient, matrix = _cost(data, states, True)
    diagonal = np.arange(N_PARAMETERS)
    for _ in range(steps):
        damped = matrix.copy()
        damped[:, diagonal, diagonal] *= 1 + damping[:, None]
        step = -np.linalg.solve(damped, gradient[..., None])[..., 0]
        trial = _moved(states, step)
        new_cost, new_gradient, new_matrix = _cost(data, trial, True)
        better = new_cost < cost
        gain = np.where(better, cost - new_cost, 0)
        states[better], cost[better] = trial[better], new_cost[better]
        gradient[better], matrix[better] = new_gradient[better], new_matrix[better]
        damping = np.clip(np.where(better, damping / 4, damping * 5), 1e-6, 1e6)
        if (gain < 1e-3).all() and (better | (damping > 1)).all():
            break
    return states, cost


def _moved(states: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return states [B, k] after a step, of whose rotations the first three numbers are rotation vectors."""
    moved = states + np.clip(step, -0.6, 0.6)
    turned = Rotation.from_rotvec(np.clip(step[:, ROTATION], -0.6, 0.6)) * Rotation.from_rotvec(states[:, ROTATION])
    moved[:, ROTATION] = turned.as_rotvec()
    return moved


def _distinct(states: np.ndarray, costs: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """Return the best state with its cost, and the next that lies otherwise in depth, if it is likely at all."""
    order = costs.argsort()
    depth = _pose(states, False)[0][..., 2]
    depth = depth - depth.mean(1, keepdims=True)
    best = order[0]
    answers = [(states[best], float(costs[best]))]
    for other in order[1:]:
        differ = np.sqrt(((depth[other] - depth[best]) ** 2).mean())
        if differ > OTHER and costs[other] < costs[best] + UNLIKELY:
            answers.append((states[other], float(costs[other])))
            break
    return answers


def _answer(data: _Data, points, camera: Camera, mirror: np.ndarray, state: np.ndarray, cost: float) -> PhotoFit:
    """Return the hand of a state, with its joints on the rays of the points."""
    joints = _pose(state[None], False)[0][0]
    pixels = joints[:, :2] / joints[:, 2:] * mirror * camera.focal + camera.centre
    residual = np.linalg.norm(pixels - points, axis=1)
    clicked = np.isfinite(residual)
    joints[clicked, :2] = data.rays[clicked] * joints[clicked, 2:]
    joints[:, :2] *= mirror
    return PhotoFit(joints, camera.project(joints), residual, state, cost)
