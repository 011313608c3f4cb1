"""Pseudo-labels: let G1 label the unpaired images, score its confidence, filter them, judge what a filter keeps."""

from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback, CancelBatchException
from torch import nn

from ethand_utils.data.augment import normalise
from ethand_utils.data.store import Store, is_made
from ethand_utils.data.store_builder import StorePlan, build_store
from ethand_utils.training.callbacks import TrainingError, weights_digest
from ethand_utils.training.distributed import all_reduce_min
from ethand_utils.training.losses import per_hand
from ethand_utils.training.metrics import confusion, hand_miou, nanmean

FILTERS = ("batch_half", "dataset_half", "threshold", "none")

KEPT_SHARE = 0.5  # of an unpaired batch, the more confident (report, section 2.4)
LEAST_KEPT = 2  # samples of a batch that batch normalisation can work with


def foreground_prob(logits: torch.Tensor) -> torch.Tensor:
    """Mean, over the pixels of both hands predicted to be a part, of the largest probability; 0 without any."""
    probability, label = per_hand(logits).softmax(2).max(2)
    part = label > 0
    return (probability * part).sum((1, 2, 3)) / part.sum((1, 2, 3)).clamp(min=1)


def logit_sum(logits: torch.Tensor) -> torch.Tensor:
    """Sum over all pixels of both hands of the largest raw logit, as released; background, most pixels, decides."""
    return per_hand(logits).amax(2).sum((1, 2, 3))


CONFIDENCES = {"foreground_prob": foreground_prob, "logit_sum": logit_sum}


