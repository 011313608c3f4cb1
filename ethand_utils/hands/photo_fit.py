"""Fit of the generic hand to the joints of one hand in a photo, by least squares; depth and bones are unknown."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.spatial.transform import Rotation

from ethand_utils.exceptions import EthandError
from ethand_utils.hands.amodal import HandError
from ethand_utils.hands.joints import CHAINS, WRIST, directions, landmarks, rotation_towards
from ethand_utils.hands.raycast import Camera
from ethand_utils.hands.rig import LIMITS
from ethand_utils.hands.rigs import load_rig
from ethand_utils.labels import FINGERS, HANDS, LEFT, N_JOINTS, RIGHT

FEWEST, FEWEST_PALM = 6, 3  # joints, and among them wrist and finger bases, that a fit needs
SMALLEST = 8.0  # px over which they must reach
# Focal lengths over a photo's diagonal: the guess where the lens is unknown, and those that `likely_camera` compares,
# from a phone's to that of a distant hand or a cropped photo.
FOCAL, FOCALS = 1.0, (0.7, 1.4, 3.5)

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
# Share of the way from the fitted hand's joint to the marked one that the answer goes. It falls to 0 between these
# distances, m: beyond the second no hand has the joint.
TRUST, NEAR = 0.5, (0.009, 0.018)

# Where a fit begins: at so many of the hands below, seen from so many sides; and how many steps it takes.
VIEWS, CANDIDATES, STARTS = 96, 200, 8
STEPS, REFINING_STEPS = 30, 12
_THUMB_IN, _THUMB_OUT = (0, 35, 35, 30), (-4, 4, 5, 5)
CURLS = (
    (_THUMB_OUT, *[(0, 3, 4, 3)] * 4),
    ((0, 20, 15, 15), *[(0, 25, 35, 20)] * 4),
    ((0, 30, 25, 25), *[(0, 55, 60, 35)] * 4),
    (_THUMB_IN, *[(0, 80, 95, 60)] * 4),
    (_THUMB_OUT, *[(0, 70, 10, 5)] * 4),
    ((0, 10, 15, 20), *[(0, 0, 80, 55)] * 4),
)  # degrees, as in LIMITS
APART = 0.5  # least distance of two starts' rotations, rad
OTHER = 0.01  # m, least root mean square by which the depths of a second answer differ from the first's
UNLIKELY = 40.0  # cost by which an answer may exceed the best one

N_ANGLES = LIMITS[..., 0].size
N_BONES = LENGTHS.size
ROTATION, POSITION, ANGLE = slice(0, 3), slice(3, 6), slice(6, 6 + N_ANGLES)
LENGTH, BROAD = slice(ANGLE.stop, ANGLE.stop + N_BONES), ANGLE.stop + N_BONES
THUMB = slice(BROAD + 1, BROAD + 4)
N_PARAMETERS = THUMB.stop
# About which joint of a finger each angle turns, and which of the joints beyond the base an angle and a bone move.
ANGLE_JOINTS = np.maximum(np.arange(CHAINS.shape[1]) - 1, 0)
TURNED = np.arange(1, CHAINS.shape[1])[:, None] > ANGLE_JOINTS
GROWN = np.arange(1, CHAINS.shape[1])[:, None] > np.arange(CHAINS.shape[1] - 1)


@dataclass(frozen=True)
class PhotoFit:
    """One hand in a photo: `joints` float [21, 3] m in the camera's frame and `pixels` float [21, 2] px of them.

    `residual` float [21] px is each joint's distance from where the fitted hand has it, NaN where none was given. The
    `joints` themselves are moved towards those that were, by TRUST of the way. `state` float [k] starts another fit;
    the lower its `cost`, the likelier the hand.
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


