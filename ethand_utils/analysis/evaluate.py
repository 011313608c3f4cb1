"""Evaluation of trained nets: scores on stores and on real frames, submissions to the course."""

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
from torch import nn
from tqdm.auto import tqdm

from ethand_utils.analysis.confusion import sparse_counts
from ethand_utils.analysis.prediction_files import claim_predictions
from ethand_utils.analysis.predictions import write_counts
from ethand_utils.data.crops import crop_square
from ethand_utils.data.store import HOW_TO_MEND, Store, StoreError
from ethand_utils.data.store_builder import StorePlan, build_store
from ethand_utils.files import atomic_write
from ethand_utils.labels import FRONT_RIGHT, HANDS, N_CLASSES, PARTS, slug
from ethand_utils.outputs import claim_file, relative_path
from ethand_utils.sources.course_export import SUBMISSION_SIZE, img_path
from ethand_utils.sources.course_io import encode_png, image_key, mask_keys, save_pt, write_lmdb
from ethand_utils.sources.interhand_frames import Frame, frame_crops
from ethand_utils.training.inference import PLAIN, Inference, Predicted, predict, predict_masks
from ethand_utils.training.metrics import joint_scores, nanmean, order_accuracy, parts_at, score

# Crops by which a frame is scored: the course's one shifted by (x, y) of its side, and a factor on the side.
JITTER = ((0, 0, 1), (0.03, 0, 1), (-0.03, 0, 1), (0, 0.03, 1), (0, -0.03, 1), (0, 0, 0.94), (0, 0, 1.06))


def evaluate_store(
    model: nn.Module,
    store: Store,
    out: str | Path | None = None,
    how: Inference = PLAIN,
    weights: str | Path | None = None,
) -> dict:
    """Compute all scores of a net on a store with ground truth: `metrics.summary`, and where they come from.

    That is `images_per_s`, `scored_on` (the store's name) and `scored_samples`. Of a net that says which hand is in
    front there is `order_accuracy` too.

    With `out`, the predictions are written there as a store of masks and confidence, with `metrics.parquet`, the scores
    of every sample, and `confusion.npz`, its confusion counts, beside them. Older predictions there are replaced when
    they are of the same store by a net of the same file `weights`. Raises OutputError for
    anything else there (`claim_predictions`), StoreError for masks with ids that no part has.
    """
    store.require("images", "masks")
    if out is not None:
        out = claim_predictions(out, store, weights)
    _require_ids(store)
    began = time.time()
    predicted = predict(model, store.images, how, progress=True)
    masks = predicted.masks
    speed = len(store) / max(time.time() - began, 1e-9)
    truth, front = np.asarray(store.masks), None if store.front is None else np.asarray(store.front)
    order = {}
    if front is not None and predicted.front is not None:
        order = {"order_accuracy": order_accuracy(predicted.front, truth, front)}
    scores = score(masks, truth, front)
    if out is not None:
        _write_predictions(out, store, predicted, scores.of_samples() | order, weights)
        write_counts(out, sparse_counts(masks, truth, scores.counts))
    origin = {"images_per_s": speed, "scored_on": store.path.name, "scored_samples": len(store)}
    order = {name: nanmean(values) for name, values in order.items()}
    return scores.summary() | order | origin


def _require_ids(store: Store) -> None:
    """Raise StoreError when a store's ground truth has ids that no part has, as a damaged one may."""
    for name, highest in (("masks", N_CLASSES - 1), ("front", FRONT_RIGHT)):
        array = getattr(store, name)
        largest = 0 if array is None else int(array.max(initial=0))
        if largest > highest:
            raise StoreError(
                f"{store.path}/{name}.npy: has the value {largest}, expected 0 to {highest}; {HOW_TO_MEND}"
            )


def _write_predictions(out: Path, store: Store, predicted: Predicted, scores: dict, weights: str | Path | None) -> None:
    rows, masks = store.index.to_dict("records"), predicted.masks
    arrays = {"masks": masks, "front": predicted.front, "confidence": predicted.confidence}
    arrays = {name: values for name, values in arrays.items() if values is not None}
    # With the digest, an interrupted build of another net's predictions is not continued here.
    digest = hashlib.sha256(masks.tobytes()).hexdigest()
    meta = {"source": "predictions", "data": str(store.meta.get("split", store.path.name)), "masks_sha256": digest}
    meta["data_path"] = relative_path(store.path, out)
    if weights is not None:
        meta["weights"] = relative_path(weights, out)

    def sample(i: int) -> dict:
        return {name: values[i] for name, values in arrays.items()} | {"row": rows[i]}

    build_store(out, StorePlan(sample, len(store), store.size, tuple(arrays), meta), replace=True)
    table = pd.DataFrame({"id": store.index["id"], "confidence": predicted.confidence, **scores})
    with atomic_write(out / "metrics.parquet") as temporary:
        table.to_parquet(temporary, index=False)


