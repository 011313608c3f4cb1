"""Meshes and masks of hands with 21 annotated joints, of InterHand2.6M or any other data set."""

import numpy as np

from ethand_utils.data.crops import crop_image, crop_square
from ethand_utils.data.images import ImageError
from ethand_utils.exceptions import EthandError, require_known
from ethand_utils.files import first_line
from ethand_utils.hands.amodal import Hand, HandError, hand_masks
from ethand_utils.hands.joint_fit import fit_joints
from ethand_utils.hands.joints import CHAINS, ORDERS, WRIST
from ethand_utils.hands.raycast import Camera
from ethand_utils.hands.rig import MIRROR, skin_vertices
from ethand_utils.hands.rigs import load_rig
from ethand_utils.labels import BOX_OVER_JOINTS, HAND_TYPES, HANDS, LEFT, N_JOINTS
from ethand_utils.sources.interhand_frames import Frame

FEWEST, FEWEST_PALM = 12, 3  # known joints, and among them wrist and finger bases, that a fit needs
SPAN = 0.02, 1.0  # m along an axis over which the joints of a hand may reach: others are of another unit
SMALLEST = 4  # px a side of a crop that may still show a hand
WORST, WORST_JOINT = 8.0, 30.0  # mm of residual, as mean and of a single joint, beyond which a fit is refused


def fit_hands(joints: np.ndarray, known: np.ndarray) -> tuple[Hand | None, Hand | None]:
    """Fit the generic hand to a left and a right hand: `joints` float [2, 21, 3] m, in the order of `JOINT_PARTS`.

    `known` bool [2, 21] says which are known; a hand without any is None. Raises HandError where too few are known, or
    where the residual is too large for the joints of a hand.
    """
    present = np.flatnonzero(known.any(1))
    for hand in present:
        if known[hand].sum() < FEWEST:
            raise HandError(f"joints: too few of the {HANDS[hand]} hand")
        if known[hand, [WRIST, *CHAINS[1:, 0]]].sum() < FEWEST_PALM:
            raise HandError(f"joints: too few of the {HANDS[hand]} hand's palm")
    rig = load_rig().hand
    hands: list[Hand | None] = [None, None]
    if len(present):
        mirror = np.where(present[:, None] == LEFT, MIRROR, 1)[:, None]
        fit = fit_joints(rig, np.where(known[..., None], joints, 0)[present] * mirror, known[present])
    for i, hand in enumerate(present):
        if np.nanmean(fit.residual[i]) > WORST or np.nanmax(fit.residual[i]) > WORST_JOINT:
            raise HandError(f"fit: too far from the joints of the {HANDS[hand]} hand")
        faces = rig.faces[:, ::-1] if hand == LEFT else rig.faces
        hands[hand] = Hand(skin_vertices(rig, fit.posed, i) * mirror[i], faces, rig.part_weights, fit.residual[i])
    return tuple(hands)


def from_joints(
    image: np.ndarray,
    joints: np.ndarray,
    focal: tuple[float, float],
    centre: tuple[float, float],
    order: str = "interhand",
    box: tuple[float, float, float, float] | None = None,
    size: int = 128,
) -> dict[str, np.ndarray]:
    """Create a sample from a photo with annotated joints of any data set, by fitting the generic hand.

    `image` uint8 [H, W, 3]; `joints` float [2, 21, 3] m in the camera's frame (x right, y down, z ahead), left hand
    first, NaN where unknown or absent, each hand in a named `order` of `joints.ORDERS`; `focal` and `centre` (x, y) px;
    `box` (x, y, w, h) px about the hands, by default about their joints. Returns `image` uint8 [size, size, 3], `masks`
    uint8 [2, size, size] left first, `front` uint8 [size, size] and `residual` float [2, 21] mm in the order of
    `labels.JOINT_PARTS`, NaN where unknown. Raises EthandError for an unknown order, other shapes or another unit,
    HandError for hands that cannot be fitted, ImageError for a box outside the image or in which the hands are not.
    """
    image, joints, camera = _checked(image, joints, focal, centre, order, size)
    known = np.isfinite(joints).all(-1)
    hands = fit_hands(joints, known)
    points = camera.project(joints[known])
    crop = crop_square(_box_about(points) if box is None else _numbers("box", box, 4))
    if crop[2] < SMALLEST:
        raise ImageError(f"box: its crop is {crop[2]:.3g} px wide; expected x, y, w, h, focal and centre in px")
    inside = (points >= np.maximum(crop[:2], 0)) & (points < np.minimum(np.add(crop[:2], crop[2]), image.shape[1::-1]))
    if inside.all(1).mean() < 0.5:
        raise ImageError(
            f"joints: most lie outside the box or the {image.shape[1]}×{image.shape[0]} image; "
            "expected focal, centre and box in px of this very image"
        )
    truth = hand_masks(hands, camera, np.eye(3), np.zeros(3), crop, size, image.shape[1::-1])
    residual = [np.full(N_JOINTS, np.nan) if hand is None else hand.residual for hand in hands]
    return {"image": crop_image(image, crop, size), **truth, "residual": np.stack(residual)}


