"""Loops over pixels, compiled by Numba: what NumPy and PyTorch can only do in many passes over memory."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numba
import numpy as np
import torch

from ethand_utils.labels import N_CLASSES

_compiled = numba.njit(nogil=True, cache=True)


def warp(
    images: np.ndarray,
    masks: np.ndarray,
    matrices: np.ndarray,
    gain: np.ndarray,
    flipped: np.ndarray,
    mean: np.ndarray,
    std: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Resample a batch, on all of PyTorch's threads: float32 [B, 3, H, W] and int64 [B, 2, H, W].

    `images` uint8 [B, H, W, 3] bilinearly, each channel times `gain` float32 [B, 3], at most 255, minus `mean` [3] and
    over `std` [3]; `masks` uint8 [B, 2, H, W] by the nearest pixel; black and background beyond the border. Pixel
    (x, y) comes from `matrices` float32 [B, 2, 3] · (x, y, 1). Samples that `flipped` bool [B] names are mirrored, and
    their hands exchanged.
    """
    count, size = images.shape[:2]
    pixels, labels = np.empty((count, 3, size, size), np.float32), np.empty(masks.shape, np.int64)
    arrays = (images, masks, matrices, gain, flipped)
    scale, shift = (1 / std).astype(np.float32), (-mean / std).astype(np.float32)

    def run(part: slice) -> None:
        _warp(*(array[part] for array in arrays), scale, shift, pixels[part], labels[part])

    _on_all_threads(run, count)
    return pixels, labels


def count_pairs(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """How often each pair of classes meets: int64 [n, 17, 17] (truth by prediction) of masks uint8 [n, pixels].

    Raises ValueError when a mask holds anything but 0…16.
    """
    if max(truth.max(initial=0), predicted.max(initial=0)) >= N_CLASSES:
        raise ValueError(f"masks hold values above {N_CLASSES - 1}; expected the ids of parts, 0 to {N_CLASSES - 1}")
    counts = np.zeros((len(truth), N_CLASSES**2), np.int64)
    truth, predicted = np.ascontiguousarray(truth), np.ascontiguousarray(predicted)

    def run(part: slice) -> None:
        _count_pairs(truth[part], predicted[part], counts[part])

    _on_all_threads(run, len(truth))
    return counts.reshape(-1, N_CLASSES, N_CLASSES)


def _on_all_threads(run: Callable[[slice], None], count: int) -> None:
    """Call `run` for equal shares of `count` things, one on each of PyTorch's threads."""
    threads = max(1, min(torch.get_num_threads(), count))
    edges = [count * i // threads for i in range(threads + 1)]
    if threads == 1:
        run(slice(0, count))
    else:
        list(_pool(threads).map(run, map(slice, edges, edges[1:])))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


@_compiled
def _warp(images, masks, matrices, gain, flipped, scale, shift, pixels, labels):
    size = np.int32(images.shape[1])
    last, half = np.float32(size - 1), np.float32(0.5)
    for i in range(len(images)):
        (a, b, c), (d, e, f) = matrices[i]
        image = images[i]
        for y in range(size):
            row_x, row_y = b * np.float32(y) + c, e * np.float32(y) + f
            for x in range(size):
                from_x, from_y = a * np.float32(x) + row_x, d * np.float32(x) + row_y
                to = size - 1 - x if flipped[i] else x
                if 0 <= from_x < last and 0 <= from_y < last:
                    left, top = np.int32(from_x), np.int32(from_y)
                    right, low = from_x - left, from_y - top
                    both = right * low
                    first, second = image[top], image[top + 1]
                    for k in range(3):
                        value = first[left, k] * (1 - right - low + both) + first[left + 1, k] * (right - both)
                        value += second[left, k] * (low - both) + second[left + 1, k] * both
                        pixels[i, k, y, to] = min(value * gain[i, k], np.float32(255)) * scale[k] + shift[k]
                else:
                    for k in range(3):
                        value = _at_border(image, from_x, from_y, k)
                        pixels[i, k, y, to] = min(value * gain[i, k], np.float32(255)) * scale[k] + shift[k]
                column, row = np.int32(np.floor(from_x + half)), np.int32(np.floor(from_y + half))
                inside = 0 <= column < size and 0 <= row < size
                for hand in range(2):
                    label = masks[i, hand, row, column] if inside else 0
                    labels[i, 1 - hand if flipped[i] else hand, y, to] = label


@_compiled
def _at_border(image, x, y, k):
    """Bilinear interpolation where some of the four pixels may lie beyond the border, and count as black."""
    size, value = image.shape[0], np.float32(0)
    left, top = int(np.floor(x)), int(np.floor(y))
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < size and 0 <= column < size:
                value += image[row, column, k] * np.float32((1 - abs(x - column)) * (1 - abs(y - row)))
    return value


@_compiled
def _count_pairs(truth, predicted, counts):
    """Four tallies, so that one count need not wait for the last; where eight pixels are all background, no tally."""
    length = truth.shape[1]
    words = length // 8
    for i in range(len(truth)):
        tally, background = np.zeros((4, counts.shape[1]), np.int32), 0
        eight_truth, eight_predicted = truth[i, : 8 * words].view(np.uint64), predicted[i, : 8 * words].view(np.uint64)
        for word in range(words):
            if eight_truth[word] == 0 and eight_predicted[word] == 0:
                background += 8
            else:
                for k in range(8 * word, 8 * word + 8, 4):
                    for j in range(4):
                        tally[j, np.int32(truth[i, k + j]) * N_CLASSES + predicted[i, k + j]] += 1
        for k in range(8 * words, length):
            tally[0, np.int32(truth[i, k]) * N_CLASSES + predicted[i, k]] += 1
        counts[i] += tally.sum(0)
        counts[i, 0] += background
