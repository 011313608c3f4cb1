"""A first guess of a photo's joints for a labeller to mend: from found landmarks, else from a net's part masks."""

import cv2
import numpy as np
from scipy.spatial import cKDTree

from ethand_utils.analysis.hand_finder import FoundHand, HandView, photo_views, plain_view, unit, whole_view
from ethand_utils.analysis.photos import predict_view
from ethand_utils.data.crops import TurnedSquare
from ethand_utils.data.images import Photo
from ethand_utils.exceptions import EthandError
from ethand_utils.hands.joints import CHAINS, ORDERS, WRIST
from ethand_utils.labels import FINGERS, JOINT_PARTS, N_JOINTS, PALM
from ethand_utils.sources.photo_labels import HandLabel, PhotoLabel
from ethand_utils.training.photo_graph import PhotoGraph

Box = tuple[float, float, float, float]
SMALLEST = 0.0005  # area of a part over that of its square from which it counts
SAME = 0.06  # distance between two parts, over the square's side, up to which they meet
BEYOND_WRIST = 0.13  # length of the palm's part beyond the wrist's joint over that of the palm: 13 of 100 mm
END = 0.08  # share of a part that is its end
FEWEST = 6  # joints that a guess of a hand needs


def guess_joints(
    image: np.ndarray | Photo, net: PhotoGraph | None = None, box: Box | None = None, name: str = ""
) -> PhotoLabel:
    """Return a label of a photo, uint8 RGB [H, W, 3] or reduced, for a labeller to mend: a left and a right hand.

    The hands are those of the largest view in which MediaPipe's nets find any. Where these find none, or cannot be
    fetched, joints come from the part masks that `net` predicts of the photo (`joints_of_masks`), NaN where it sees
    none. Where that finds nothing either, the label has no hands. `box` (x, y, w, h) px is about the hands, None where
    unknown; `name` is the photo's.
    """
    photo = image if isinstance(image, Photo) else Photo(image, *image.shape[:2])
    hands = _found_hands(photo, box)
    if not any(hands) and net is not None:
        hands = guess_from_masks(photo, net, box)
    return PhotoLabel(name, hands)


def _found_hands(photo: Photo, box: Box | None) -> tuple[HandLabel | None, HandLabel | None]:
    """Return the hands of the largest view in which landmarks are found."""
    try:
        views = photo_views(photo, box)
    except EthandError:  # no network: the masks are left
        views = []
    hands: list[HandLabel | None] = [None, None]
    for hand in views[0].hands if views else ():
        hands[hand.side] = HandLabel(joints_of_landmarks(hand))
    return tuple(hands)


def joints_of_landmarks(hand: FoundHand) -> np.ndarray:
    """Return a found hand's joints float [21, 2] px in the order of `labels.JOINT_PARTS`."""
    return hand.landmarks[ORDERS["freihand"]].astype(float)


def guess_from_masks(
    photo: Photo, net: PhotoGraph, box: Box | None = None
) -> tuple[HandLabel | None, HandLabel | None]:
    """Return the hands that a net sees in a `box` (x, y, w, h) px of a photo.

    Without one, it looks at the whole photo first, and then at the square about what it saw.
    """
    if box is None:
        view = whole_view(photo.image).scaled(photo.factor)
        box = _box(predict_view(net, photo, net.size, view).crop_masks, view)
    if box is None:
        return None, None
    view = plain_view(box)
    masks = predict_view(net, photo, net.size, view).crop_masks
    joints = [joints_of_masks(mask) for mask in masks]
    labels = [HandLabel(_in_photo(one, view.square, masks.shape[-1])) for one in joints]
    return tuple(label if label.placed.sum() >= FEWEST else None for label in labels)


def _box(masks: np.ndarray, view: HandView) -> Box | None:
    """Return the box (x, y, w, h) px of the photo about masks [2, S, S] of an upright view; None without hands."""
    rows, columns = (np.flatnonzero(masks.any((0, axis))) for axis in (2, 1))
    if not len(rows):
        return None
    scale, corner = view.square.side / masks.shape[-1], np.array(view.square.centre) - view.square.side / 2
    low, high = np.array([columns[0], rows[0]]), np.array([columns[-1], rows[-1]]) + 1
    return (*(corner + low * scale).tolist(), *((high - low) * scale).tolist())


def _in_photo(points: np.ndarray, square: TurnedSquare, size: int) -> np.ndarray:
    """Return points [21, 2] px of a square at `size` px in the photo's px."""
    matrix = square.matrix(size)
    return (points - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5


def joints_of_masks(mask: np.ndarray) -> np.ndarray:
    """Return the joints float [21, 2] px that a hand's part mask uint8 [S, S] shows, NaN for those it does not.

    A joint is where two neighbouring parts meet, a tip the far end of a last part, the wrist the palm's end.
    """
    joints = np.full((N_JOINTS, 2), np.nan)
    parts = {part: _largest_piece(mask == part) for part in range(1, int(mask.max()) + 1)}
    for joint, meeting in enumerate(JOINT_PARTS):
        if len(meeting) == 2:
            joints[joint] = _meeting(parts.get(meeting[0]), parts.get(meeting[1]), SAME * len(mask))
    for chain, (*_, last) in zip(CHAINS, FINGERS.values(), strict=True):
        joints[chain[-1]] = _far_end(parts.get(last), joints[chain[-2]])
    joints[WRIST] = _wrist(parts.get(PALM), joints[CHAINS[1:, 0]])
    return joints


def _largest_piece(mask: np.ndarray) -> np.ndarray | None:
    """Return the middles float [n, 2] px of the pixels of a mask's largest connected piece; None of a tiny one."""
    count, pieces, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return None
    largest = 1 + statistics[1:, cv2.CC_STAT_AREA].argmax()
    rows, columns = np.nonzero(pieces == largest)
    return np.stack([columns, rows], 1) + 0.5 if len(rows) >= SMALLEST * mask.size else None


def _meeting(one: np.ndarray | None, other: np.ndarray | None, reach: float) -> np.ndarray:
    """Return the middle [2] of the border between two parts' pixels [n, 2]; NaN where they are farther than `reach`."""
    if one is None or other is None:
        return np.full(2, np.nan)
    distances, nearest = cKDTree(other).query(one)
    if distances.min() > reach:
        return np.full(2, np.nan)
    border = distances <= distances.min() + 0.5
    return (one[border].mean(0) + other[nearest[border]].mean(0)) / 2


def _far_end(part: np.ndarray | None, joint: np.ndarray) -> np.ndarray:
    """Return the end [2] of a part's pixels [n, 2] that is farthest from the joint where it begins."""
    if part is None or np.isnan(joint).any():
        return np.full(2, np.nan)
    distances = np.linalg.norm(part - joint, axis=1)
    return part[distances >= np.quantile(distances, 1 - END)].mean(0)


def _wrist(palm: np.ndarray | None, bases: np.ndarray) -> np.ndarray:
    """Return the wrist [2] of a palm's pixels [n, 2]: before its end, seen from the fingers' `bases` [4, 2]."""
    bases = bases[np.isfinite(bases).all(1)]
    if palm is None or len(bases) < 2:
        return np.full(2, np.nan)
    start = bases.mean(0)
    along = palm @ unit(palm.mean(0) - start)
    begin, end = start @ unit(palm.mean(0) - start), np.quantile(along, 1 - END / 2)
    slab = np.abs(along - (end - BEYOND_WRIST * (end - begin))) <= END * (end - begin)
    return palm[slab].mean(0) if slab.any() else np.full(2, np.nan)