def likely_camera(points: np.ndarray, width: float, height: float, weights: np.ndarray | None = None) -> Camera:
    """Return the camera of FOCALS by which the hands of a photo are likeliest.

    `points` float [2, 21, 2] px are those of the left and the right hand, NaN where unknown or absent, and `weights`
    float [2, 21] theirs, 1 by default. How strongly fingers shrink with depth says which it is; without hands that can
    be fitted, the camera is `guess_camera`'s.
    """
    guess, costs = guess_camera(width, height), np.zeros(len(FOCALS))
    weights = np.ones(points.shape[:2]) if weights is None else weights
    cameras = [Camera((guess.focal[0] * factor / FOCAL,) * 2, guess.centre) for factor in FOCALS]
    for side in (LEFT, RIGHT):
        try:
            fit = fit_photo_joints(points[side], side, guess, weights[side])[0]
        except HandError:
            continue
        for i, camera in enumerate(cameras):
            start = _for_camera(fit, guess, camera)
            costs[i] += fit_photo_joints(points[side], side, camera, weights[side], start)[0].cost
    return cameras[costs.argmin()] if costs.any() else guess


def _for_camera(fit: PhotoFit, old: Camera, new: Camera) -> PhotoFit:
    """Return a fit as a start for a camera of the same centre and another focal length: the hand appears the same."""
    ratio, state = new.focal[0] / old.focal[0], fit.state.copy()
    state[3:5] /= ratio
    state[5] += np.log(ratio)
    return replace(fit, state=state)


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
    data = _Data.create(rays, weights, start)
    states = start.state[None] if start is not None else _starts(data)
    states, costs = _minimise(data, states, STEPS if start is None else REFINING_STEPS)
    fits = []
    for state, cost in _distinct(states, costs) if start is None else [(states[0], costs[0])]:
        fits.append(_answer(data, camera, mirror, state, cost))
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


def _pose(states: np.ndarray, slopes: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the joints float [B, 21, 3] m of hands [B, k] and, with `slopes`, their derivatives [B, 21, 3, k]."""
    skeleton, count = _skeleton(), len(states)
    turn = Rotation.from_rotvec(states[:, ROTATION]).as_matrix()
    angles = states[:, ANGLE].reshape(count, len(FINGERS), -1)
    bones = skeleton.bones * np.exp(states[:, LENGTH]).reshape(count, len(FINGERS), -1, 1)
    palm, across = _palm(states, turn)
    joints = np.empty((count, N_JOINTS, 3))
    joints[:, WRIST] = palm[:, -1]
    fingers = joints[:, :WRIST].reshape(count, *CHAINS.shape, 3)[:, :, ::-1]  # a view, from base to tip
    fingers[:, :, 0] = palm[:, :-1]
    frame, hinges = turn[:, None], np.empty((count, len(FINGERS), CHAINS.shape[1], 3))
    for step in range(CHAINS.shape[1] - 1):
        frame = frame @ skeleton.turns[:, step]
        if step == 0:
            hinges[:, :, 0] = frame[..., 1]
            frame = frame @ _about_y(angles[..., 0])
        hinges[:, :, 1 + step] = -frame[..., 0]
        frame = frame @ _about_x(-angles[..., 1 + step])
        fingers[:, :, step + 1] = fingers[:, :, step] + (frame @ bones[:, :, step, :, None])[..., 0]
    distance = np.exp(states[:, 5])[:, None]
    position = distance * np.append(states[:, 3:5], np.ones((count, 1)), axis=1)
    derivatives = _slopes(joints, fingers, hinges, turn, across, position) if slopes else None
    return joints + position[:, None], derivatives


def _palm(states: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the palm's joints [B, 6, 3] m of hands [B, k] turned by [B, 3, 3], and its derivatives by breadth."""
    palm = np.repeat(_skeleton().palm[None], len(states), axis=0)
    palm[..., 0] *= np.exp(states[:, BROAD, None])
    across = turn[:, None, :, 0] * palm[..., :1]
    palm[:, 0] += states[:, THUMB]
    return palm @ turn.mT, across


def _slopes(joints, fingers, hinges, turn, across, position) -> np.ndarray:
    """Return the derivatives [B, 21, 3, k] of joints [B, 21, 3], of which `fingers` [B, 5, 4, 3] go from base to tip.

    `hinges` [B, 5, 4, 3] are the axes of the angles, `across` [B, 6, 3] the palm's derivatives by its breadth.
    """
    count, links = len(joints), CHAINS.shape[1]
    slopes = np.zeros((count, N_JOINTS, 3, N_PARAMETERS))
    x, y, z = np.moveaxis(joints, -1, 0)
    for row, column, value in ((0, 1, z), (0, 2, -y), (1, 0, -z), (1, 2, x), (2, 0, y), (2, 1, -x)):
        slopes[:, :, row, column] = value
    slopes[:, :, (0, 1), (3, 4)] = position[:, None, 2:]
    slopes[..., 5] = position[:, None]
    by_finger = slopes[:, :WRIST].reshape(count, *CHAINS.shape, 3, N_PARAMETERS)[:, :, ::-1]
    turned = _cross(hinges[:, :, None], fingers[:, :, 1:, None] - fingers[:, :, ANGLE_JOINTS][:, :, None])
    turned = np.where(TURNED[..., None], turned, 0).swapaxes(-1, -2)  # [B, finger, joint, xyz, angle]
    grown = np.where(GROWN[..., None], np.diff(fingers, axis=2)[:, :, None], 0).swapaxes(-1, -2)
    for finger in range(len(FINGERS)):
        first, bone = ANGLE.start + links * finger, LENGTH.start + (links - 1) * finger
        by_finger[:, finger, 1:, :, first : first + links] = turned[:, finger]
        by_finger[:, finger, 1:, :, bone : bone + links - 1] = grown[:, finger]
    by_finger[..., BROAD], slopes[:, WRIST, :, BROAD] = across[:, :-1, None], across[:, -1]
    by_finger[:, 0, ..., THUMB] = turn[:, None]
    return slopes


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return cross products [..., 3]; several times faster than NumPy's on small arrays."""
    (ax, ay, az), (bx, by, bz) = np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], -1)


