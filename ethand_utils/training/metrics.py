"""The course's mIoU and its companions, from confusion counts (REFERENCE.md section 1)."""

from dataclasses import dataclass

import numpy as np

from ethand_utils.labels import (
    FRONT_LEFT,
    FRONT_RIGHT,
    HANDS,
    JOINT_PARTS,
    N_CLASSES,
    N_JOINTS,
    PARTS,
    min_pixels,
    slug,
)

ADJOINS = np.array([[part in parts for part in range(N_CLASSES)] for parts in JOINT_PARTS])  # bool [21, 17]
REGIONS = ("visible", "occluded")


def confusion(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Count pixels int64 [n, 2, 17, 17] (ground truth by prediction) of masks [n, 2, H, W], by image and hand."""
    from ethand_utils.data.kernels import count_pairs  # here, as tables and figures count nothing and need no Numba

    return count_pairs(_flat(truth), _flat(predicted)).reshape(-1, len(HANDS), N_CLASSES, N_CLASSES)


def _flat(masks: np.ndarray) -> np.ndarray:
    """Return masks [n, 2, H, W] as uint8 [2n, pixels]."""
    return np.asarray(masks, np.uint8).reshape(-1, masks.shape[-2] * masks.shape[-1])


def _sums(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pixels [..., 17] of every class in both, in the truth and predicted, of confusion counts [..., 17, 17]."""
    return np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1), counts.sum(-2)


def _iou(both: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    either = true + predicted - both
    return np.divide(both, either, out=np.full(both.shape, np.nan), where=either > 0)


def _mean_iou(both: np.ndarray, true: np.ndarray, predicted: np.ndarray, size: int) -> np.ndarray:
    scored = true[..., 1:] >= min_pixels(size)
    total = np.where(scored, _iou(both, true, predicted)[..., 1:], 0).sum(-1)
    number = scored.sum(-1)
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)


def class_iou(counts: np.ndarray) -> np.ndarray:
    """Compute IoU float [..., 17] of every class from confusion counts [..., 17, 17]; NaN where it is in neither."""
    return _iou(*_sums(counts))


def hand_miou(counts: np.ndarray, size: int) -> np.ndarray:
    """Compute mean IoU float [n, 2] of each hand over the parts with enough truth pixels; NaN without any."""
    return _mean_iou(*_sums(counts), size)


def course_miou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Compute the report's score: nan-mean of `hand_miou` over all hands of all images."""
    return nanmean(hand_miou(confusion(predicted, truth), truth.shape[-1]))


def dataset_miou(counts: np.ndarray) -> float:
    """Compute mean IoU over parts 1…16 of the confusion matrix of the whole data set, both hands together."""
    return nanmean(class_iou(counts.sum((0, 1)))[1:])


def part_iou(counts: np.ndarray) -> np.ndarray:
    """Compute IoU float [17] of every class over the whole data set."""
    return class_iou(counts.sum((0, 1)))


def region_iou(predicted: np.ndarray, truth: np.ndarray, front: np.ndarray, region: str) -> np.ndarray:
    """Compute IoU float [n, 2] of each hand's silhouette in its `visible` or `occluded` pixels.

    Occluded are truth pixels where the other hand is nearer (`front` [n, H, W]); the other truth pixels are visible.
    Each region is scored with the other one removed from prediction and truth alike. NaN where the region has
    fewer pixels than a part needs to be scored.
    """
    other = np.array([FRONT_RIGHT, FRONT_LEFT]).reshape(1, 2, 1, 1)
    hand, hidden = truth > 0, (truth > 0) & (front[:, None] == other)
    wanted, ignored = (hidden, hand & ~hidden) if region == "occluded" else (hand & ~hidden, hidden)
    guess = (predicted > 0) & ~ignored
    both, either = (guess & wanted).sum((2, 3)), (guess | wanted).sum((2, 3))
    enough = wanted.sum((2, 3)) >= min_pixels(truth.shape[-1])
    return np.divide(both, either, out=np.full(both.shape, np.nan), where=enough)


