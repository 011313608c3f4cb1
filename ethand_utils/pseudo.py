"""Pseudo-labels: let G1 label the unpaired images, score its confidence, filter them, judge what a filter keeps."""

from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback
from torch import nn

from ethand_utils.augment import normalise
from ethand_utils.building import build_store
from ethand_utils.callbacks import KeepAbove, KeepConfident, TrainingError, kept_number, weights_digest
from ethand_utils.confidence import CONFIDENCES
from ethand_utils.losses import per_hand
from ethand_utils.metrics import confusion, hand_miou, nanmean
from ethand_utils.store import Store, is_made

FILTERS = ("batch_half", "dataset_half", "threshold", "none")


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
    replace = not is_made(path, meta)
    return build_store(path, make, len(images), images.size, ("masks", "confidence"), meta, replace=replace)


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
        return KeepConfident()
    least = {"dataset_half": float(np.median(confidence)), "threshold": threshold, "none": -np.inf}[name]
    if least > confidence.max():
        most = f"that of the {len(confidence)} labels reaches {confidence.max():.4g}"
        raise TrainingError(f"pseudo_threshold: {least:g}, but {most}; lower it, or choose another pseudo_filter")
    return KeepAbove(least)


def kept_by(chosen: Callback, confidence: np.ndarray, bs: int, seed: int = 0) -> np.ndarray:
    """Whether each sample survives one epoch of a `pseudo_filter`: bool [n], for random batches of `bs`."""
    return confidence >= chosen.threshold if isinstance(chosen, KeepAbove) else kept_by_batches(confidence, bs, seed)


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
        kept[batch[np.argsort(-confidence[batch])[: kept_number(len(batch))]]] = True
    return kept
