"""Finds hands in whole photos by MediaPipe's two nets, run by OpenCV: palms first, then 21 landmarks of each hand.

The nets (Apache-2.0) come out of the wheel of the package mediapipe, fetched once, as the hands' meshes do. Their
anchors, crops and thresholds are those of MediaPipe's graphs `palm_detection_cpu` and `hand_landmark_tracking_cpu`.
"""

import hashlib
import io
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from platformdirs import user_cache_dir

from ethand_utils.files import atomic_write
from ethand_utils.labels import BOX_OVER_JOINTS
from ethand_utils.wheels import fetch_wheel

PACKAGE = "mediapipe==0.10.21"
# One and the same wheel on every machine: the nets in all of them are equal.
WHEEL = ("--only-binary=:all:", "--python-version=3.11", "--platform=manylinux_2_28_x86_64")
WHEEL_SHA256 = "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3"
NETS = {
    "palm_detection_full": "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54",
    "hand_landmark_full": "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
}
PALM_BOX_OVER_POINTS = 1.0
PALM_SIZE, LANDMARK_SIZE = 192, 224  # px a side of the nets' images
GRIDS = ((24, 2), (12, 6))  # cells a side of the palm net's two grids, and anchors a cell
MIN_SCORE, MIN_PRESENCE = 0.5, 0.5
SAME_PALM, SAME_HAND = 0.3, 0.4  # IoU of boxes from which two are of one palm, and of one hand
ROI_OVER_PALM, ROI_SHIFT = 2.6, 0.5  # side of a hand's square over its palm's, and its shift towards the fingers
WRIST, MIDDLE = 0, 2  # the palm net's points at the wrist and the middle finger's base
VIEWS = (1.6, 1.0, 0.5)  # squares in which palms are looked for, over the photo's longer side
MIN_TILE = 256  # px of the photo's side from which parts of it are searched too
NEAR = 0.35  # gap between two hands of one pair at most, over the larger hand's side
ALIKE = 2.0  # largest ratio of their sides


@dataclass(frozen=True)
class FoundHand:
    """A hand of a photo: its 21 landmarks [21, 2] px (MediaPipe's order), the net's presence, and that it is a right one.

    Presence and `right` are probabilities.
    """

    landmarks: np.ndarray
    presence: float
    right: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The box (x, y, w, h) px about its landmarks, as large as a data set's boxes are about joints."""
        return _padded(self.landmarks)


def find_boxes(image: np.ndarray) -> list[tuple[float, float, float, float]]:
    """Return the boxes (x, y, w, h) px of the hands in a photo uint8 RGB [H, W, 3], two hands that are near in one.

    The largest comes first. Raises FileError when the nets cannot be fetched.
    """
    groups = pair_hands(find_hands(image))
    boxes = [_padded(np.concatenate([hand.landmarks for hand in group])) for group in groups]
    return sorted(boxes, key=lambda box: -box[2] * box[3])


def pair_hands(hands: list[FoundHand]) -> list[list[FoundHand]]:
    """Return hands in groups of one or two: the nearest two first, where they are alike in size and near each other."""
    pairs = [(_gap(a, b), i, j) for i, a in enumerate(hands) for j, b in enumerate(hands[:i]) if _alike(a, b)]
    groups, free = [], set(range(len(hands)))
    for gap, i, j in sorted(pairs):
        if gap <= NEAR and {i, j} <= free:
            groups.append([hands[i], hands[j]])
            free -= {i, j}
    return groups + [[hands[i]] for i in sorted(free)]


def find_hands(image: np.ndarray) -> list[FoundHand]:
    """Return the hands of a photo uint8 RGB [H, W, 3], each once. Raises FileError when the nets cannot be fetched."""
    palms = _distinct(*_find_palms(image), SAME_PALM)
    hands = [_landmarks(image, points) for points in palms]
    hands = [hand for hand in hands if hand.presence >= MIN_PRESENCE]
    boxes, presence = np.array([hand.box for hand in hands]).reshape(-1, 4), [hand.presence for hand in hands]
    return [hands[i] for i in _suppress(boxes, np.array(presence), SAME_HAND)]


