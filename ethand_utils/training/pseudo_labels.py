"""Pseudo-labels: G1's masks of the unpaired images, their confidence, the filters of a training, and their quality."""

from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback, CancelBatchException
from torch import nn

from ethand_utils.data.augment import normalise
from ethand_utils.data.store import Store, is_made
from ethand_utils.data.store_builder import StorePlan, build_store
from ethand_utils.exceptions import require_known
from ethand_utils.training.callbacks import TrainingError, weights_digest
from ethand_utils.training.distributed import all_reduce_min
from ethand_utils.training.losses import per_hand
from ethand_utils.training.metrics import confusion, hand_miou, nanmean

FILTERS = ("batch_half", "dataset_half", "threshold", "none")
KEPT_SHARE = 0.5  # of an unpaired batch, the more confident (report, section 2.4)
MIN_BATCH = 2  # samples that batch normalisation needs
CHUNK = 64  # images labelled at a time


# --- labels and their confidence


def label_store(
    g1: nn.Module, images: Store, path: str | Path, made_by: str, confidence: str = "foreground_prob"
) -> Store:
    """Write G1's masks and confidence (one of CONFIDENCES) of every image as the store `path`.

    G1 is in evaluation mode and its weights do not change; `made_by` names them in the store's `meta.json`. A store of
    the same weights and kind of confidence is kept, another one is replaced.
    """
    meta = {"source": "pseudo-labels", "g1": made_by, "confidence": confidence, "images": images.meta}
    make = _Labelled(g1.eval(), images.require("images"), confidence)
    plan = StorePlan(make, len(images), images.size, ("masks", "confidence"), meta)
    return build_store(path, plan, replace=not is_made(path, meta))


class _Labelled:
    """Sample i of a store of pseudo-labels: G1's masks of image i, predicted a chunk at a time."""

    def __init__(self, g1: nn.Module, images: Store, confidence: str):
        self.g1, self.images, self.kind, self.start = g1, images, confidence, None

    def __call__(self, i: int) -> dict:
        start = i // CHUNK * CHUNK
        if start != self.start:
            self.start = start
            images = torch.from_numpy(np.array(self.images.images[start : start + CHUNK]))
            images = normalise(images.to(next(self.g1.parameters()).device))
            self.masks, self.confidence = (t.cpu().numpy() for t in label_batch(self.g1, images, self.kind))
        confidence = self.confidence[i - start]
        row = self.images.index.iloc[i].to_dict() | {"confidence": float(confidence)}
        return {"masks": self.masks[i - start].astype(np.uint8), "confidence": confidence, "row": row}


class LabelOnline(Callback):
    """Labels each augmented unpaired batch by G1, in evaluation mode, in place of stored labels."""

    order = 5  # before a filter

    def __init__(self, g1: nn.Module, confidence: str = "foreground_prob"):
        self.g1, self.confidence = g1.eval().requires_grad_(False), confidence
        self.description = f"LabelOnline({confidence}, {weights_digest(g1)})"

    def before_batch(self):
        if self.training:
            self.learn.yb = label_batch(self.g1, self.xb[0], self.confidence)