def order_accuracy(predicted: np.ndarray, truth: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Compute for each image [n] the share of pixels that name the hand in front, of those where both hands are.

    `predicted` and `front` are `front` maps [n, H, W], `truth` the masks [n, 2, H, W]. Where the prediction has no hand
    it names none, and is wrong. NaN where both hands share fewer pixels than a part needs to be scored.
    """
    both = (truth > 0).all(1)
    right, shared = ((predicted == front) & both).sum((1, 2)), both.sum((1, 2))
    return np.divide(right, shared, out=np.full(len(both), np.nan), where=shared >= min_pixels(truth.shape[-1]))


def absent_false_positives(counts: np.ndarray, size: int) -> np.ndarray:
    """Return float [n, 2]: NaN for a present hand, else 1 if enough pixels to score a part are predicted, or 0."""
    absent = counts[..., 1:, :].sum((-1, -2)) == 0
    predicted = counts[..., 1:].sum((-1, -2)) >= min_pixels(size)
    return np.where(absent, predicted.astype(float), np.nan)


@dataclass(frozen=True)
class Scores:
    """Scores of masks [n, 2, H, W] whose pixels were counted once.

    `counts` are those of `confusion`, `hands` the scores float [n, 2] of each hand by name, NaN where there is none.
    """

    counts: np.ndarray
    hands: dict[str, np.ndarray]

    def of_samples(self) -> dict[str, np.ndarray]:
        """Return columns [n] of both hands and each: course mIoU, visible and occluded IoU, absent false positives."""
        columns = {}
        for name, values in self.hands.items():
            columns[name] = nanmean(values, axis=1)
            columns |= {f"{name}_{hand}": values[:, i] for i, hand in enumerate(HANDS)}
        return columns

    def summary(self) -> dict[str, float]:
        """Return all scores of the data set as one flat dict, as in `result.json`; NaN where nothing can be scored."""
        return {
            "course_miou": nanmean(self.hands["course_miou"]),
            "dataset_miou": dataset_miou(self.counts),
            **{f"{region}_iou": nanmean(self.hands[f"{region}_iou"]) for region in REGIONS},
            "absent_fp_rate": nanmean(self.hands["absent_fp"]),
            **{f"part_iou_{slug(PARTS[i])}": float(iou) for i, iou in enumerate(part_iou(self.counts)) if i},
        }


def score(predicted: np.ndarray, truth: np.ndarray, front: np.ndarray | None = None) -> Scores:
    """Score masks [n, 2, H, W], with `front` [n, H, W] by what is visible and occluded, too."""
    counts, size = confusion(predicted, truth), truth.shape[-1]
    hands = hand_miou(counts, size)
    nothing = np.full(hands.shape, np.nan)
    regions = {
        f"{region}_iou": nothing if front is None else region_iou(predicted, truth, front, region) for region in REGIONS
    }
    return Scores(counts, {"course_miou": hands, **regions, "absent_fp": absent_false_positives(counts, size)})


def sample_scores(predicted: np.ndarray, truth: np.ndarray, front: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Compute `Scores.of_samples` of masks [n, 2, H, W]."""
    return score(predicted, truth, front).of_samples()


def summary(predicted: np.ndarray, truth: np.ndarray, front: np.ndarray | None = None) -> dict[str, float]:
    """Compute `Scores.summary` of masks [n, 2, H, W]."""
    return score(predicted, truth, front).summary()


def joint_accuracy(masks: np.ndarray, joints: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """Score masks uint8 [..., 2, H, W] by annotated joints float [..., 2, 21, 2] (x, y in the masks' px).

    It is for images that have joints but no ground-truth masks. Of the joints that are `valid` bool [..., 2, 21],
    `joint_accuracy` is the share at whose pixel the joint's own hand shows a part that meets there
    (`labels.JOINT_PARTS`), `joint_on_hand` the share at whose pixel it shows any part. Several images are pooled over
    all their joints, so that two hands count twice as much as one; NaN where no joint is valid.
    """
    return joint_scores(parts_at(masks, joints), valid)


def parts_at(masks: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Return the part [..., 2, 21] of each hand's mask at its joints; background beyond the masks' border.

    Shapes as in `joint_accuracy`; pixel (i, j) covers [i, i + 1) × [j, j + 1).
    """
    pixels, (height, width) = np.floor(joints).astype(int), masks.shape[-2:]
    inside = ((pixels >= 0) & (pixels < (width, height))).all(-1)
    pixels = np.where(inside[..., None], pixels, 0)
    flat = masks.reshape(*masks.shape[:-2], height * width)
    return np.where(inside, np.take_along_axis(flat, pixels[..., 1] * width + pixels[..., 0], -1), 0)


def joint_scores(parts: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """Compute the scores of `joint_accuracy` from the parts [..., 2, 21] of `parts_at`."""
    right = ADJOINS[np.arange(N_JOINTS), parts]
    return {
        "joint_accuracy": nanmean(right[valid].astype(float)),
        "joint_on_hand": nanmean((parts[valid] > 0).astype(float)),
    }


def nanmean(values: np.ndarray, axis: int | None = None) -> np.ndarray | float:
    """Compute `numpy.nanmean` without its warning: NaN where there is nothing to average."""
    valid = ~np.isnan(values)
    total, number = np.where(valid, values, 0).sum(axis), valid.sum(axis)
    mean = np.divide(total, number, out=np.full(np.shape(total), np.nan), where=number > 0)
    return float(mean) if axis is None else mean
