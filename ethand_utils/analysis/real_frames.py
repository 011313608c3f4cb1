"""Rendered samples against real frames: mixed on one sheet to be told apart, and measured in the same way."""

from collections.abc import Iterable

import cv2
import numpy as np
import pandas as pd

from ethand_utils.analysis.image_plots import tiles
from ethand_utils.data.crops import crop_square
from ethand_utils.data.store import BOX, Store, StoreError
from ethand_utils.labels import HAND_TYPES, HANDS, LEFT, N_CLASSES, RIGHT
from ethand_utils.rendering.arrangements import ARRANGEMENTS
from ethand_utils.sources.interhand_frames import Frame, frame_crops

GREY = np.array([0.299, 0.587, 0.114])  # luma of RGB (ITU-R BT.601)
# What is measured of a sample, with its description for axes and tables.
MEASURES = {
    "box_px": "longer side of the hands' box, px of the camera's frame",
    "apart": "distance of the hands' centres, in longer sides of the box",
    "brightness": "mean grey level inside the hands' hull, 0…255",
    "contrast": "standard deviation of the grey levels there",
}


def arrangement_percentages(index: pd.DataFrame) -> pd.DataFrame:
    """Return the percentage of two-hand samples of each arrangement, `planned` and `rendered`.

    `index` is that of a store; without a column `arrangement`, as for data that were not rendered, all is NaN.
    """
    planned = {name: 100 * share for name, (_, share) in ARRANGEMENTS.items()}
    if "arrangement" not in index:
        return pd.DataFrame(np.nan, list(planned), ["planned", "rendered"])
    rendered = 100 * index.loc[index["hand_type"] == HAND_TYPES[-1], "arrangement"].value_counts(normalize=True)
    return pd.DataFrame({"planned": planned, "rendered": rendered.reindex(list(planned), fill_value=0)})


def store_with_images(stores: Iterable[Store]) -> Store:
    """Return the largest of some stores that has images. Raises StoreError when none has."""
    stores = list(stores)
    with_images = [store for store in stores if store.images is not None]
    if not with_images:
        raise StoreError(f"{stores[0].path}: holds masks only; a sheet needs a store with images")
    return max(with_images, key=len)


def mixed_sheet(store: Store, count: int, frames: list[Frame], seed: int) -> tuple[np.ndarray, list[tuple]]:
    """Arrange `count` random images of a store and real frames in the course's crop on one sheet uint8 [H, W, 3].

    At most half of the images are frames; their positions are returned as (row, column, name), counted from 1. A store
    with fewer images gives a smaller sheet. Raises StoreError when `count` is below 1.
    """
    if count < 1:
        raise StoreError(f"{store.path}: a sheet of {count} images was asked for; expected at least 1")
    rng = np.random.default_rng(seed)
    real = rng.permutation(len(frames))[: count // 2]
    rendered = rng.permutation(len(store))[: count - len(real)]
    crops = [frame_crops(frames[i], [crop_square(frames[i].bbox)], store.size) for i in real]
    images = np.concatenate([store.images[np.sort(rendered)], *crops])
    order = rng.permutation(len(images))
    columns = int(np.ceil(np.sqrt(len(images))))
    cells = {int(old): divmod(new, columns) for new, old in enumerate(order)}
    positions = [(*cells[len(rendered) + k], frames[i].image.name) for k, i in enumerate(real)]
    return tiles(images[order], columns), sorted((row + 1, column + 1, name) for row, column, name in positions)


def measure(image: np.ndarray, points: list[np.ndarray]) -> dict[str, float]:
    """Measure `apart` (px), `brightness` and `contrast` of an image uint8 [H, W, 3], at each hand's `points` [k, 2].

    Points are (x, y) in px. Brightness and contrast are taken inside the convex hull of all points, `apart` between the
    hands' mean points; NaN for a hand without points.
    """
    hands = [hand for hand in points if len(hand)]
    apart = float(np.linalg.norm(points[0].mean(0) - points[1].mean(0))) if len(hands) == len(HANDS) else np.nan
    inside = np.zeros(image.shape[:2], np.uint8)
    if hands:
        corners = cv2.convexHull(np.concatenate(hands).round().astype(np.int32))
        cv2.fillConvexPoly(inside, corners, 1)
    grey = (image @ GREY)[inside > 0]
    if not len(grey):
        return {"apart": apart, "brightness": np.nan, "contrast": np.nan}
    return {"apart": apart, "brightness": float(grey.mean()), "contrast": float(grey.std())}


def measure_store(store: Store, samples: Iterable[int]) -> pd.DataFrame:
    """Return `hand_type` and MEASURES of some samples of a store; the points of a hand are the middles of its parts."""
    store.require("images", "masks")
    rows = []
    for i in samples:
        row = store.index.iloc[i]
        side = crop_square(tuple(row[list(BOX)].astype(float)))[2]
        measures = measure(store.images[i], [_part_middles(mask) for mask in store.masks[i]])
        rows.append(_row(row["hand_type"], max(row["bbox_w"], row["bbox_h"]), side / store.size, measures))
    return pd.DataFrame(rows)


def measure_frames(frames: Iterable[Frame], size: int) -> pd.DataFrame:
    """Return `hand_type` and MEASURES of real frames in the course's crop at `size` px; the points are valid joints."""
    rows = []
    for frame in frames:
        x, y, side = crop_square(frame.bbox)
        joints = (frame.joints - (x, y)) * (size / side)
        points = [joints[hand][frame.valid[hand]] for hand in (LEFT, RIGHT)]
        measures = measure(frame_crops(frame, [(x, y, side)], size)[0], points)
        rows.append(_row(frame.hand_type, max(frame.bbox[2:]), side / size, measures))
    return pd.DataFrame(rows)


def _row(hand_type: str, longer: float, scale: float, measures: dict[str, float]) -> dict:
    """Return a row of measures, `apart` converted from px of the crop, each `scale` px of the frame, to box sides."""
    return {"hand_type": hand_type, "box_px": longer} | measures | {"apart": measures["apart"] * scale / longer}


def _part_middles(mask: np.ndarray) -> np.ndarray:
    """Return the mean pixel (x, y) of every part that a mask [H, W] has: float [k, 2]."""
    pixels = np.bincount(mask.ravel(), minlength=N_CLASSES)
    sums = [np.bincount(mask.ravel(), axis.ravel(), N_CLASSES) for axis in np.indices(mask.shape)[::-1]]
    parts = np.flatnonzero(pixels[1:]) + 1
    return np.stack(sums, axis=1)[parts] / pixels[parts, None]