def _about_x(angles: np.ndarray) -> np.ndarray:
    c, s, zero = np.cos(angles), np.sin(angles), np.zeros_like(angles)
    return np.stack([zero + 1, zero, zero, zero, c, -s, zero, s, c], -1).reshape(*angles.shape, 3, 3)


def _about_z(angles: np.ndarray) -> np.ndarray:
    c, s, zero = np.cos(angles), np.sin(angles), np.zeros_like(angles)
    return np.stack([c, -s, zero, s, c, zero, zero, zero, zero + 1], -1).reshape(*angles.shape, 3, 3)


def _about_y(angles: np.ndarray) -> np.ndarray:
    c, s, zero = np.cos(angles), np.sin(angles), np.zeros_like(angles)
    return np.stack([c, zero, s, zero, zero + 1, zero, -s, zero, c], -1).reshape(*angles.shape, 3, 3)


@dataclass(frozen=True)
class _Data:
    """The observations of a fit: `rays` float [21, 2], x and y over z, 0 where unknown, and their `weights` [21].

    `deviation` is a ray's, as x and y over z.
    """

    rays: np.ndarray
    weights: np.ndarray
    deviation: float

    @staticmethod
    def create(rays: np.ndarray, weights: np.ndarray, start: PhotoFit | None) -> "_Data":
        """Create it from rays that are NaN where unknown; how large the hand appears sets their deviation."""
        data = _Data(np.where(weights[:, None] > 0, rays, 0), weights, 1.0)
        if start is not None:
            return replace(data, deviation=DEVIATION / float(np.exp(start.state[5])))
        factors, _, errors = _match_templates(data)
        return replace(data, deviation=DEVIATION * float(np.abs(factors[errors.argmin()])))


