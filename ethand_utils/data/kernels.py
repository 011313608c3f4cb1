"""Loops over pixels compiled by Numba: resampling of batches, and confusion counts.

They pass over memory once, and are several times as fast as `grid_sample` and `np.bincount`.
"""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numba
import numpy as np

from ethand_utils.labels import N_CLASSES

STRIP = 4096  # pixels of a strip, on which the steps of `_warp` work one after the other

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
    """Resample a batch on all of PyTorch's threads: float32 [B, 3, H, W] and int64 [B, 2, H, W].

    `images` uint8 [B, H, W, 3] bilinearly, each channel times `gain` float32 [B, 3], at most 255, minus `mean` [3] and
    over `std` [3]; `masks` uint8 [B, 2, H, W] by the nearest pixel; black and background beyond the border. Pixel
    (x, y) comes from `matrices` float32 [B, 2, 3] · (x, y, 1). Where `flipped` bool [B] is set, samples are mirrored
    and their hands exchanged.
    """
    count, size = images.shape[:2]
    pixels, labels = np.empty((count, 3, size, size), np.float32), np.empty(masks.shape, np.int64)
    arrays = (*map(np.ascontiguousarray, (images, masks)), matrices, gain, flipped)
    scale, shift = (1 / std).astype(np.float32), (-mean / std).astype(np.float32)

    def run(samples: slice) -> None:
        _warp(*(array[samples] for array in arrays), scale, shift, pixels[samples], labels[samples])

    _on_all_threads(run, count)
    return pixels, labels