def overall_scores(scores: dict) -> pd.Series:
    """Return the scores of `evaluate_store` but for those of single parts, rounded for display."""
    overall = {name: value for name, value in scores.items() if not name.startswith("part_iou_")}
    return pd.Series({k: round(v, 4) if isinstance(v, float) else v for k, v in overall.items()}, dtype=object)


def part_scores(scores: dict) -> np.ndarray:
    """Return the IoU float [17] of every part from the scores of `evaluate_store`; NaN for background."""
    return np.array([np.nan, *(scores[f"part_iou_{slug(part)}"] for part in PARTS[1:])])


def score_frames(
    model: nn.Module,
    frames: list[Frame],
    size: int,
    jitter: tuple[tuple[float, float, float], ...] = JITTER,
    how: Inference = PLAIN,
) -> tuple[dict[str, float], pd.DataFrame]:
    """Compute `metrics.joint_scores` of a net on frames without masks: over all their joints, and a row a frame.

    The net sees every frame in each crop of `jitter` (shift x, shift y, factor on the side) at `size` px, plain and
    mirrored, which makes the score of a few frames less noisy. Raises ImageError when an image cannot be read or
    cropped.
    """
    parts, valid, rows = [], [], []
    for frame in tqdm(frames, desc="score", unit="frame"):
        parts.append(_parts_at_joints(model, frame, size, jitter, how))
        valid.append(np.broadcast_to(frame.valid, parts[-1].shape))
        row = {"frame": frame.name, "hand_type": frame.hand_type, "joints": int(frame.valid.sum())}
        rows.append(row | joint_scores(parts[-1], valid[-1]))
    return joint_scores(np.concatenate(parts), np.concatenate(valid)), pd.DataFrame(rows)


def _parts_at_joints(model: nn.Module, frame: Frame, size: int, jitter, how: Inference) -> np.ndarray:
    """Predict the parts [2 · crops, 2, 21] at a frame's joints in its crops, plain ones and then mirrored ones."""
    left, top, side = crop_square(frame.bbox)
    squares = [
        (left + side * (dx + (1 - zoom) / 2), top + side * (dy + (1 - zoom) / 2), side * zoom)
        for dx, dy, zoom in jitter
    ]
    crops = frame_crops(frame, squares, size)
    plain, mirrored = predict(model, crops, how).masks, predict(model, crops[:, :, ::-1], how).masks
    joints = np.stack([(frame.joints - (x, y)) * (size / width) for x, y, width in squares])
    # A mirrored left hand is a right one: mirrored back, the two hands exchange their masks.
    return parts_at(np.concatenate([plain, mirrored[:, ::-1, :, ::-1]]), np.concatenate([joints, joints]))


def submit(model: nn.Module, store: Store, out: str | Path, how: Inference = PLAIN) -> int:
    """Predict a store, pack the masks as the course's server takes them, and return the number of images.

    `out` is a `.tar.gz` of the folder `test.lmdb`: an LMDB of PNGs under `<name>__l` and `<name>__r`, one channel,
    128×128 (another size is resized, nearest neighbour), ids 0…16 for both hands, and in it `im_path.pt`, the list of
    `<name>.jpg`; a name is the image's path after `images/`. The same masks give the same bytes.

    Raises StoreError when the store has no images, OutputError when `out` has another ending or something lies there,
    CourseError when an id comes twice or the disk is full.
    """
    store.require("images")
    out = claim_file(out, (store.path,), (".tar.gz",))
    masks, _ = predict_masks(model, store.images, progress=True, how=how)
    names = [image_key(img_path(store.path.name, row)) for row in store.index.to_dict("records")]
    with atomic_write(out) as temporary, tempfile.TemporaryDirectory(dir=out.parent, prefix=".submission-") as work:
        folder = Path(work) / "test.lmdb"
        write_lmdb(folder, _predictions(names, masks), len(HANDS) * len(names))
        save_pt(folder / "im_path.pt", [f"{name}.jpg" for name in names])
        pack(folder, temporary)
    return len(names)


def _predictions(names: list[str], masks: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """Yield the entries of a submission, (key, PNG), from masks uint8 [n, 2, H, W]."""
    size = masks.shape[-1]
    pixels = np.floor((np.arange(SUBMISSION_SIZE) + 0.5) / SUBMISSION_SIZE * size).astype(int)
    for name, pair in zip(names, masks, strict=True):
        for key, mask in zip(mask_keys(name), pair, strict=True):
            yield key, encode_png(mask[pixels][:, pixels])


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
