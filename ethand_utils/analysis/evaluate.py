"""Batched inference, scores, masks of photos, and export of trained nets."""

import contextlib
import gzip
import hashlib
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from torch import nn
from tqdm.auto import tqdm

from ethand_utils.analysis.confusion import sparse_counts
from ethand_utils.analysis.image_plots import overlay
from ethand_utils.analysis.predictions import path_between, write_counts
from ethand_utils.data.crops import ImageError, crop_image, crop_square, uncrop_masks
from ethand_utils.data.store import Store
from ethand_utils.data.store_builder import StorePlan, build_store
from ethand_utils.files import atomic_write
from ethand_utils.labels import HANDS
from ethand_utils.sources.course_export import SUBMISSION_SIZE, img_path
from ethand_utils.sources.course_io import CourseError, encode_png, image_key, mask_keys, save_pt, write_lmdb
from ethand_utils.sources.interhand_frames import Frame, frame_crops
from ethand_utils.training.inference import predict_masks
from ethand_utils.training.metrics import joint_scores, parts_at, sample_scores, summary

OVERLAY_SIZE = 384  # px of each panel of a photo's overlay
# Crops by which a frame is scored: the course's one shifted by (x, y) of its side, and a factor on the side.
JITTER = ((0, 0, 1), (0.03, 0, 1), (-0.03, 0, 1), (0, 0.03, 1), (0, -0.03, 1), (0, 0, 0.94), (0, 0, 1.06))


def evaluate_store(model: nn.Module, store: Store, out: str | Path | None = None) -> dict[str, float]:
    """All scores of a net on a store with truth, as `metrics.summary` gives them, and `images_per_s`.

    With `out`, the predictions are kept there as a store of masks and confidence, with `metrics.parquet`, the scores of
    every sample, and `confusion.npz`, which parts it confuses, beside them. An older store of predictions there is
    replaced.
    """
    store.require("images", "masks")
    began = time.time()
    masks, confidence = predict_masks(model, store.images, progress=True)
    speed = len(store) / max(time.time() - began, 1e-9)
    truth, front = np.asarray(store.masks), None if store.front is None else np.asarray(store.front)
    if out is not None:
        _keep_predictions(Path(out), store, masks, confidence, sample_scores(masks, truth, front))
    return summary(masks, truth, front) | {"images_per_s": speed}