@cache
def _templates() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return rotations [T, 3, 3] and angles [T, 20] of hands seen from all sides, and their joints in parallel light.

    These are complex [T, 21], x + iy in m; their squared lengths come last.
    """
    step = np.arange(VIEWS) + 0.5
    z, around = 1 - 2 * step / VIEWS, np.pi * (1 + 5**0.5) * step
    views = np.stack([np.cos(around) * np.sqrt(1 - z**2), np.sin(around) * np.sqrt(1 - z**2), z], 1)
    across = directions(np.cross(views, np.roll(views, 1, axis=1)))
    turns = np.repeat(np.stack([across, np.cross(views, across), views], axis=1), len(CURLS), axis=0)
    states = np.repeat(_prior()[0][None], len(turns), axis=0)
    states[:, ROTATION] = Rotation.from_matrix(turns).as_rotvec()
    states[:, ANGLE] = np.tile(np.radians(CURLS).reshape(len(CURLS), -1), (VIEWS, 1))
    flat = _pose(states, False)[0][..., :2] @ (1, 1j)
    return turns, states[:, ANGLE], flat, np.abs(flat) ** 2


def _match_templates(data: _Data) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay every template over the rays, as a drawing that is turned and resized; x and y are one complex number.

    Returns the factors [T] and shifts [T] that do so, and the remaining errors [T].
    """
    _, _, flat, squared = _templates()
    rays, weights = data.rays @ (1, 1j), data.weights / data.weights.sum()
    middles, middle = flat @ weights, rays @ weights
    spread = squared @ weights - np.abs(middles) ** 2
    factors = (flat.conj() @ (weights * rays) - middles.conj() * middle) / np.maximum(spread, 1e-12)
    errors = weights @ np.abs(rays - middle) ** 2 - np.abs(factors) ** 2 * spread
    return factors, middle - factors * middles, errors


def _starts(data: _Data) -> np.ndarray:
    """Return the states [B, k] of those templates that come closest to the rays, each with another rotation."""
    factors, shifts, errors = _match_templates(data)
    turns, angles = _templates()[:2]
    near = errors.argsort()[:CANDIDATES]
    factors, shifts, angles = factors[near], shifts[near], angles[near]
    rays = data.rays[data.weights > 0].mean(0)
    turns = _rotation_to_ray(rays) @ _about_z(np.angle(factors)) @ turns[near]
    chosen = [0]
    for candidate in range(1, len(near)):
        cosines = (np.trace(turns[chosen].mT @ turns[candidate], axis1=1, axis2=2) - 1) / 2
        if cosines.max() < np.cos(APART):
            chosen.append(candidate)
    chosen = chosen[:STARTS]
    states = np.repeat(_prior()[0][None], len(chosen), axis=0)
    states[:, ROTATION] = Rotation.from_matrix(turns[chosen]).as_rotvec()
    shifts = shifts[chosen]
    states[:, POSITION] = np.stack([shifts.real, shifts.imag, -np.log(np.abs(factors[chosen]))], 1)
    states[:, ANGLE] = angles[chosen]
    return states


def _rotation_to_ray(ray: np.ndarray) -> np.ndarray:
    """Return the rotation [3, 3] from the optical axis to a ray, by its x and y over z [2]."""
    ahead = np.array([0, 0, 1.0])
    return rotation_towards(ahead, directions(np.append(ray, 1.0)), np.array(np.pi))


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


def _answer(data: _Data, camera: Camera, mirror: np.ndarray, state: np.ndarray, cost: float) -> PhotoFit:
    """Return the hand of a state, with its joints moved towards those rays that are not far from them."""
    joints = _pose(state[None], False)[0][0]
    offset = np.where(data.weights[:, None] > 0, data.rays - joints[:, :2] / joints[:, 2:], 0)
    residual = np.where(data.weights > 0, np.linalg.norm(offset * camera.focal, axis=1), np.nan)
    share = np.interp(np.linalg.norm(offset, axis=1) * joints[:, 2], NEAR, (TRUST, 0)) * data.weights
    joints[:, :2] += share[:, None] * offset * joints[:, 2:]
    joints[:, :2] *= mirror
    return PhotoFit(joints, camera.project(joints), residual, state, cost)
