"""Amodal masks of hand meshes: each hand as if it were alone, which one is in front, and how much is occluded."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ethand_utils.exceptions import EthandError
from ethand_utils.hands.raycast import FAR, Camera, Hits, Mesh
from ethand_utils.labels import FRONT_LEFT, FRONT_NONE, FRONT_RIGHT, LEFT, RIGHT


class HandError(EthandError):
    """Raised where a frame's hand gives no mesh; the text is a short reason, by which skipped frames are counted."""


@dataclass(frozen=True)
class Hand:
    """A posed hand: `vertices` float [V, 3] (m), `faces` int [F, 3] wound outwards, closed at the wrist.

    `part_weights` float [V, N_CLASSES] say how far a vertex belongs to each part. `residual` float [N_JOINTS] (mm) is
    each joint's distance, in the order of `labels.JOINT_PARTS`, from its annotation; NaN where it was not annotated.
    """

    vertices: np.ndarray
    faces: np.ndarray
    part_weights: np.ndarray
    residual: np.ndarray

    @cached_property
    def mesh(self) -> Mesh:
        """The mesh for ray casting, built once for all cameras."""
        return Mesh(self.vertices, self.faces)


def hand_masks(
    hands: tuple[Hand | None, Hand | None],
    camera: Camera,
    rotation: np.ndarray,
    translation: np.ndarray,
    crop: tuple[float, float, float],
    size: int,
    frame: tuple[int, int],
) -> dict[str, np.ndarray]:
    """Compute masks of the left and the right hand (None: absent) in a crop (x, y, side) px of a camera's frame.

    A point p (m) of the hands is at `rotation` [3, 3] · (p − `translation` [3]) in the camera, whose `frame` is
    (width, height) px. Returns `masks` uint8 [2, size, size], left first, and `front` uint8 [size, size]; both are 0
    outside the frame, where the crop is black.
    """
    view = camera.crop(*crop, size)
    rays = view.rays(size)
    hits = [hand and hand.mesh.first_hits(view, size, rays, rotation, translation) for hand in hands]
    masks, front = amodal_masks(hits, hits, [hand.part_weights if hand else None for hand in hands], size)
    outside = beyond_frame(crop, size, frame)
    masks[:, outside], front[outside] = 0, FRONT_NONE
    return {"masks": masks, "front": front}


def amodal_masks(
    limbs: list[Hits | None], hands: list[Hits | None], part_weights: list[np.ndarray | None], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return masks uint8 [2, size, size] of each hand as if alone, and `front` uint8 [size, size].

    `limbs` are the hits of the left and the right arm (None: absent), `hands` those of the hands as if they had no
    forearm, `part_weights` float [V, N_CLASSES] their vertices'. The nearer limb is in front, its forearm included, so
    that an arm before the other hand occludes it; `front` is FRONT_NONE where neither mask has a part.
    """
    masks = np.zeros((2, size * size), np.uint8)
    depth = np.full((2, size * size), FAR, np.float32)
    for hand, (limb, alone) in enumerate(zip(limbs, hands, strict=True)):
        if limb is not None:
            masks[hand, alone.pixels] = _hit_parts(alone, part_weights[hand])
            depth[hand, limb.pixels] = limb.depth
    front = np.where(depth[LEFT] <= depth[RIGHT], FRONT_LEFT, FRONT_RIGHT)
    front[~masks.any(0)] = FRONT_NONE
    return masks.reshape(2, size, size), front.astype(np.uint8).reshape(size, size)


def _hit_parts(hits: Hits, part_weights: np.ndarray) -> np.ndarray:
    """Return the part uint8 [m] of greatest interpolated weight; only triangles of mixed parts need the sum."""
    corner_parts = part_weights.argmax(1)[hits.corners]
    parts = corner_parts[:, 0].astype(np.uint8)
    a, b, c = corner_parts.T
    mixed = np.flatnonzero((a != b) | (b != c))
    parts[mixed] = hits.subset(mixed).interpolate(part_weights).argmax(1)
    return parts


def beyond_frame(crop: tuple[float, float, float], size: int, frame: tuple[int, int]) -> np.ndarray:
    """Return which pixels of a crop (x, y, side) px lie outside a frame (width, height) px: bool [size, size]."""
    x, y, side = crop
    offsets = (np.arange(size) + 0.5) / size * side
    width, height = frame
    return (offsets + x < 0) | (offsets + x >= width) | ((offsets + y < 0) | (offsets + y >= height))[:, None]


def occluded_share(masks: np.ndarray, front: np.ndarray) -> tuple[float, float]:
    """Return the share of the left and of the right hand's pixels behind the other limb; NaN for an absent hand."""
    shares = []
    for hand, other in ((LEFT, FRONT_RIGHT), (RIGHT, FRONT_LEFT)):
        pixels = masks[hand] > 0
        shares.append(float((front[pixels] == other).mean()) if pixels.any() else float("nan"))
    return tuple(shares)
