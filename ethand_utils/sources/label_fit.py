"""From a photo's labelled joints to its hands and their masks."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ethand_utils.hands.amodal import Hand, HandError, hand_masks
from ethand_utils.hands.joints import CHAINS, WRIST
from ethand_utils.hands.photo_fit import PhotoFit, fit_photo_joints, likely_camera
from ethand_utils.hands.raycast import Camera
from ethand_utils.labels import BOX_OVER_JOINTS, FINGERS, HANDS, N_JOINTS
from ethand_utils.sources.joint_annotations import fit_hands
from ethand_utils.sources.label_files import PhotoLabel

CLICKED, GUESSED = 1.0, 0.3  # weight of a joint that the labeller sees, and of one that is a guess
NEARER = 0.999  # depth of the farthest point of the hand in front over that of the nearest point of the other
FAR_JOINT = 0.4  # distance of a joint from the fitted hand's, over the palm's length, that is worth a warning
OTHER_SIDE = 15.0  # by which the other side's fit costs less where the joints may be that side's


@dataclass(frozen=True, eq=False)
class LabelFit:
    """What a label's joints give: per side the `answers` of the fit, the likelier first, none for an absent hand.

    `camera` is the likeliest of the photo of `size` (width, height) px; `hands` are the meshes of the `chosen`
    answers in its frame, left first, None where absent, the one that the label says is in front nearer.
    """

    label: PhotoLabel
    size: tuple[int, int]
    camera: Camera
    answers: tuple[list[PhotoFit], list[PhotoFit]]
    hands: tuple[Hand | None, Hand | None]

    @property
    def chosen(self) -> tuple[PhotoFit | None, PhotoFit | None]:
        """The answer of each side that the label chooses; the likelier where there is only one."""
        return _chosen(self.label, self.answers)

    def is_of(self, label: PhotoLabel, size: tuple[int, int]) -> bool:
        """Return whether the fit is of the joints of a label of a photo of this (width, height) px."""
        pairs = zip(self.label.hands, label.hands, strict=True)
        same = all(one is other or (one and other and one.to_json() == other.to_json()) for one, other in pairs)
        return same and self.label.front == label.front and self.size == size

    @property
    def joints(self) -> np.ndarray:
        """The fitted joints of both hands float [2, 21, 3] m in the camera's frame, NaN for an absent hand."""
        return _joints(self.chosen)

    @property
    def pixels(self) -> np.ndarray:
        """The joints of both hands float [2, 21, 2] px: labelled ones, fitted ones in between, NaN without a hand."""
        pixels = np.full((len(HANDS), N_JOINTS, 2), np.nan)
        for side in self.label.sides:
            joints = self.label.hands[side].joints
            pixels[side] = np.where(np.isnan(joints), self.chosen[side].pixels, joints)
        return pixels

    @cached_property
    def warnings(self) -> list[str]:
        """What may be wrong with the label, a line each. It takes a fit of the other side, once."""
        lines = [self._far_joint(side) for side in self.label.sides]
        lines += [self._other_side(side) for side in self.label.sides]
        return [line for line in lines if line]

    def _far_joint(self, side: int) -> str:
        """Return a line on the joint that is farthest from the fitted hand; empty where it is near."""
        fit = self.chosen[side]
        residual = np.nan_to_num(fit.residual)
        worst = int(residual.argmax())
        if residual[worst] <= FAR_JOINT * palm_length(fit.pixels):
            return ""
        return f"the {HANDS[side]} hand's {joint_name(worst)} is {residual[worst]:.0f} px from where a hand has it"

    def _other_side(self, side: int) -> str:
        """Return a line where the joints of a side fit the other hand much better.

        Seen in a picture, many a left hand has joints that a right one could have: most are not told apart.
        """
        points, weights = _points(self.label)
        own = min(fit.cost for fit in self.answers[side])
        try:
            fits = fit_photo_joints(points[side], 1 - side, self.camera, weights[side])
        except HandError:
            return ""
        if min(fit.cost for fit in fits) > own - OTHER_SIDE:
            return ""
        return f"the {HANDS[side]} hand's joints fit a {HANDS[1 - side]} hand better"


