"""Pseudo-labels: let G1 label the unpaired images, score its confidence, judge what a filter keeps."""

from pathlib import Path

import numpy as np
from torch import nn

from ethand_utils.building import build_store
from ethand_utils.callbacks import kept_number
from ethand_utils.metrics import confusion, hand_miou, nanmean
from ethand_utils.predict import predict_masks
from ethand_utils.store import Store, is_made


class _Labelled:
    """Sample i of a store of pseudo-labels: what G1 says of image i, labelled a chunk at a time."""

    def __init__(self, g1: nn.Module, images: Store, batch: int):
        self.g1, self.images, self.batch, self.start = g1, images, batch, None

    def __call__(self, i: int) -> dict:
        start = i // self.batch * self.batch
        if start != self.start:
            self.start = start
            self.masks, self.confidence = predict_masks(self.g1, self.images.images[start : start + self.batch])
        row = self.images.index.iloc[i].to_dict() | {"confidence": float(self.confidence[i - start])}
        return {"masks": self.masks[i - start], "confidence": self.confidence[i - start], "row": row}


def label_store(g1: nn.Module, images: Store, path: str | Path, made_by: str) -> Store:
    """Write G1's masks and confidence of every image as the store `path`; kept if these weights made it.

    G1 is in evaluation mode and its weights do not move; `made_by` names them in the store's `meta.json`, so that other
    weights replace it.
    """
    meta = {"source": "pseudo-labels", "g1": made_by, "images": images.meta}
    make = _Labelled(g1.eval(), images.require("images"), batch=64)
    replace = not is_made(path, meta)
    return build_store(path, make, len(images), images.size, ("masks", "confidence"), meta, replace=replace)


def true_quality(pseudo: Store, truth: Store) -> np.ndarray:
    """Course mIoU float [n] of each pseudo-label against the truth; NaN where no part can be scored."""
    return nanmean(hand_miou(confusion(np.asarray(pseudo.masks), np.asarray(truth.masks)), truth.size), axis=1)


def kept_by_batches(confidence: np.ndarray, bs: int, seed: int = 0) -> np.ndarray:
    """Whether each sample survives one epoch of the batch filter: bool [n], for random batches of `bs`."""
    kept = np.zeros(len(confidence), bool)
    order = np.random.default_rng(seed).permutation(len(confidence))
    for start in range(0, len(order), bs):
        batch = order[start : start + bs]
        kept[batch[np.argsort(-confidence[batch])[: kept_number(len(batch))]]] = True
    return kept