@torch.no_grad()
def label_batch(g1: nn.Module, images: torch.Tensor, confidence: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return masks int64 [B, 2, H, W] and confidence float [B] (one of CONFIDENCES) of normalised images."""
    require_known("confidence", confidence, CONFIDENCES)
    layout = torch.channels_last if images.device.type == "cpu" else torch.contiguous_format
    logits = g1(images.contiguous(memory_format=layout)).float()
    return per_hand(logits).argmax(2), CONFIDENCES[confidence](logits)


def foreground_prob(logits: torch.Tensor) -> torch.Tensor:
    """Return the mean largest probability over the pixels of both hands predicted to be a part; 0 without any."""
    probability, label = per_hand(logits).softmax(2).max(2)
    part = label > 0
    return (probability * part).sum((1, 2, 3)) / part.sum((1, 2, 3)).clamp(min=1)


def logit_sum(logits: torch.Tensor) -> torch.Tensor:
    """Return the sum of the largest logits over all pixels of both hands, as released; mostly of background."""
    return per_hand(logits).amax(2).sum((1, 2, 3))


CONFIDENCES = {"foreground_prob": foreground_prob, "logit_sum": logit_sum}


# --- filters


def pseudo_filter(name: str, confidence: np.ndarray, threshold: float | None = None) -> Callback:
    """Return the callback of one of FILTERS, which drops pseudo-labels of an unpaired batch.

    `batch_half`: the less confident half of each batch (the report). `dataset_half`: those below the median of
    `confidence` float [n] of all images. `threshold`: those below `threshold`. `none`: nothing. Raises TrainingError
    for a threshold that no label reaches.
    """
    require_known("pseudo_filter", name, FILTERS)
    if name == "batch_half":
        return TopHalfFilter()
    threshold = {"dataset_half": float(np.median(confidence)), "threshold": threshold, "none": -np.inf}[name]
    if threshold > confidence.max():
        highest = f"the highest of {len(confidence)} labels is {confidence.max():.4g}"
        raise TrainingError(
            f"pseudo_threshold: {threshold:g}, but {highest}; lower it, or choose another pseudo_filter"
        )
    return ConfidenceThreshold(threshold)


class TopHalfFilter(Callback):
    """Drops the less confident half of an unpaired batch (images, pseudo-labels, confidence) before the net's step."""

    order = 10

    def before_batch(self):
        if self.training:
            masks, confidence = self.yb
            kept = confidence.topk(kept_per_batch(len(confidence))).indices.sort().values
            self.learn.xb, self.learn.yb = (self.xb[0][kept],), (masks[kept],)


class ConfidenceThreshold(Callback):
    """Drops the samples of an unpaired batch with a confidence below `threshold`.

    A batch that keeps fewer than two is skipped; an epoch in which all are raises TrainingError.
    """

    order = 10

    def __init__(self, threshold: float):
        self.threshold, self.description = threshold, f"ConfidenceThreshold({threshold})"

    def before_train(self):
        self.batches = 0

    def before_batch(self):
        if not self.training:
            return
        masks, confidence = self.yb
        kept = confidence >= self.threshold
        if all_reduce_min(int(kept.sum())) < MIN_BATCH:
            self.learn.yb = ()  # so that its images are not counted
            raise CancelBatchException
        self.batches += 1
        self.learn.xb, self.learn.yb = (self.xb[0][kept],), (masks[kept],)

    def after_train(self):
        if not self.batches:
            raise TrainingError(f"no pseudo-labels with a confidence of {self.threshold:g}; lower pseudo_threshold")


def kept_per_batch(bs: int) -> int:
    """Return how many samples of an unpaired batch of `bs` TopHalfFilter keeps."""
    return max(1, round(bs * KEPT_SHARE))


def filter_mask(chosen: Callback, confidence: np.ndarray, bs: int, seed: int = 0) -> np.ndarray:
    """Return whether each sample survives one epoch of a `pseudo_filter`: bool [n], for random batches of `bs`."""
    if isinstance(chosen, ConfidenceThreshold):
        return confidence >= chosen.threshold
    return top_half_mask(confidence, bs, seed)


def top_half_mask(confidence: np.ndarray, bs: int, seed: int = 0) -> np.ndarray:
    """Return whether each sample survives one epoch of TopHalfFilter: bool [n], for random batches of `bs`."""
    mask = np.zeros(len(confidence), bool)
    order = np.random.default_rng(seed).permutation(len(confidence))
    for start in range(0, len(order), bs):
        batch = order[start : start + bs]
        mask[batch[np.argsort(-confidence[batch])[: kept_per_batch(len(batch))]]] = True
    return mask


# --- quality


def true_quality(pseudo: Store, truth: Store) -> np.ndarray:
    """Compute the course mIoU float [n] of each pseudo-label; NaN where no part can be scored."""
    return nanmean(hand_miou(confusion(np.asarray(pseudo.masks), np.asarray(truth.masks)), truth.size), axis=1)


def best_of(quality: np.ndarray, number: int) -> np.ndarray:
    """Return whether each sample is among the `number` of highest `quality` float [n], NaN the lowest: bool [n]."""
    best = np.zeros(len(quality), bool)
    best[np.argsort(-np.nan_to_num(quality, nan=-np.inf), kind="stable")[:number]] = True
    return best