def count_pairs(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Count the pixels of every pair of classes: int64 [n, 17, 17] (truth by prediction) of masks uint8 [n, pixels].

    Raises ValueError when a mask holds anything but 0…16.
    """
    if max(truth.max(initial=0), predicted.max(initial=0)) >= N_CLASSES:
        raise ValueError(f"masks hold values above {N_CLASSES - 1}; expected the ids of parts, 0 to {N_CLASSES - 1}")
    counts = np.empty((len(truth), N_CLASSES, N_CLASSES), np.int64)
    truth, predicted = np.ascontiguousarray(truth), np.ascontiguousarray(predicted)
    _on_all_threads(lambda samples: _count_pairs(truth[samples], predicted[samples], counts[samples]), len(truth))
    return counts


def _on_all_threads(run: Callable[[slice], None], count: int) -> None:
    """Call `run` with equal slices of `count` samples, one on each of PyTorch's threads."""
    threads = max(1, min(_torch_threads(), count))
    edges = [count * i // threads for i in range(threads + 1)]
    others = [_pool(threads - 1).submit(run, slice(*pair)) for pair in pairwise(edges[1:])]
    run(slice(0, edges[1]))
    for other in others:
        other.result()


def _torch_threads() -> int:
    """Return PyTorch's number of threads; a core each where it is not loaded, as counting alone needs none of it."""
    torch = sys.modules.get("torch")
    return len(os.sched_getaffinity(0)) if torch is None else torch.get_num_threads()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


@_compiled
def _warp(images, masks, matrices, gain, flipped, scale, shift, pixels, labels):
    """Resample strip by strip, each step a plain loop over memory that is in the cache."""
    size = images.shape[1]
    rows = max(1, STRIP // size)
    packed, padded = np.empty(size * size, np.uint32), np.zeros((2, size * size + 1), np.uint8)
    points = np.empty((2, rows * size), np.float32)
    corners, weights = np.empty(4 * rows * size, np.uint32), np.empty(4 * rows * size)
    nearest = np.empty(rows * size, np.uint32)
    for i in range(len(images)):
        _pack(images[i].reshape(-1, 3), packed)
        for hand in range(2):
            padded[1 - hand if flipped[i] else hand, :-1] = masks[i, hand].reshape(-1)
        for top in range(0, size, rows):
            count = (min(top + rows, size) - top) * size
            x, y = points[0, :count], points[1, :count]
            _source(matrices[i], flipped[i], top, size, x, y)
            _corners(x, y, size, packed, nearest, corners[: 4 * count], weights[: 4 * count])
            strip = slice(top * size, top * size + count)
            for k in range(3):
                out = pixels[i, k].reshape(-1)[strip]
                _interpolate(corners[: 4 * count], weights[: 4 * count], k, gain[i, k], scale[k], shift[k], out)
            _border(images[i], x, y, gain[i], scale, shift, pixels[i].reshape(3, -1)[:, strip])
            _nearest(x, y, size, nearest)
            for hand in range(2):
                _look_up(padded[hand], nearest, labels[i, hand].reshape(-1)[strip])


@_compiled
def _pack(image, packed):
    """Pack red, green and blue of each pixel into one number, so that one look-up reads all three."""
    for p in range(len(packed)):
        red, green, blue = np.uint32(image[p, 0]), np.uint32(image[p, 1]), np.uint32(image[p, 2])
        packed[p] = red | green << np.uint32(8) | blue << np.uint32(16)


@_compiled
def _source(matrix, mirrored, top, size, from_x, from_y):
    """Compute the source points of the pixels in the rows from `top` on."""
    (a, b, c), (d, e, f) = matrix
    for row in range(len(from_x) // size):
        y = np.float32(top + row)
        row_x, row_y = b * y + c, e * y + f
        for column in range(size):
            x = np.float32(np.int32(size - 1 - column if mirrored else column))
            from_x[row * size + column], from_y[row * size + column] = a * x + row_x, d * x + row_y


@_compiled
def _corners(x, y, size, packed, index, corners, weights):
    """Look up the four pixels about each point and their bilinear weights; `_border` replaces points at the border."""
    n, width, last = len(x), np.int32(size), np.float32(size - 1)
    for p in range(n):
        inside = (x[p] >= 0) & (x[p] < last) & (y[p] >= 0) & (y[p] < last)
        index[p] = np.uint32(np.int32(y[p]) * width + np.int32(x[p])) if inside else np.uint32(0)
    for p in range(n):
        right, low = np.float64(x[p]) - np.int32(x[p]), np.float64(y[p]) - np.int32(y[p])
        both = right * low
        weights[p], weights[n + p] = 1 - right - low + both, right - both
        weights[2 * n + p], weights[3 * n + p] = low - both, both
    for p in range(n):
        first, second = np.uint64(index[p]), np.uint64(index[p]) + np.uint64(size)
        corners[p], corners[n + p] = packed[first], packed[first + np.uint64(1)]
        corners[2 * n + p], corners[3 * n + p] = packed[second], packed[second + np.uint64(1)]


@_compiled
def _interpolate(corners, weights, k, gain, scale, shift, out):
    """Interpolate one channel, apply its gain and normalise it."""
    n, bits, byte = len(out), np.uint32(8 * k), np.uint32(255)
    for p in range(n):
        value = np.int32((corners[p] >> bits) & byte) * weights[p]
        value += np.int32((corners[n + p] >> bits) & byte) * weights[n + p]
        below = np.int32((corners[2 * n + p] >> bits) & byte) * weights[2 * n + p]
        below += np.int32((corners[3 * n + p] >> bits) & byte) * weights[3 * n + p]
        out[p] = min((value + below) * gain, np.float32(255)) * scale + shift


@_compiled
def _border(image, x, y, gain, scale, shift, pixels):
    """Replace the pixels [3, n] from beyond the outermost pixels' centres, which lie at the ends of rows."""
    size, last = image.shape[0], np.float32(image.shape[0] - 1)
    for row in range(0, len(x), size):
        start, end = row, row + size
        while start < end and not (0 <= x[start] < last and 0 <= y[start] < last):
            _at_border(image, x[start], y[start], gain, scale, shift, pixels[:, start])
            start += 1
        while end > start and not (0 <= x[end - 1] < last and 0 <= y[end - 1] < last):
            end -= 1
            _at_border(image, x[end], y[end], gain, scale, shift, pixels[:, end])


@_compiled
def _at_border(image, x, y, gain, scale, shift, pixel):
    """Interpolate where some of the four pixels may lie beyond the border and count as black."""
    size, red, green, blue = image.shape[0], np.float32(0), np.float32(0), np.float32(0)
    if x <= -1 or x >= size or y <= -1 or y >= size:  # all four do
        pixel[:] = shift
        return
    left, top = int(np.floor(x)), int(np.floor(y))
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < size and 0 <= column < size:
                weight = np.float32((1 - abs(x - column)) * (1 - abs(y - row)))
                red += image[row, column, 0] * weight
                green += image[row, column, 1] * weight
                blue += image[row, column, 2] * weight
    pixel[0] = min(red * gain[0], np.float32(255)) * scale[0] + shift[0]
    pixel[1] = min(green * gain[1], np.float32(255)) * scale[1] + shift[1]
    pixel[2] = min(blue * gain[2], np.float32(255)) * scale[2] + shift[2]


@_compiled
def _nearest(x, y, size, nearest):
    """Compute the index of the pixel nearest to each point; beyond the border, the one after the last."""
    width, half = np.int32(size), np.float32(0.5)
    for p in range(len(x)):
        column, row = np.int32(np.floor(x[p] + half)), np.int32(np.floor(y[p] + half))
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < width)
        nearest[p] = np.uint32(row * width + column) if inside else np.uint32(width * width)


@_compiled
def _look_up(values, index, out):
    for p in range(len(out)):
        out[p] = values[np.uint64(index[p])]


@_compiled
def _count_pairs(truth, predicted, counts):
    tally = np.empty((4, N_CLASSES**2), np.int32)
    for i in range(len(truth)):
        _tally(truth[i], predicted[i], tally)
        for pair in range(N_CLASSES**2):
            counts[i, pair // N_CLASSES, pair % N_CLASSES] = tally[:, pair].sum()


@_compiled
def _tally(truth, predicted, tally):
    """Count pairs in four tallies, so that no count waits for the last; eight background pixels are one addition."""
    tally[:] = 0
    blocks = len(truth) // 8
    eight_truth, eight_predicted = truth[: 8 * blocks].view(np.uint64), predicted[: 8 * blocks].view(np.uint64)
    for block in range(blocks):
        if eight_truth[block] == 0 and eight_predicted[block] == 0:
            tally[0, 0] += 8
        else:
            for k in range(8 * block, 8 * block + 8, 4):
                for j in range(4):
                    tally[j, np.int32(truth[k + j]) * N_CLASSES + predicted[k + j]] += 1
    for k in range(8 * blocks, len(truth)):
        tally[0, np.int32(truth[k]) * N_CLASSES + predicted[k]] += 1
