"""What a hand's landmarks say of its parts: a prior that a net's probabilities are multiplied with."""

import cv2
import numpy as np

from ethand_utils.labels import FINGERS, N_CLASSES, PALM

# MediaPipe's landmarks: the wrist, then four of each finger from the base to the tip, the thumb first.
WRIST, CHAIN = 0, 4
PALM_CORNERS = (0, 1, 5, 9, 13, 17)
RADIUS = 0.14  # of a finger and its surroundings, over the length of the palm
WIDTH_OVER_LENGTH = 1.2  # length of a palm over the distance of its outer knuckles
STRENGTH = 16.0  # of the prior: its logarithm is half of this at a bone, and 0 at a radius from it
LEAST = -6.0  # of its logarithm


def landmark_prior(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Return factors float32 [17, size, size] on one hand's class probabilities, of its landmarks [21, 2] px.

    A part is likelier near its bone, the palm between its corners, and less likely than without landmarks at more than
    a finger's radius from it. The factor of the background is 1.
    """
    palm = np.linalg.norm(landmarks[9] - landmarks[WRIST])
    breadth = np.linalg.norm(landmarks[5] - landmarks[17])
    radius = RADIUS * max(palm, WIDTH_OVER_LENGTH * breadth, 1.0)
    factors = np.ones((N_CLASSES, size, size), np.float32)
    for part, bone in _bones():
        factors[part] = _factor(_distance(landmarks[list(bone)], size), radius)
    factors[PALM] = _factor(_distance(landmarks[list(PALM_CORNERS)], size), radius)
    return factors


def _bones() -> list[tuple[int, tuple[int, int]]]:
    """Return the part of each bone of the fingers, and the landmarks at its ends."""
    return [
        (part, (1 + CHAIN * finger + bone, 2 + CHAIN * finger + bone))
        for finger, parts in enumerate(FINGERS.values())
        for bone, part in enumerate(parts)
    ]


def _distance(corners: np.ndarray, size: int) -> np.ndarray:
    """Return the distance px [size, size] from a line, or a filled polygon, with its corners [k, 2] px."""
    outside = np.full((size, size), 255, np.uint8)
    # OpenCV draws lines of any length from beyond the border, but counts in integers.
    points = np.clip(np.round(corners - 0.5), -4 * size, 5 * size).astype(np.int32)
    if len(points) > 2:
        cv2.fillPoly(outside, [cv2.convexHull(points)], 0)
    cv2.polylines(outside, [points], len(points) > 2, 0)
    return (
        cv2.distanceTransform(outside, cv2.DIST_L2, 5) if not outside.all() else np.full_like(outside, size, np.float32)
    )


def _factor(distance: np.ndarray, radius: float) -> np.ndarray:
    return np.exp(np.maximum(STRENGTH / 2 * (1 - (distance / radius) ** 2), LEAST))
