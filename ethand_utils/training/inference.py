"""Inference: masks of images, and export of a net."""

import io
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from ethand_utils.data.augment import normalise
from ethand_utils.exceptions import EthandError
from ethand_utils.files import atomic_write
from ethand_utils.labels import FRONT_LEFT, FRONT_NONE, FRONT_RIGHT, LEFT, N_CLASSES, ORDER_CHANNEL, RIGHT
from ethand_utils.outputs import claim_export
from ethand_utils.training.losses import order, per_hand
from ethand_utils.training.photo_graph import INPUTS, enlargement
from ethand_utils.training.predicted import PLAIN, Inference, Predicted
from ethand_utils.training.presence import absent_hands, hand_presence, without_absent


def predict_masks(
    model: nn.Module, images: np.ndarray, bs: int = 64, progress: bool = False, how: Inference = PLAIN
) -> tuple[np.ndarray, np.ndarray]:
    """Predict masks uint8 [n, 2, H, W] and `foreground_prob` float32 [n] of images uint8 RGB [n, H, W, 3]."""
    predicted = predict(model, images, how, bs=bs, progress=progress)
    return predicted.masks, predicted.confidence


@torch.inference_mode()
def predict(
    model: nn.Module,
    images: np.ndarray,
    how: Inference = PLAIN,
    sides: tuple[int, ...] = (),
    enlarge: int = 1,
    prior: np.ndarray | None = None,
    bs: int = 64,
    progress: bool = False,
) -> Predicted:
    """Predict images uint8 RGB [n, H, W, 3].

    `sides` are the hands (LEFT, RIGHT) that are known to be there: both, or one, where a second may have been missed.
    Masks and front are `enlarge` times as large as the images: probabilities are interpolated, which gives smooth
    borders. `prior` float32 [2, 17, H, W] of that size multiplies them: what is known otherwise of every image's hands.
    """
    model.eval()
    device, size = next(model.parameters()).device, [enlarge * side_px for side_px in images.shape[1:3]]
    there = torch.tensor([side in sides for side in (LEFT, RIGHT)], device=device)
    prior = None if prior is None else torch.from_numpy(prior).to(device)
    starts = tqdm(range(0, len(images), bs), desc="predict", disable=not progress, unit="batch")
    batches = [
        predict_tensors(
            model, torch.from_numpy(np.array(images[start : start + bs])).to(device), how, there, enlarge, prior
        )
        for start in starts
    ]
    batches = [tuple(None if tensor is None else tensor.cpu().numpy() for tensor in batch) for batch in batches]
    if not batches:
        batches = [(np.zeros((0, 2, *size), np.uint8), np.zeros(0, np.float32), np.zeros((0, 2), np.float32), None)]
    *arrays, front = zip(*batches, strict=True)
    return Predicted(*map(np.concatenate, arrays), None if front[0] is None else np.concatenate(front))


