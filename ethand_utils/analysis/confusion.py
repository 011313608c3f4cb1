"""Where masks are wrong: the kind of error at every pixel, confusion by sample kept sparse, the worst situations."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ethand_utils.labels import HANDS, LEFT, N_CLASSES, PARTS, RIGHT
from ethand_utils.training.metrics import class_iou

# Kinds of pixels in an error map, by their code.
ERRORS = ("background", "correct", "missed", "invented", "wrong part", "wrong hand")
BACKGROUND, CORRECT, MISSED, INVENTED, WRONG_PART, WRONG_HAND = range(len(ERRORS))
# Readers who do not tell red from green tell these apart, too (Okabe and Ito's colours).
ERROR_COLOURS = np.array(
    [(0, 0, 0), (80, 80, 80), (240, 228, 66), (213, 94, 0), (204, 121, 167), (86, 180, 233)], np.uint8
)

# Confusion of each hand with itself, then what one hand's parts are called in the other hand's mask.
MATRICES = (*HANDS, "left called right", "right called left")
N_CELLS = N_CLASSES**2
SLICE = 64  # samples counted at a time, so that memory does not grow with the data set


def error_classes(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The kind of every pixel, a code of ERRORS, uint8 [..., 2, H, W], of masks [..., 2, H, W].

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


@dataclass(frozen=True)
class Counts:
    """Confusion of n samples, sparse: sample i has `pixels` uint32 in `cells` uint16 from `offsets[i]` to the next.

    A cell is (matrix · 17 + truth) · 17 + prediction, with the matrices of MATRICES; `offsets` int64 [n + 1].
    """

    offsets: np.ndarray
    cells: np.ndarray
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def total(self, samples: np.ndarray | None = None) -> np.ndarray:
        """Counts int64 [4, 17, 17] added up over `samples` (a mask bool [n]; None: all)."""
        weights = self.pixels if samples is None else self.pixels * np.repeat(samples, np.diff(self.offsets))
        flat = np.bincount(self.cells, weights, len(MATRICES) * N_CELLS)
        return flat.astype(np.int64).reshape(len(MATRICES), N_CLASSES, N_CLASSES)

    def part(self, start: int, stop: int) -> "Counts":
        """The samples from `start` to `stop`."""
        here = slice(*self.offsets[[start, stop]])
        return Counts(self.offsets[start : stop + 1] - self.offsets[start], self.cells[here], self.pixels[here])

    @staticmethod
    def joined(pieces: list["Counts"]) -> "Counts":
        """The samples of several, one after the other."""
        starts = np.cumsum([0, *(piece.offsets[-1] for piece in pieces)])
        offsets = [piece.offsets[1:] + start for piece, start in zip(pieces, starts, strict=False)]
        cells, pixels = ([getattr(piece, name) for piece in pieces] for name in ("cells", "pixels"))
        return Counts(np.concatenate([np.zeros(1, int), *offsets]), np.concatenate(cells), np.concatenate(pixels))


def sparse_counts(predicted: np.ndarray, truth: np.ndarray) -> Counts:
    """Counts of masks [n, 2, H, W], a few samples at a time."""
    rows, cells, pixels = [np.zeros(0, int)], [np.zeros(0, np.uint16)], [np.zeros(0, np.uint32)]
    for start in range(0, len(truth), SLICE):
        dense = _dense(np.asarray(predicted[start : start + SLICE]), np.asarray(truth[start : start + SLICE]))
        row, cell = np.nonzero(dense)
        rows.append(start + row)
        cells.append(cell.astype(np.uint16))
        pixels.append(dense[row, cell].astype(np.uint32))
    offsets = np.searchsorted(np.concatenate(rows), np.arange(len(truth) + 1))
    return Counts(offsets.astype(np.int64), np.concatenate(cells), np.concatenate(pixels))


def _dense(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Counts int64 [n, 4 · 17 · 17] of masks [n, 2, H, W]."""
    group = np.arange(len(truth)).reshape(-1, 1, 1) * len(MATRICES)
    found = []
    for hand, other in ((LEFT, RIGHT), (RIGHT, LEFT)):
        cells = ((group + hand) * N_CLASSES + truth[:, hand]) * N_CLASSES + predicted[:, hand]
        called = ((group + len(HANDS) + hand) * N_CLASSES + truth[:, hand]) * N_CLASSES + predicted[:, other]
        wrong = (truth[:, hand] > 0) & (truth[:, other] == 0) & (predicted[:, other] > 0)
        found += [cells.ravel(), called[wrong]]
    size = len(truth) * len(MATRICES) * N_CELLS
    return np.bincount(np.concatenate(found), minlength=size).reshape(len(truth), -1)


def disagreement(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Share float32 [n] of pixels in which two predictions [n, 2, H, W] differ, of those where either has a part."""
    either = ((one > 0) | (two > 0)).sum((1, 2, 3))
    return ((one != two).sum((1, 2, 3)) / np.maximum(either, 1)).astype(np.float32)


def error_shares(counts: Counts, samples: np.ndarray | None = None) -> dict[str, float]:
    """Pixels of each kind of error over `samples` (a mask bool [n]; None: all), as shares of the hands' true pixels.

    NaN where there is no hand.
    """
    total = counts.total(samples)
    hands, called = total[: len(HANDS)].sum(0), int(total[len(HANDS) :].sum())
    parts = hands[1:].sum()
    pixels = {
        ERRORS[MISSED]: hands[1:, 0].sum(),
        ERRORS[INVENTED]: hands[0, 1:].sum() - called,
        ERRORS[WRONG_PART]: hands[1:, 1:].sum() - np.trace(hands[1:, 1:]),
        ERRORS[WRONG_HAND]: called,
    }
    return {name: float(number / parts) if parts else float("nan") for name, number in pixels.items()}


def worst_parts(counts: Counts, situations: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A row for every part in every situation (a mask bool [n]), the lowest IoU first.

    Columns: `situation`, `samples`, `part`, `iou` (both hands' pixels together), `below` (how far below the part's IoU
    in all samples), `mostly` (what most of its wrong pixels are called). Parts without a true pixel are left out.
    """
    usual, rows = _part_iou(counts.total()), []
    for name, samples in situations.items():
        total = counts.total(samples)
        hands = total[: len(HANDS)].sum(0)
        wrong = hands * (1 - np.eye(N_CLASSES, dtype=int))
        for part in np.flatnonzero(hands.sum(1)[1:]) + 1:
            mostly = PARTS[wrong[part].argmax()] if wrong[part].any() else ""
            iou = _part_iou(total)[part]
            row = {"situation": name, "samples": int(samples.sum()), "part": PARTS[part], "iou": float(iou)}
            rows.append(row | {"below": float(usual[part] - iou), "mostly": mostly})
    columns = ["situation", "samples", "part", "iou", "below", "mostly"]
    return pd.DataFrame(rows, columns=columns).sort_values("iou", kind="stable").reset_index(drop=True)


def _part_iou(total: np.ndarray) -> np.ndarray:
    """IoU float [17] of every class, both hands' pixels together, from counts [4, 17, 17]."""
    return class_iou(total[: len(HANDS)].sum(0))
