"""Inference: masks of images, and export of a net."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from ethand_utils.data.augment import normalise
from ethand_utils.exceptions import EthandError
from ethand_utils.files import atomic_write
from ethand_utils.training.losses import per_hand
from ethand_utils.training.pseudo_labels import foreground_prob


@torch.inference_mode()
def predict_masks(
    model: nn.Module, images: np.ndarray, bs: int = 64, progress: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Predict masks uint8 [n, 2, H, W] and `foreground_prob` float32 [n] of images uint8 RGB [n, H, W, 3]."""
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