@torch.inference_mode()
def label_pixels(model: nn.Module, images: np.ndarray, bs: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Return each hand's likeliest class uint8 and its probability float32, [n, 2, H, W], of images uint8 [n, H, W, 3].

    A teacher's labels and their confidence, as a student gets them.
    """
    model.eval()
    device, batches = next(model.parameters()).device, []
    for start in range(0, len(images), bs):
        batch = normalise(torch.from_numpy(np.array(images[start : start + bs])).to(device))
        probability, labels = _probabilities(model(batch).float())[0].max(2)
        batches.append((labels.byte().cpu().numpy(), probability.cpu().numpy()))
    labels, probability = map(np.concatenate, zip(*batches, strict=True))
    return labels, probability


def predict_tensors(
    model: nn.Module,
    images: torch.Tensor,
    how: Inference,
    sides: torch.Tensor,
    enlarge: int,
    prior: torch.Tensor | None,
) -> tuple[torch.Tensor | None, ...]:
    """Return the arrays of `Predicted` as tensors for a batch of images uint8 [B, H, W, 3].

    `sides` bool [2] says which hands are known to be there.
    """
    batch, size = normalise(images), [enlarge * side for side in images.shape[1:3]]
    if how.size is not None and images.shape[1:3] != (how.size, how.size):
        batch = F.interpolate(batch, (how.size, how.size), mode="bilinear", align_corners=False, antialias=True)
    if batch.device.type == "cpu":
        batch = batch.contiguous(memory_format=torch.channels_last)
    hands, right_in_front = _probabilities(model(batch).float())
    if how.mirrored:
        others, left_in_front = _probabilities(model(batch.flip(3)).float())
        hands = (hands + others.flip(1).flip(4)) / 2  # a mirrored left hand is a right one
        if right_in_front is not None:
            right_in_front = (right_in_front + 1 - left_in_front.flip(2)) / 2
    presence = hand_presence(hands[:, :, 0], hands.argmax(2) > 0)
    hands = without_absent(hands, absent_hands(presence, how.presence, sides))
    if list(hands.shape[3:]) != size:
        hands, right_in_front = _resized(hands, right_in_front, size)
    if prior is not None:
        hands = hands * prior
        hands = hands / hands.sum(2, keepdim=True)
    probability, masks = hands.max(2)
    part = masks > 0
    confidence = (probability * part).sum((1, 2, 3)) / part.sum((1, 2, 3)).clamp(min=1)
    front = None if right_in_front is None else _front(part, right_in_front)
    return masks.to(torch.uint8), confidence, presence, front


class _PhotoNet(nn.Module):
    """A net with all that `predict_tensors` does, as a graph for one photo at a time."""

    def __init__(self, model: nn.Module, how: Inference, enlarge: int):
        super().__init__()
        self.model, self.how, self.enlarge = model, how, enlarge

    def forward(self, images: torch.Tensor, sides: torch.Tensor, prior: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return predict_tensors(self.model, images, self.how, sides, self.enlarge, prior)


def export_photo_graph(model: nn.Module, notes: dict) -> bytes:
    """Return the ONNX of a `PhotoGraph` of a net that says which hand is in front; `notes` are those of `load_net`."""
    size, enlarge = notes["size"], enlargement(notes["size"])
    images, sides = torch.zeros(1, size, size, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.bool)
    prior = torch.ones(2, N_CLASSES, enlarge * size, enlarge * size)
    net, content = _PhotoNet(model.eval(), Inference.of(notes), enlarge).eval(), io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (images, sides, prior), input_names=INPUTS, dynamo=True, verbose=False).save(content)
    return content.getvalue()


def _probabilities(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return class probabilities [B, 2, 17, H, W], and that the right hand is in front [B, H, W] if the net says it."""
    says_order = logits.shape[1] > ORDER_CHANNEL
    return per_hand(logits).softmax(2), order(logits).sigmoid() if says_order else None


def _resized(
    hands: torch.Tensor, right_in_front: torch.Tensor | None, size: list[int]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return `_probabilities` interpolated to another size (height, width)."""
    how = {"size": size, "mode": "bilinear", "align_corners": False, "antialias": size[0] < hands.shape[3]}
    hands = F.interpolate(hands.flatten(1, 2), **how).unflatten(1, hands.shape[1:3])
    return hands, None if right_in_front is None else F.interpolate(right_in_front[:, None], **how)[:, 0]


def _front(part: torch.Tensor, right_in_front: torch.Tensor) -> torch.Tensor:
    """Return `front` uint8 [B, H, W] of the pixels bool [B, 2, H, W] of both hands.

    An arm hides the other hand beyond its own mask too, but not where there is no such arm.
    """
    there = part.flatten(2).any(2)[:, :, None, None]
    both = there.all(1)
    right = (both & (right_in_front > 0.5)) | (~both & there[:, RIGHT])
    front = torch.where(right, FRONT_RIGHT, FRONT_LEFT)
    return torch.where(part.any(1), front, FRONT_NONE).to(torch.uint8)


def export_model(model: nn.Module, size: int, out: str | Path, format: str = "onnx") -> None:
    """Write a net as ONNX (`out` ends in .onnx) or OpenVINO (.xml, weights beside it): [B, 3, size, size] → logits.

    Raises EthandError when the libraries of the extra `export` are not installed, OutputError when `out` has another
    ending or something lies there.
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
    out = claim_export(out, format)
    if format == "openvino":
        converted = openvino.convert_model(model.eval(), example_input=example, input=[-1, 3, size, size])
        _save_openvino(converted, out)
        return
    program = torch.onnx.export(
        model.eval(), (example,), input_names=["images"], output_names=["logits"], dynamo=True, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    with atomic_write(out) as temporary:
        program.save(temporary)


def _save_openvino(converted, out: Path) -> None:
    """Write OpenVINO's two files, the weights first, so that there is never a net without them."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(converted, Path(folder) / out.name)
        for file in (out.with_suffix(".bin"), out):
            with atomic_write(file) as temporary:
                shutil.copyfile(Path(folder) / file.name, temporary)