def _find_palms(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes [n, 4] px, scores [n] and points [n, 7, 2] px of the palms seen in any of the squares of VIEWS."""
    seen = [_palms(image, square) for square in _squares(*image.shape[:2])]
    return tuple(map(np.concatenate, zip(*seen, strict=True)))


def _squares(height: int, width: int) -> list[tuple[float, float, float]]:
    """Return the squares (x, y, side) px in which palms are looked for: about the photo, and smaller ones inside it."""
    longer, squares = max(height, width), []
    for share in VIEWS:
        side = share * longer
        if share >= 1:
            squares.append(((width - side) / 2, (height - side) / 2, side))
        elif longer >= MIN_TILE:
            across, down = (np.linspace(0, max(0, length - side), 1 + (length > side) * 2) for length in (width, height))
            squares += [(x, y, side) for y in dict.fromkeys(down) for x in dict.fromkeys(across)]
    return squares


def _palms(image: np.ndarray, square: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the palms of a square (x, y, side) px of a photo, as `_find_palms` does."""
    x, y, side = square
    scale = side / PALM_SIZE
    matrix = np.array([[scale, 0, x + (scale - 1) / 2], [0, scale, y + (scale - 1) / 2]])
    raw, logits = _run("palm_detection_full", _warped(image, matrix, PALM_SIZE, scale), ("Identity", "Identity_1"))
    scores = 1 / (1 + np.exp(-np.clip(logits.reshape(-1), -100, 100)))
    chosen = scores >= MIN_SCORE
    values = raw.reshape(-1, 9, 2)[chosen] / PALM_SIZE
    anchors = _anchors()[chosen]
    points = (values[:, 2:] + anchors[:, None]) * side + (x, y)
    extent = values[:, 1] * side
    corner = (values[:, 0] + anchors) * side + (x, y) - extent / 2
    return np.concatenate([corner, extent], 1), scores[chosen], points


@cache
def _anchors() -> np.ndarray:
    """Return the middles [2016, 2] of the palm net's anchors, in 0…1 of its image."""
    grids = []
    for cells, each in GRIDS:
        rows, columns = np.divmod(np.arange(cells * cells).repeat(each), cells)
        grids.append((np.stack([columns, rows], 1) + 0.5) / cells)
    return np.concatenate(grids)


def _distinct(boxes: np.ndarray, scores: np.ndarray, points: np.ndarray, same: float) -> list[np.ndarray]:
    """Return the points of every palm once: those of its best box."""
    return [points[i] for i in _suppress(boxes, scores, same)]


def _suppress(boxes: np.ndarray, scores: np.ndarray, same: float) -> list[int]:
    """Return which boxes (x, y, w, h) [n, 4] are the best of those that overlap by an IoU above `same`, best first."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if all(_iou(boxes[i], boxes[j]) <= same for j in kept):
            kept.append(int(i))
    return kept


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    shared = np.clip(np.minimum(a[:2] + a[2:], b[:2] + b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return shared / max(a[2:].prod() + b[2:].prod() - shared, 1e-9)


def _landmarks(image: np.ndarray, palm: np.ndarray) -> FoundHand:
    """Return the hand of a palm's points [7, 2] px, seen upright in a square about it."""
    towards = palm[MIDDLE] - palm[WRIST]
    up = towards / max(np.linalg.norm(towards), 1e-6)
    right = np.array([-up[1], up[0]])
    low, high = palm.min(0), palm.max(0)
    side = max(high - low) * PALM_BOX_OVER_POINTS * ROI_OVER_PALM
    middle = (low + high) / 2 + up * ROI_SHIFT * side / ROI_OVER_PALM
    scale = side / LANDMARK_SIZE
    linear = scale * np.stack([right, -up], 1)
    matrix = np.concatenate([linear, (middle - linear @ np.full(2, (LANDMARK_SIZE - 1) / 2))[:, None]], 1)
    outputs = ("Identity", "Identity_1", "Identity_2")
    points, presence, handedness = _run("hand_landmark_full", _warped(image, matrix, LANDMARK_SIZE, scale), outputs)
    points = points.reshape(21, 3)[:, :2] - 0.5
    return FoundHand(points @ linear.T + matrix[:, 2] + 0.5, float(presence.ravel()[0]), float(handedness.ravel()[0]))


def _warped(image: np.ndarray, matrix: np.ndarray, size: int, scale: float) -> np.ndarray:
    """Return size×size px of a photo by the affine [2, 3] from the result's px to its own, black beyond its border.

    A photo that shrinks is first reduced by area, so that fine detail does not turn into noise.
    """
    if scale > 2:
        factor = 2 ** int(np.log2(scale))
        small = cv2.resize(image, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
        image, matrix = small, np.concatenate([matrix[:, :2], (matrix[:, 2:] + 0.5)], 1) / factor
        matrix[:, 2] -= 0.5
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _run(name: str, image: np.ndarray, outputs: tuple[str, ...]) -> list[np.ndarray]:
    net = _net(name)
    net.setInput(image.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    return net.forward(list(outputs))


@cache
def _net(name: str) -> cv2.dnn.Net:
    return cv2.dnn.readNetFromTFLite(str(net_file(name)))


def net_file(name: str) -> Path:
    """Return the path of one of NETS, fetched on first use and verified. Raises EthandError where that fails."""
    path = Path(user_cache_dir("ethand")) / f"{name}-{PACKAGE.partition('==')[2]}.tflite"
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != NETS[name]:
        remedy = f"copy {path.parent}/*.tflite from a machine that has them, or give the hands' box (--box x,y,w,h)"
        wheel = fetch_wheel(PACKAGE, WHEEL_SHA256, "the nets that find hands", remedy, *WHEEL)
        with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
            for net in NETS:
                with atomic_write(path.with_name(path.name.replace(name, net))) as temporary:
                    temporary.write_bytes(archive.read(f"mediapipe/modules/{net.removesuffix('_full')}/{net}.tflite"))
    return path


def _padded(landmarks: np.ndarray) -> tuple[float, float, float, float]:
    low, high = landmarks.min(0), landmarks.max(0)
    centre, extent = (low + high) / 2, (high - low) * BOX_OVER_JOINTS
    return (*(centre - extent / 2).tolist(), *extent.tolist())


def _alike(a: FoundHand, b: FoundHand) -> bool:
    """Return whether two hands are one left and one right, of about the same size."""
    sizes = sorted(max(hand.box[2:]) for hand in (a, b))
    return (a.right > 0.5) != (b.right > 0.5) and sizes[1] <= ALIKE * sizes[0]


def _gap(a: FoundHand, b: FoundHand) -> float:
    """Return the gap between two hands' boxes over the larger one's side; 0 where they overlap."""
    boxes = np.array([a.box, b.box])
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    gap = np.clip(low.max(0) - high.min(0), 0, None)
    return float(np.linalg.norm(gap) / boxes[:, 2:].max())
