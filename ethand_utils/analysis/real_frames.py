"""Rendered samples beside real frames: mixed on one sheet to be told apart, and measured alike where that can be."""

from collections.abc import Iterable

import cv2
import numpy as np
import pandas as pd

from ethand_utils.analysis.image_plots import tiles
from ethand_utils.data.crops import crop_square
from ethand_utils.data.store import Store, StoreError
from ethand_utils.labels import HANDS, N_CLASSES
from ethand_utils.sources.interhand_frames import Frame, frame_crops

GREY = np.array([0.299, 0.587, 0.114])  # luma of RGB (ITU-R BT.601)
# What `measure` gives, for axes and tables.
MEASURES = {
    "box_px": "longer side of the hands' box, px of the camera's frame",
    "apart": "distance of the hands' centres, in longer sides of the box",
    "brightness": "mean grey level inside the hands' hull, 0…255",
    "contrast": "standard deviation of the grey levels there",
}


def store_with_images(stores: Iterable[Store]) -> Store:
    """The largest of some stores that has images. Raises StoreError when none has."""
    stores = list(stores)
    found = [store for store in stores if store.images is not None]
    if not found:
        raise StoreError(f"{stores[0].path}: holds masks only; a sheet needs a store with images")
    return max(found, key=len)


def mixed_sheet(
    store: Store, count: int, frames: list[Frame], seed: int
) -> tuple[np.ndarray, list[tuple[int, int, str]]]:
    """`count` random images of a store on one sheet uint8 [H, W, 3], with the course's crops of real frames among them.

    The frames take the places of as many images, of half of them at most; where they are comes back as (row, column,
    name), counted from 1. A store with fewer images gives a smaller sheet. Raises StoreError when `count` is below 1.
    """
    if count < 1:
        raise StoreError(f"{store.path}: a sheet of {count} images was asked for; expected at least 1")
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(frames))[: count // 2]
    picked = rng.permutation(len(store))[: count - len(chosen)]
    crops = [frame_crops(frames[i], [crop_square(frames[i].bbox)], store.size) for i in chosen]
    images = np.concatenate([store.images[np.sort(picked)], *crops])
    order = rng.permutation(len(images))
    columns = int(np.ceil(np.sqrt(len(images))))
    at = {int(old): divmod(new, columns) for new, old in enumerate(order)}
    places = [(*at[len(picked) + k], frames[i].image.name) for k, i in enumerate(chosen)]
    return tiles(images[order], columns), sorted((row + 1, column + 1, name) for row, column, name in places)


def measure(image: np.ndarray, points: list[np.ndarray]) -> dict[str, float]:
    """`apart` (px), `brightness` and `contrast` of an image uint8 [H, W, 3] with each hand's `points` [k, 2] (x, y) px.

    Brightness and contrast are taken inside the convex hull of all points, `apart` between the hands' mean points;
    NaN where a hand is not known, or too little to have a hull.
    """
    known = [hand for hand in points if len(hand)]
    apart = float(np.linalg.norm(points[0].mean(0) - points[1].mean(0))) if len(known) == len(HANDS) else np.nan
    inside = np.zeros(image.shape[:2], np.uint8)
    if known:
        corners = cv2.convexHull(np.concatenate(known).round().astype(np.int32))
        cv2.fillConvexPoly(inside, corners, 1)
    grey = (image @ GREY)[inside > 0]
    if not len(grey):
        return {"apart": apart, "brightness": np.nan, "contrast": np.nan}
    return {"apart": apart, "brightness": float(grey.mean()), "contrast": float(grey.std())}


def measure_store(store: Store, samples: Iterable[int]) -> pd.DataFrame:
    """`hand_type` and MEASURES of some samples of a store; the points of a hand are the middles of its parts."""
    store.require("images", "masks")
    rows = []
    for i in samples:
        row = store.index.iloc[i]
        side = crop_square(tuple(row[["bbox_x", "bbox_y", "bbox_w", "bbox_h"]].astype(float)))[2]
        found = measure(store.images[i], [_part_middles(mask) for mask in store.masks[i]])
        rows.append(_row(row["hand_type"], max(row["bbox_w"], row["bbox_h"]), side / store.size, found))
    return pd.DataFrame(rows)


def measure_frames(frames: Iterable[Frame], size: int) -> pd.DataFrame:
    """`hand_type` and MEASURES of real frames in the course's crop at `size` px; the points are the known joints."""
    rows = []
    for frame in frames:
        x, y, side = crop_square(frame.bbox)
        points = [
            (joints[valid] - (x, y)) * (size / side) for joints, valid in zip(frame.joints, frame.valid, strict=True)
        ]
        found = measure(frame_crops(frame, [(x, y, side)], size)[0], points)
        rows.append(_row(frame.hand_type, max(frame.bbox[2:]), side / size, found))
    return pd.DataFrame(rows)


def _row(hand_type: str, longer: float, scale: float, found: dict[str, float]) -> dict:
    """One row of measures, `apart` turned from px of the crop, each `scale` px of the frame, into sides of the box."""
    return {"hand_type": hand_type, "box_px": longer} | found | {"apart": found["apart"] * scale / longer}


def _part_middles(mask: np.ndarray) -> np.ndarray:
    """Mean pixel (x, y) of every part that a mask [H, W] has: float [k, 2]."""
    pixels = np.bincount(mask.ravel(), minlength=N_CLASSES)
    sums = [np.bincount(mask.ravel(), axis.ravel(), N_CLASSES) for axis in np.indices(mask.shape)[::-1]]
    seen = np.flatnonzero(pixels)
    seen = seen[seen > 0]
    return np.stack(sums, axis=1)[seen] / pixels[seen, None]