@torch.no_grad()
def label_batch(g1: nn.Module, images: torch.Tensor, confidence: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks int64 [B, 2, H, W] and confidence float [B] (by name, `confidence.py`) of normalised images."""
    layout = torch.channels_last if images.device.type == "cpu" else torch.contiguous_format
    logits = g1(images.contiguous(memory_format=layout)).float()
    return per_hand(logits).argmax(2), CONFIDENCES[confidence](logits)


class LabelOnline(Callback):
    """Labels each augmented unpaired batch anew by G1, in evaluation mode, in place of labels written before."""

    order = 5  # before a filter

    def __init__(self, g1: nn.Module, confidence: str = "foreground_prob"):
        self.g1, self.confidence = g1.eval().requires_grad_(False), confidence
        self.description = f"LabelOnline({confidence}, {weights_digest(g1)})"

    def before_batch(self):
        if self.training:
            self.learn.yb = label_batch(self.g1, self.xb[0], self.confidence)


class _Labelled:
    """Sample i of a store of pseudo-labels: what G1 says of image i, labelled a chunk at a time."""

    def __init__(self, g1: nn.Module, images: Store, confidence: str, batch: int):
        self.g1, self.images, self.kind, self.batch, self.start = g1, images, confidence, batch, None

    def __call__(self, i: int) -> dict:
        start = i // self.batch * self.batch
        if start != self.start:
            self.start = start
            images = torch.from_numpy(np.array(self.images.images[start : start + self.batch]))
            images = normalise(images.to(next(self.g1.parameters()).device))
            self.masks, self.confidence = (t.cpu().numpy() for t in label_batch(self.g1, images, self.kind))
        sure = self.confidence[i - start]
        row = self.images.index.iloc[i].to_dict() | {"confidence": float(sure)}
        return {"masks": self.masks[i - start].astype(np.uint8), "confidence": sure, "row": row}


def label_store(
    g1: nn.Module, images: Store, path: str | Path, made_by: str, confidence: str = "foreground_prob"
) -> Store:
    """Write G1's masks and confidence of every image as the store `path`; kept if these weights made it.

    G1 is in evaluation mode and its weights do not move; `made_by` names them in the store's `meta.json`, so that other
    weights, or another kind of `confidence`, replace it.
    """
    meta = {"source": "pseudo-labels", "g1": made_by, "confidence": confidence, "images": images.meta}
    make = _Labelled(g1.eval(), images.require("images"), confidence, batch=64)
    plan = StorePlan(make, len(images), images.size, ("masks", "confidence"), meta)
    return build_store(path, plan, replace=not is_made(path, meta))


def true_quality(pseudo: Store, truth: Store) -> np.ndarray:
    """Course mIoU float [n] of each pseudo-label against the truth; NaN where no part can be scored."""
    return nanmean(hand_miou(confusion(np.asarray(pseudo.masks), np.asarray(truth.masks)), truth.size), axis=1)


def pseudo_filter(name: str, confidence: np.ndarray, threshold: float | None = None) -> Callback:
    """The callback that drops pseudo-labels of an unpaired batch, by a profile's name of it.

    `batch_half`: the less confident half of each batch (the report). `dataset_half`: what is below the median of
    `confidence` float [n] of all images. `threshold`: what is below `threshold`. `none`: nothing.
    """
    if name not in FILTERS:
        raise ValueError(f"pseudo_filter {name!r}: expected one of {', '.join(FILTERS)}")
    if name == "batch_half":
        return TopHalfFilter()
    threshold = {"dataset_half": float(np.median(confidence)), "threshold": threshold, "none": -np.inf}[name]
    if threshold > confidence.max():
        most = f"that of the {len(confidence)} labels reaches {confidence.max():.4g}"
        raise TrainingError(f"pseudo_threshold: {threshold:g}, but {most}; lower it, or choose another pseudo_filter")
    return ConfidenceThreshold(threshold)


def filter_mask(chosen: Callback, confidence: np.ndarray, bs: int, seed: int = 0) -> np.ndarray:
    """Whether each sample survives one epoch of a `pseudo_filter`: bool [n], for random batches of `bs`."""
    return (
        confidence >= chosen.threshold
        if isinstance(chosen, ConfidenceThreshold)
        else kept_by_batches(confidence, bs, seed)
    )


def best_of(quality: np.ndarray, number: int) -> np.ndarray:
    """Whether each sample is among the `number` of highest `quality` float [n], NaN the lowest: bool [n]."""
    best = np.zeros(len(quality), bool)
    best[np.argsort(-np.nan_to_num(quality, nan=-np.inf), kind="stable")[:number]] = True
    return best


def kept_by_batches(confidence: np.ndarray, bs: int, seed: int = 0) -> np.ndarray:
    """Whether each sample survives one epoch of the batch filter: bool [n], for random batches of `bs`."""
    kept = np.zeros(len(confidence), bool)
    order = np.random.default_rng(seed).permutation(len(confidence))
    for start in range(0, len(order), bs):
        batch = order[start : start + bs]
        kept[batch[np.argsort(-confidence[batch])[: kept_per_batch(len(batch))]]] = True
    return kept


class TopHalfFilter(Callback):
    """Drops the less confident half of an unpaired batch (images, pseudo-labels, confidence) before the net sees it."""

    order = 10

    def before_batch(self):
        if self.training:
            masks, confidence = self.yb
            kept = confidence.topk(kept_per_batch(len(confidence))).indices.sort().values
            self.learn.xb, self.learn.yb = (self.xb[0][kept],), (masks[kept],)


class ConfidenceThreshold(Callback):
    """Drops the samples of an unpaired batch of which G1's confidence is below `threshold`.

    A batch that keeps fewer than two is passed over; an epoch in which all are raises TrainingError.
    """

    order = 10

    def __init__(self, threshold: float):
        self.threshold, self.description = threshold, f"KeepAbove({threshold})"

    def before_train(self):
        self.passed = 0

    def before_batch(self):
        if not self.training:
            return
        masks, confidence = self.yb
        kept = confidence >= self.threshold
        if all_reduce_min(int(kept.sum())) < LEAST_KEPT:
            self.learn.yb = ()  # so that nobody counts the batch
            raise CancelBatchException
        self.passed += 1
        self.learn.xb, self.learn.yb = (self.xb[0][kept],), (masks[kept],)

    def after_train(self):
        if not self.passed:
            raise TrainingError(f"no pseudo-labels with a confidence of {self.threshold:g}; lower pseudo_threshold")


def kept_per_batch(bs: int) -> int:
    """Samples of an unpaired batch of `bs` that survive the filter."""
    return max(1, round(bs * KEPT_SHARE))
