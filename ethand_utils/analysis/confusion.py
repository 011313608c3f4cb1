"""Error maps by kind of error, sparse confusion counts by sample, and the parts that go wrong most."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, vstack

from ethand_utils.labels import HANDS, N_CLASSES, PARTS
from ethand_utils.training.metrics import class_iou, confusion

# Kinds of pixels in an error map, by their code.
ERRORS = ("background", "correct", "missed", "invented", "wrong part", "wrong hand")
BACKGROUND, CORRECT, MISSED, INVENTED, WRONG_PART, WRONG_HAND = range(len(ERRORS))
# Okabe and Ito's colours, which readers who do not tell red from green tell apart, too.
ERROR_COLOURS = np.array(
    [(0, 0, 0), (80, 80, 80), (240, 228, 66), (213, 94, 0), (204, 121, 167), (86, 180, 233)], np.uint8
)

# Confusion of each hand with itself, then what one hand's parts are called in the other hand's mask.
MATRICES = (*HANDS, "left called right", "right called left")
# A sample's counts are a row of N_CELLS columns: (matrix · 17 + truth) · 17 + prediction.
N_CELLS = len(MATRICES) * N_CLASSES**2
CHUNK = 64  # samples counted at a time, so that memory does not grow with the data set


def error_classes(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the kind of every pixel, a code of ERRORS, uint8 [..., 2, H, W], of masks [..., 2, H, W].

    Missed is a part called background; invented a part where this hand has none, wrong hand the same at a pixel of the
    other hand; wrong part another part of the same hand.
    """
    other = np.flip(truth, axis=-3) > 0
    kinds = np.where(truth > 0, CORRECT, BACKGROUND).astype(np.uint8)
    kinds[(truth > 0) & (predicted > 0) & (predicted != truth)] = WRONG_PART
    kinds[(truth > 0) & (predicted == 0)] = MISSED
    kinds[(truth == 0) & (predicted > 0)] = INVENTED
    kinds[(truth == 0) & (predicted > 0) & other] = WRONG_HAND
    return kinds


def sparse_counts(predicted: np.ndarray, truth: np.ndarray, own: np.ndarray | None = None) -> csr_array:
    """Count the pixels of masks [n, 2, H, W] by sample and cell of MATRICES: sparse uint32 [n, N_CELLS].

    `own` is their `metrics.confusion`, where it has been counted already.
    """
    chunks = [csr_array((0, N_CELLS), dtype=np.uint32)]
    for start in range(0, len(truth), CHUNK):
        some = slice(start, start + CHUNK)
        guess, true = np.asarray(predicted[some]), np.asarray(truth[some])
        dense = [confusion(guess, true) if own is None else own[some], _swapped_counts(guess, true)]
        chunks.append(csr_array(np.concatenate(dense, 1).reshape(len(true), N_CELLS).astype(np.uint32)))
    return vstack(chunks, format="csr")


def _swapped_counts(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Count what a hand's parts are called in the other hand's mask, where that has none: int64 [n, 2, 17, 17]."""
    other = predicted[:, ::-1]
    wrong = (truth > 0) & (truth[:, ::-1] == 0) & (other > 0)
    counts = confusion(other * wrong, truth * wrong)
    counts[..., 0, 0] = 0  # all other pixels
    return counts


def total_counts(counts: csr_array, samples: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Add up the counts of some samples (a mask bool [n], indices or a slice; all by default): int64 [4, 17, 17]."""
    return counts[samples].sum(0, dtype=np.int64).reshape(len(MATRICES), N_CLASSES, N_CLASSES)


def hand_confusion(counts: csr_array, samples: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Add up the confusion of both hands over `samples` (as `total_counts`): int64 [17, 17], truth by prediction."""
    return total_counts(counts, samples)[: len(HANDS)].sum(0)


def disagreement(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return the share of pixels in which two predictions [n, 2, H, W] differ, of those where either has a part.

    float32 [n], 0 where neither has one.
    """
    either = ((one > 0) | (two > 0)).sum((1, 2, 3))
    return ((one != two).sum((1, 2, 3)) / np.maximum(either, 1)).astype(np.float32)


def error_shares(counts: csr_array, samples: np.ndarray | slice = slice(None)) -> dict[str, float]:
    """Return the pixels of each kind of error over `samples` (as `total_counts`), as shares of the hands' true pixels.

    NaN where there is no hand.
    """
    total = total_counts(counts, samples)
    hands, swapped = total[: len(HANDS)].sum(0), int(total[len(HANDS) :].sum())
    true_pixels = hands[1:].sum()
    pixels = {
        ERRORS[MISSED]: hands[1:, 0].sum(),
        ERRORS[INVENTED]: hands[0, 1:].sum() - swapped,
        ERRORS[WRONG_PART]: hands[1:, 1:].sum() - np.trace(hands[1:, 1:]),
        ERRORS[WRONG_HAND]: swapped,
    }
    return {name: float(number / true_pixels) if true_pixels else float("nan") for name, number in pixels.items()}


def worst_parts(counts: csr_array, situations: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """List every part in every situation (a mask bool [n]), the lowest IoU first.

    Columns: `situation`, `samples`, `part`, `iou` (both hands' pixels together), `below` (how far below the part's IoU
    in all samples), `mostly` (what most of its wrong pixels are called). Parts without a true pixel are left out.
    """
    iou_of_all, rows = class_iou(hand_confusion(counts)), []
    for name, samples in situations.items():
        hands = hand_confusion(counts, samples)
        iou, wrong = class_iou(hands), hands * (1 - np.eye(N_CLASSES, dtype=int))
        for part in np.flatnonzero(hands.sum(1)[1:]) + 1:
            mostly = PARTS[wrong[part].argmax()] if wrong[part].any() else ""
            row = {"situation": name, "samples": int(samples.sum()), "part": PARTS[part], "iou": float(iou[part])}
            rows.append(row | {"below": float(iou_of_all[part] - iou[part]), "mostly": mostly})
    columns = ["situation", "samples", "part", "iou", "below", "mostly"]
    return pd.DataFrame(rows, columns=columns).sort_values("iou", kind="stable").reset_index(drop=True)
