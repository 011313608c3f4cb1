"""Batched inference, scores, masks of photos, and export of trained nets."""

import hashlib
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn
from tqdm.auto import tqdm

from ethand_utils import EthandError
from ethand_utils.augment import normalise
from ethand_utils.building import build_store
from ethand_utils.confidence import foreground_prob
from ethand_utils.crops import ImageError, crop_image, crop_square, frame_crops, uncrop_masks
from ethand_utils.errors import sparse_counts
from ethand_utils.files import atomic_write
from ethand_utils.frames import Frame
from ethand_utils.labels import HANDS
from ethand_utils.losses import per_hand
from ethand_utils.metrics import joint_scores, parts_at, sample_scores, summary
from ethand_utils.plots import overlay
from ethand_utils.predictions import path_between, write_counts
from ethand_utils.store import Store

OVERLAY_SIZE = 384  # px of each panel of a photo's overlay
# Crops by which a frame is scored: the course's one shifted by (x, y) of its side, and a factor on the side.
JITTER = ((0, 0, 1), (0.03, 0, 1), (-0.03, 0, 1), (0, 0.03, 1), (0, -0.03, 1), (0, 0, 0.94), (0, 0, 1.06))


@torch.inference_mode()
def predict_masks(
    model: nn.Module, images: np.ndarray, bs: int = 64, progress: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Masks uint8 [n, 2, H, W] and `confidence.foreground_prob` float32 [n] of images uint8 RGB [n, H, W, 3]."""
    model.eval()
    device = next(model.parameters()).device
    masks, confidence = [np.zeros((0, 2, *images.shape[1:3]), np.uint8)], [np.zeros(0, np.float32)]
    for start in tqdm(range(0, len(images), bs), desc="predict", disable=not progress, unit="batch"):
        batch = normalise(torch.from_numpy(np.array(images[start : start + bs])).to(device))
        if device.type == "cpu":
            batch = batch.contiguous(memory_format=torch.channels_last)
        logits = model(batch).float()
        masks.append(per_hand(logits).argmax(2).to(torch.uint8).cpu().numpy())
        confidence.append(foreground_prob(logits).cpu().numpy())
    return np.concatenate(masks), np.concatenate(confidence)


def evaluate(model: nn.Module, store: Store, out: str | Path | None = None) -> dict[str, float]:
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

    build_store(out, sample, len(store), store.size, ("masks", "confidence"), meta, replace=True)
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


def export_model(model: nn.Module, size: int, out: str | Path, format: str = "onnx") -> None:
    """Write a net as ONNX (`out` ends in .onnx) or OpenVINO (.xml, weights beside it): [B, 3, size, size] → logits.

    Raises EthandError when the libraries of the extra `export` are not installed.
    """
    example = torch.zeros(2, 3, size, size)
    try:
        if format == "onnx":
            import onnxscript  # noqa: F401  (torch.onnx needs it)
        else:
            import openvino
    except ImportError as error:
        raise EthandError(
            f"{error.name} is not installed; install the extra: pip install 'ethand_utils[export]'"
        ) from None
    out = Path(out)
    if format == "openvino":
        out.parent.mkdir(parents=True, exist_ok=True)
        openvino.save_model(openvino.convert_model(model.eval(), example_input=example, input=[-1, 3, size, size]), out)
        return
    program = torch.onnx.export(
        model.eval(), (example,), input_names=["images"], output_names=["logits"], dynamo=True, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    with atomic_write(out) as temporary:
        program.save(temporary)