def fit_label(label: PhotoLabel, size: tuple[int, int], before: LabelFit | None = None) -> LabelFit:
    """Fit hands to the joints of a label of a photo of `size` (width, height) px.

    With `before`, the fit of nearly the same joints, the answer is quick: each hand goes on from the chosen one, with
    the same camera; a hand that was not there is fitted anew. Raises HandError, naming the hand, for joints that give
    none.
    """
    points, weights = _points(label)
    camera = likely_camera(points, *size, weights) if before is None else before.camera
    starts, answers = (None, None) if before is None else before.chosen, ([], [])
    for side in label.sides:
        answers[side].extend(fit_photo_joints(points[side], side, camera, weights[side], starts[side]))
    hands = posed_hands(_joints(_chosen(label, answers)), label.front)
    return LabelFit(label, tuple(size), camera, answers, hands)


def _points(label: PhotoLabel) -> tuple[np.ndarray, np.ndarray]:
    """Return the label's joints float [2, 21, 2] px, NaN where there is none, and their weights float [2, 21]."""
    points, weights = np.full((len(HANDS), N_JOINTS, 2), np.nan), np.ones((len(HANDS), N_JOINTS))
    for side in label.sides:
        hand = label.hands[side]
        points[side], weights[side] = hand.joints, np.where(hand.guessed, GUESSED, CLICKED)
    return points, weights


def _chosen(label: PhotoLabel, answers: tuple[list, list]) -> tuple[PhotoFit | None, PhotoFit | None]:
    pairs = zip(label.hands, answers, strict=True)
    return tuple(fits[min(hand.answer, len(fits) - 1)] if hand is not None and fits else None for hand, fits in pairs)


def _joints(fits: tuple[PhotoFit | None, PhotoFit | None]) -> np.ndarray:
    return np.stack([np.full((N_JOINTS, 3), np.nan) if fit is None else fit.joints for fit in fits])


def posed_hands(joints: np.ndarray, front: str) -> tuple[Hand | None, Hand | None]:
    """Return the meshes of fitted joints float [2, 21, 3] m, NaN for an absent hand.

    Where `front` names a hand, that one is moved nearer, towards the camera, in whose picture it stays the same.
    """
    hands = list(fit_hands(joints, np.isfinite(joints).all(-1)))
    if front in HANDS and None not in hands:
        first = HANDS.index(front)
        nearest = np.linalg.norm(hands[1 - first].vertices, axis=1).min()
        farthest = np.linalg.norm(hands[first].vertices, axis=1).max()
        scale = min(1.0, NEARER * nearest / farthest)
        hands[first] = replace(hands[first], vertices=hands[first].vertices * scale)
    return tuple(hands)


def label_masks(
    fit: LabelFit, crop: tuple[float, float, float], pixels: int, frame: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Return the masks of a label's hands in a crop (x, y, side) px of a photo whose `frame` is (width, height) px.

    `masks` uint8 [2, pixels, pixels] are left first, each hand as if alone, `front` uint8 [pixels, pixels].
    """
    return hand_masks(fit.hands, fit.camera, np.eye(3), np.zeros(3), crop, pixels, frame)


def joints_box(pixels: np.ndarray) -> tuple[float, float, float, float]:
    """Return the hands' box (x, y, w, h) px about their joints [2, 21, 2] px, as large as data sets' boxes are."""
    points = pixels[np.isfinite(pixels).all(-1)]
    low, high = points.min(0), points.max(0)
    centre, extent = (low + high) / 2, (high - low) * BOX_OVER_JOINTS
    return (*(centre - extent / 2).tolist(), *extent.tolist())


def palm_length(pixels: np.ndarray) -> float:
    """Return the distance px from the wrist to the middle finger's base of one hand's joints [21, 2] px."""
    return float(np.linalg.norm(pixels[CHAINS[list(FINGERS).index("middle"), 0]] - pixels[WRIST]))


def joint_name(joint: int) -> str:
    """Return the name of a joint of `labels.JOINT_PARTS`, such as `index tip`."""
    if joint == WRIST:
        return "wrist"
    finger, step = divmod(joint, 4)
    return f"{list(FINGERS)[finger]} {('tip', 'end joint', 'middle joint', 'base')[step]}"
