"""What is wrong with a frame of InterHand2.6M: the same for a data set, for scores on frames, and for sheets."""

from typing import TYPE_CHECKING

import numpy as np

from ethand_utils.data.crops import MAX_CROP, crop_square
from ethand_utils.data.images import BLACK, ImageError, read_photo
from ethand_utils.labels import HAND_TYPES, HANDS

if TYPE_CHECKING:
    from ethand_utils.sources.interhand_frames import Frame

REDUCED = 8  # images are checked at 1/8 of their size, which is fast and still finds truncated ones


def annotation_fault(frame: "Frame") -> str:
    """Return what is wrong with a frame's joints, hand type or box, "" if nothing is."""
    annotated = frame.world.any(-1)
    if not annotated.any():
        return "joints: none known"
    if (annotated & ~frame.valid).any():
        return "joints: behind the camera"
    for hand, present in zip(HANDS, annotated.any(1), strict=True):
        if present != (frame.hand_type in (hand, HAND_TYPES[-1])):
            return f"hand_type: {frame.hand_type} {'with' if present else 'without'} joints of the {hand} hand"
    return _box_fault(frame)


def _box_fault(frame: "Frame") -> str:
    x, y, w, h = frame.bbox
    width, height = frame.size
    if not (np.isfinite(frame.bbox).all() and w > 0 and h > 0):
        return "box: without area"
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return "box: outside the frame"
    left, top, side = crop_square(frame.bbox)
    if side > MAX_CROP * max(frame.size):
        return "box: out of proportion to the frame"
    joints = frame.joints[frame.valid]
    inside = ((joints >= (left, top)) & (joints < (left + side, top + side))).all(-1)
    return "" if inside.mean() >= 0.5 else "joints: most outside the box"


def image_fault(frame: "Frame") -> str:
    """Return what is wrong with a frame's image, read at reduced size, "" if nothing is."""
    try:
        photo = read_photo(frame.image, factor=REDUCED)
    except ImageError:
        return "image: truncated or unreadable"
    if (photo.width, photo.height) != frame.size:
        return "image: not of the annotated size"
    x, y, w, h = np.array(frame.bbox) * (photo.image.shape[1] / frame.size[0])
    box = photo.image[max(0, int(y)) : int(np.ceil(y + h)), max(0, int(x)) : int(np.ceil(x + w))]
    return "" if box.max(initial=0) > BLACK else "image: black where the hands are"