def _keep_predictions(out: Path, store: Store, masks: np.ndarray, confidence: np.ndarray, scores: dict) -> None:
    rows = store.index.to_dict("records")
    # The digest keeps an interrupted writing of another net's predictions from being taken up here.
    digest = hashlib.sha256(masks.tobytes()).hexdigest()
    meta = {"source": "predictions", "data": str(store.meta.get("split", store.path.name)), "masks_sha256": digest}
    meta["data_path"] = path_between(store, out)

    def sample(i: int) -> dict:
        return {"masks": masks[i], "confidence": confidence[i], "row": rows[i]}

    build_store(out, StorePlan(sample, len(store), store.size, ("masks", "confidence"), meta), replace=True)
    table = pd.DataFrame({"id": store.index["id"], "confidence": confidence, **scores})
    with atomic_write(out / "metrics.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    write_counts(out, sparse_counts(masks, store.masks))


def predict_photo(
    model: nn.Module, image: np.ndarray, size: int, box: tuple[float, float, float, float] | None = None
) -> dict[str, np.ndarray]:
    """Masks of one photo uint8 [H, W, 3], with the hands in `box` (x, y, w, h px; None: the whole photo).

    Returns `crop` uint8 [size, size, 3], `crop_masks` uint8 [2, size, size], `masks` uint8 [2, H, W] in the photo's
    frame, and `confidence`.
    """
    height, width = image.shape[:2]
    whole = max(height, width)
    square = crop_square(box) if box else ((width - whole) / 2, (height - whole) / 2, whole)
    crop = crop_image(image, square, size)
    masks, confidence = predict_masks(model, crop[None])
    frame = uncrop_masks(masks[0], square, height, width)
    return {"crop": crop, "crop_masks": masks[0], "masks": frame, "confidence": float(confidence[0])}


def score_frames(
    model: nn.Module, frames: list[Frame], size: int, jitter: tuple[tuple[float, float, float], ...] = JITTER
) -> tuple[dict[str, float], pd.DataFrame]:
    """`metrics.joint_accuracy` of a net on frames without masks, pooled over all their joints, and a row a frame.

    Every frame is seen in each crop of `jitter` (shift x, shift y, factor on the side) at `size` px, as it is and
    mirrored, so that a few frames give a steadier score. Raises ImageError when an image cannot be read or cropped.
    """
    found, valid, rows = [], [], []
    for frame in tqdm(frames, desc="score", unit="frame"):
        found.append(_parts_at_joints(model, frame, size, jitter))
        valid.append(np.broadcast_to(frame.valid, found[-1].shape))
        row = {"frame": frame.name, "hand_type": frame.hand_type, "joints": int(frame.valid.sum())}
        rows.append(row | joint_scores(found[-1], valid[-1]))
    return joint_scores(np.concatenate(found), np.concatenate(valid)), pd.DataFrame(rows)


def _parts_at_joints(model: nn.Module, frame: Frame, size: int, jitter) -> np.ndarray:
    """The parts [2 · crops, 2, 21] predicted at a frame's joints in its crops, plain ones and then mirrored ones."""
    left, top, whole = crop_square(frame.bbox)
    squares = [
        (left + whole * (dx + (1 - zoom) / 2), top + whole * (dy + (1 - zoom) / 2), whole * zoom)
        for dx, dy, zoom in jitter
    ]
    crops = frame_crops(frame, squares, size)
    plain, _ = predict_masks(model, crops)
    mirrored, _ = predict_masks(model, crops[:, :, ::-1])
    joints = np.stack([(frame.joints - (x, y)) * (size / side) for x, y, side in squares])
    # A mirrored left hand is a right one: back in the frame, the two exchange their masks.
    return parts_at(np.concatenate([plain, mirrored[:, ::-1, :, ::-1]]), np.concatenate([joints, joints]))


def parse_box(text: str) -> tuple[float, float, float, float]:
    """`x,y,w,h` in px → numbers. Raises ImageError for anything else."""
    try:
        x, y, w, h = (float(part) for part in text.split(","))
    except ValueError:
        raise ImageError(f"--box {text}: expected four numbers x,y,w,h in px") from None
    if not np.isfinite([x, y, w, h]).all() or w <= 0 or h <= 0:
        raise ImageError(f"--box {text}: expected numbers, width and height above 0")
    return x, y, w, h


def save_photo(folder: str | Path, found: dict[str, np.ndarray]) -> None:
    """Write what `predict_photo` found: `left.png` and `right.png` (ids 0…16, the photo's frame) and `overlay.png`.

    The overlay shows the crop enlarged, plain and with each hand's parts.
    """
    crop = found["crop"]
    panels = [crop, *(overlay(crop, mask) for mask in found["crop_masks"])]
    sheet = Image.fromarray(np.concatenate(panels, axis=1))
    enlarged = sheet.resize((3 * OVERLAY_SIZE, OVERLAY_SIZE), Image.Resampling.NEAREST)
    pictures = {hand: Image.fromarray(mask) for hand, mask in zip(HANDS, found["masks"], strict=True)}
    for name, picture in (pictures | {"overlay": enlarged}).items():
        with atomic_write(Path(folder) / f"{name}.png") as temporary:
            picture.save(temporary)


def submit(model: nn.Module, store: Store, out: str | Path) -> int:
    """Predict a store and pack the masks as the course's server takes them; returns the number of images.

    `out` is a `.tar.gz` of the folder `test.lmdb`: an LMDB of PNGs under `<name>__l` and `<name>__r`, one channel,
    128×128 (another size is resized, nearest neighbour), ids 0…16 for both hands, and in it `im_path.pt`, the list of
    `<name>.jpg`; a name is the image's path after `images/`. The same masks give the same bytes.

    Raises StoreError when the store has no images, CourseError when `out` has another ending, an id comes twice or
    the disk is full.
    """
    out = Path(out)
    if not out.name.endswith(".tar.gz"):
        raise CourseError(f"{out}: expected a file name that ends in .tar.gz, such as test.lmdb.tar.gz")
    masks, _ = predict_masks(model, store.require("images").images, progress=True)
    names = [image_key(img_path(store.path.name, row)) for row in store.index.to_dict("records")]
    with atomic_write(out) as temporary, tempfile.TemporaryDirectory(dir=out.parent, prefix=".submission-") as work:
        folder = Path(work) / "test.lmdb"
        write_lmdb(folder, _predictions(names, masks), len(HANDS) * len(names))
        save_pt(folder / "im_path.pt", [f"{name}.jpg" for name in names])
        pack(folder, temporary)
    return len(names)


def _predictions(names: list[str], masks: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """Entries of a submission from masks uint8 [n, 2, H, W]."""
    size = masks.shape[-1]
    at = np.floor((np.arange(SUBMISSION_SIZE) + 0.5) / SUBMISSION_SIZE * size).astype(int)
    for name, pair in zip(names, masks, strict=True):
        for key, mask in zip(mask_keys(name), pair, strict=True):
            yield key, encode_png(mask[at][:, at])


def pack(folder: Path, archive: Path) -> None:
    """Write a folder as `.tar.gz` under its own name; the same content gives the same bytes."""
    with (
        open(archive, "wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path in (folder, *sorted(folder.iterdir())):
            member = tarfile.TarInfo(path.relative_to(folder.parent).as_posix())
            member.type, member.mode = (tarfile.DIRTYPE, 0o755) if path.is_dir() else (tarfile.REGTYPE, 0o644)
            member.size = 0 if path.is_dir() else path.stat().st_size
            with contextlib.nullcontext() if path.is_dir() else open(path, "rb") as content:
                tar.addfile(member, content)