def _checked(image, joints, focal, centre, order: str, size: int) -> tuple[np.ndarray, np.ndarray, Camera]:
    """Check the shapes and units of what `from_joints` is given; returns image, ordered joints and camera."""
    image = _array("image", image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise EthandError(f"image {image.dtype} {list(image.shape)}: expected uint8 [H, W, 3], RGB from 0 to 255")
    require_known("order", order, ORDERS)
    joints = _array("joints", joints, float)
    if joints.shape != (len(HANDS), N_JOINTS, 3):
        raise EthandError(f"joints {list(joints.shape)}: expected [2, 21, 3], left hand first, NaN where unknown")
    camera = Camera(_numbers("focal", focal, 2), _numbers("centre", centre, 2))
    if min(camera.focal) <= 0 or not isinstance(size, int | np.integer) or size < 16:
        raise EthandError(f"focal {focal}, size {size}: expected px above 0, and at least 16")
    joints = joints[:, ORDERS[order]]
    known = np.isfinite(joints).all(-1)
    if not known.any():
        raise HandError("joints: none is known")
    for hand in np.flatnonzero(known.any(1)):
        reach = np.ptp(joints[hand, known[hand]], axis=0).max()
        if known[hand].sum() >= FEWEST and not SPAN[0] < reach < SPAN[1]:
            remedy = "expected metres (a thousandth of mm), and NaN for a hand that is absent"
            raise EthandError(f"joints of the {HANDS[hand]} hand reach over {reach:.3g} m; {remedy}")
    if (joints[known][:, 2] <= 0).any():
        raise EthandError("joints: some lie behind the camera; expected its own frame, x right, y down, z ahead")
    return image, joints, camera


def _array(name: str, values, kind: type | None = None) -> np.ndarray:
    """Return values as an array. Raises EthandError for ragged ones, and for others that are no numbers."""
    try:
        array = np.asarray(values)
        if array.dtype.kind == "c":
            raise TypeError("complex numbers")
        return array if kind is None else array.astype(kind)
    except (TypeError, ValueError, OverflowError) as error:
        raise EthandError(
            f"{name}: no array of numbers ({first_line(error)}); expected as many for every joint, NaN where unknown"
        ) from None


def _numbers(name: str, values, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise EthandError(f"{name}: expected {count} finite numbers, px")
    return numbers


def _box_about(points: np.ndarray) -> tuple[float, float, float, float]:
    low, high = points.min(0), points.max(0)
    (x, y), (w, h) = (low + high) / 2 - (high - low) * BOX_OVER_JOINTS / 2, (high - low) * BOX_OVER_JOINTS
    return float(x), float(y), float(w), float(h)


class RigHands:
    """A source of hands: the generic hand fitted to a frame's joints."""

    name = "rig"  # as in the meta of the stores
    digest = ""  # of what the user brings; the mesh is part of the package

    def hands(self, frame: Frame) -> tuple[Hand | None, Hand | None]:
        """Return the left and right hand of a frame in world coordinates, None if absent. Raises HandError."""
        named = np.array([frame.hand_type in (hand, HAND_TYPES[-1]) for hand in HANDS])
        for hand in np.flatnonzero(named & ~frame.valid.any(1)):
            raise HandError(f"joints: too few of the {HANDS[hand]} hand")
        return fit_hands(frame.world, frame.valid & named[:, None])
