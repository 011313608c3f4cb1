"""What a net would teach as a teacher: labels of unlabelled images, where it is sure of them, and wrong."""

import numpy as np
import pandas as pd
import torch
from torch import nn

from ethand_utils.analysis.image_plots import colour_mask
from ethand_utils.data.augment import Augmentation, denormalise
from ethand_utils.data.store import Store
from ethand_utils.labels import HANDS, LEFT, PARTS
from ethand_utils.training.inference import label_pixels
from ethand_utils.training.joint import JointLoader, SemiSettings, cutmix_boxes, mix


def confident_errors(model: nn.Module, store: Store, threshold: float) -> pd.DataFrame:
    """Return how often a net is sure, and how often it is wrong where it is, on a store with masks.

    Rows: what it predicts, `background` and each part. Columns: `pixels`; `sure`, the share of them whose probability
    is at least `threshold`; `wrong`, the share of wrong ones among all pixels, and `wrong_of_sure` among sure ones.
    """
    labels, confidence = label_pixels(model, store.images)
    truth, sure = np.asarray(store.masks), confidence >= threshold
    rows = {name: _errors(labels == part, sure, labels != truth) for part, name in enumerate(PARTS)}
    return pd.DataFrame(rows, index=["pixels", "sure", "wrong", "wrong_of_sure"]).T


def _errors(chosen: np.ndarray, sure: np.ndarray, wrong: np.ndarray) -> tuple[float, ...]:
    """Return the numbers of `confident_errors` of the pixels `chosen`; all are bool of one shape."""
    count, of_sure = chosen.sum(), (chosen & sure).sum()
    shares = (chosen & sure).sum() / max(count, 1), (chosen & wrong).sum() / max(count, 1)
    return count, *shares, (chosen & sure & wrong).sum() / of_sure if of_sure else float("nan")


def worst_sure(labels: np.ndarray, sure: np.ndarray, truth: np.ndarray, count: int) -> np.ndarray:
    """Return the samples with the most pixels, of `count`, that are predicted a part, sure and wrong: int64 [count].

    Labels, sure and truth are [n, 2, H, W].
    """
    wrong = ((labels > 0) & sure & (labels != truth)).reshape(len(labels), len(HANDS), -1).sum((1, 2))
    return np.argsort(-wrong, kind="stable")[:count]


def peer_batch(
    model: nn.Module, pairs: Store, unlabelled: Store, count: int, settings: SemiSettings, hand: int = LEFT
) -> dict[str, np.ndarray]:
    """Return what a method of `training.semi` sees of up to `count` unlabelled images, for `image_plots.strips`.

    Columns uint8 [n, H, W, 3], the same at every call: the weak view, the label of one hand that `model` gives it,
    where it is sure of that label, the strong view after CutMix, and the label that belongs to it where it is sure,
    mixed by the same boxes.
    """
    loader = JointLoader(pairs, unlabelled, 2 * count, Augmentation())
    _, _, weak, strong = loader.one_batch()
    labels, probability = (torch.from_numpy(array) for array in label_pixels(model, denormalise(weak).numpy()))
    sure = probability >= settings.semi_threshold
    boxes = cutmix_boxes(len(weak), weak.shape[-1], settings.cutmix_p, torch.Generator().manual_seed(0))
    mixed = mix(labels * sure, boxes)
    return {
        "weak": denormalise(weak).numpy(),
        "label": colour_mask(labels[:, hand].numpy()),
        "sure": np.repeat(255 * sure[:, hand, :, :, None].byte().numpy(), 3, axis=3),
        "strong, mixed": denormalise(mix(strong, boxes)).numpy(),
        "sure label, mixed": colour_mask(mixed[:, hand].numpy()),
    }
