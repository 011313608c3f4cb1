"""Samplers of hand poses: named ones, and free ones whose joints and fingers move together."""

import numpy as np

from ethand_utils.hands.rig import LIMITS, Pose

NAMED_SHARE = 0.5  # of the hands that show a named pose
END_OVER_MIDDLE = 0.62  # the end joint of a finger bends with the middle one
FREE = "free"

# Degrees. A finger: (spread, base, middle, end) flexion; a thumb: (spread, base, middle, end).
STRAIGHT, BENT, CURLED = (0, 4, 6, 4), (0, 45, 50, 28), (0, 80, 98, 62)
THUMB_OUT, THUMB_ALONG, THUMB_OVER = (-6, -12, 0, -4), (-20, 24, 8, 6), (16, 30, 46, 42)


def _count_pose(*straight: int, thumb: tuple = THUMB_OVER) -> tuple:
    """Return a pose with the given fingers (1…4) straight and a little apart, the others curled."""
    aside = {1: 9, 2: 2, 3: -6, 4: -14}
    return (thumb, *((aside[f], *STRAIGHT[1:]) if f in straight else CURLED for f in range(1, 5)))


POSES = {
    "open": (THUMB_OUT, (6, 6, 8, 5), (1, 5, 8, 5), (-4, 5, 8, 5), (-10, 6, 8, 5)),
    "flat": (THUMB_ALONG, (0, 3, 4, 3), (-1, 3, 4, 3), (-1, 3, 4, 3), (2, 3, 4, 3)),
    "spread": ((-4, -20, -8, -8), (17, -4, 2, 2), (3, -4, 2, 2), (-11, -4, 2, 2), (-24, -4, 2, 2)),
    "relaxed": ((-6, 12, 14, 14), (2, 18, 28, 16), (0, 26, 34, 20), (-2, 32, 38, 22), (-4, 36, 40, 24)),
    "fist": (THUMB_OVER, CURLED, CURLED, CURLED, CURLED),
    "thumbs_up": ((-16, -14, -8, -6), CURLED, CURLED, CURLED, CURLED),
    "point": _count_pose(1),
    "two": _count_pose(1, 2),
    "three": _count_pose(1, 2, 3),
    "four": _count_pose(1, 2, 3, 4),
    "thumb_two": _count_pose(1, thumb=THUMB_OUT),
    "thumb_three": _count_pose(1, 2, thumb=THUMB_OUT),
    "rocker": (THUMB_OVER, (6, 4, 6, 4), CURLED, CURLED, (-12, 6, 8, 5)),
    "call": (THUMB_OUT, CURLED, CURLED, CURLED, (-14, 6, 8, 5)),
    "pinch": ((18, 20, 24, 22), (2, 52, 44, 24), BENT, (0, 52, 56, 34), (0, 56, 60, 36)),
    "ok": ((18, 18, 26, 24), (2, 54, 50, 28), (0, 24, 22, 14), (-5, 14, 14, 9), (-12, 8, 10, 6)),
    "claw": ((12, 4, 18, 40), (10, -6, 62, 42), (2, -6, 64, 44), (-6, -6, 64, 44), (-15, -6, 60, 40)),
    "hook": (THUMB_ALONG, (0, 4, 92, 60), (0, 4, 94, 60), (0, 4, 94, 60), (0, 4, 90, 58)),
    "cup": ((6, 16, 18, 16), (0, 38, 30, 18), (0, 42, 30, 18), (0, 44, 30, 18), (0, 46, 32, 18)),
    "bent": (THUMB_ALONG, (0, 68, 8, 5), (0, 70, 8, 5), (0, 70, 8, 5), (0, 70, 10, 6)),
}  # fmt: skip


def named_pose(name: str, rng: np.random.Generator, looseness: float = 1.0) -> Pose:
    """Sample a variation of the pose `name` of POSES; `looseness` scales what differs from time to time."""
    angles = np.radians(np.array(POSES[name], float))
    shared = rng.normal(0, np.radians(5), (1, 4))  # by all fingers
    own = rng.normal(0, np.radians([2.5, 5, 6, 4]), (5, 4))
    blend = looseness * rng.beta(1, 7)
    angles = (1 - blend) * angles + blend * np.radians(np.array(POSES["relaxed"], float))
    return Pose.clipped(angles + looseness * (shared + own), _wrist(rng))


def free_pose(rng: np.random.Generator) -> Pose:
    """Sample a pose joint by joint: fingers curl together, some apart, an end joint follows its middle one."""
    curl = rng.beta(0.9, 1.6) + rng.normal(0, 0.08, 5)
    if rng.random() < 0.35:
        independent = rng.random(5) < 0.4
        curl[independent] = rng.random(independent.sum())
        curl[2:4] = curl[2:4].mean() + 0.6 * (curl[2:4] - curl[2:4].mean())  # middle and ring share a tendon
    fingers = np.zeros((5, 4))
    fingers[:, 0] = rng.normal(0, 0.06, 5) + rng.uniform(-0.3, 1) * np.array([0.1, 0.16, 0.03, -0.12, -0.26])
    fingers[1:, 1] = curl[1:] * rng.uniform(0.7, 1.4) + rng.normal(0, 0.08, 4)
    fingers[1:, 2] = curl[1:] * rng.uniform(1.1, 1.9)
    fingers[1:, 3] = END_OVER_MIDDLE * fingers[1:, 2] + rng.normal(0, 0.05, 4)
    low, high = LIMITS[0, 1:, 0], LIMITS[0, 1:, 1]
    fingers[0, 1:] = low + (high - low) * np.clip(0.25 + 0.5 * curl[0] + rng.normal(0, 0.12, 3), 0, 1)
    return Pose.clipped(fingers, _wrist(rng))


def sample_pose(rng: np.random.Generator, name: str = FREE) -> tuple[str, Pose]:
    """Sample the pose `name` or, for FREE, a random named or free one; return its name (FREE if free) and the pose."""
    if name != FREE:
        return name, named_pose(name, rng)
    if rng.random() < NAMED_SHARE:
        name = str(rng.choice(list(POSES)))
        return name, named_pose(name, rng)
    return FREE, free_pose(rng)


def _wrist(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, [0.3, 0.12])
