"""Masks of hands that are known as meshes, wherever these come from: each hand as if it were alone."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ethand_utils.exceptions import EthandError
from ethand_utils.hands.raycast import FAR, Camera, Hits, Mesh
from ethand_utils.labels import FRONT_LEFT, FRONT_NONE, FRONT_RIGHT, LEFT, RIGHT


class HandError(EthandError):
    """A hand of a frame that cannot be had as a mesh; the text is a short reason, fit to be counted by."""


@dataclass(frozen=True)
class Hand:
    """A hand in place: `vertices` float [V, 3] (m), `faces` int [F, 3] wound outwards, closed at the wrist.

    `part_weights` float [V, N_CLASSES]: how far a vertex belongs to each part. `residual` float [N_JOINTS] (mm): how
    far each joint of `labels.JOINT_PARTS` is from where it was annotated, NaN where it was not.
    """

    vertices: np.ndarray
    faces: np.ndarray
    part_weights: np.ndarray
    residual: np.ndarray

    @cached_property
    def mesh(self) -> Mesh:
        """The hand ready for rays, built once for all cameras that see it."""
        return Mesh(self.vertices, self.faces)


def hand_masks(
    hands: tuple[Hand | None, Hand | None],
    camera: Camera,
    turn: np.ndarray,
    position: np.ndarray,
    crop: tuple[float, float, float],
    size: int,
    frame: tuple[int, int],
) -> dict[str, np.ndarray]:
    """Masks of the left and the right hand (None: absent) in a crop (x, y, side) px of a camera's frame.

    A point p (m) of the hands is at `turn` [3, 3] · (p − `position` [3]) in the camera's frame of `frame` (width,
    height) px. Returns `masks` uint8 [2, size, size], left first, and `front` uint8 [size, size]; both are 0 beyond
    the frame, where the crop is black.
    """
    view = camera.crop(*crop, size)
    rays = view.rays(size)
    hits = [hand and hand.mesh.seen(view, size, rays, turn, position) for hand in hands]
    masks, front = amodal_masks(hits, [hand.part_weights if hand else None for hand in hands], size)
    outside = beyond_frame(crop, size, frame)
    masks[:, outside], front[outside] = 0, FRONT_NONE
    return {"masks": masks, "front": front}


def occluded_share(masks: np.ndarray, front: np.ndarray) -> tuple[float, float]:
    """Share of the left and of the right hand's pixels that lie behind the other limb; NaN for an absent hand."""
    shares = []
    for hand, other in ((LEFT, FRONT_RIGHT), (RIGHT, FRONT_LEFT)):
        pixels = masks[hand] > 0
        shares.append(float((front[pixels] == other).mean()) if pixels.any() else float("nan"))
    return tuple(shares)


def beyond_frame(crop: tuple[float, float, float], size: int, frame: tuple[int, int]) -> np.ndarray:
    """Pixels of a crop (x, y, side) px at `size` that lie beyond a frame (width, height) px: bool [size, size]."""
    x, y, side = crop
    at = (np.arange(size) + 0.5) / size * side
    width, height = frame
    return (at + x < 0) | (at + x >= width) | ((at + y < 0) | (at + y >= height))[:, None]


def amodal_masks(
    hits: list[Hits | None], part_weights: list[np.ndarray | None], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Masks uint8 [2, size, size] of each hand as if alone, and `front` uint8 [size, size].

    `hits` are left's and right's (None: absent); their `part_weights` float [V, N_CLASSES] say how far a vertex belongs
    to each part. A limb is in front where it is nearer, its forearm included, so that an arm before the other hand
    occludes it; `front` is FRONT_NONE where neither mask has a part.
    """
    masks = np.zeros((2, size * size), np.uint8)
    depth = np.full((2, size * size), FAR, np.float32)
    for hand, found in enumerate(hits):
        if found is not None:
            masks[hand, found.pixels] = _parts(found, part_weights[hand])
            depth[hand, found.pixels] = found.depth
    front = np.where(depth[LEFT] <= depth[RIGHT], FRONT_LEFT, FRONT_RIGHT)
    front[~masks.any(0)] = FRONT_NONE
    return masks.reshape(2, size, size), front.astype(np.uint8).reshape(size, size)


def _parts(hits: Hits, part_weights: np.ndarray) -> np.ndarray:
    """Part uint8 [m] with the greatest interpolated weight; only triangles whose corners disagree need the sum."""
    corner_parts = part_weights.argmax(1)[hits.corners]
    parts = corner_parts[:, 0].astype(np.uint8)
    a, b, c = corner_parts.T
    mixed = np.flatnonzero((a != b) | (b != c))
    parts[mixed] = hits.chosen(mixed).at(part_weights).argmax(1)
    return parts
