"""fastai callbacks and metrics that every training shares: mixed precision, finite losses, validation mIoU."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner, Metric
from fastai.torch_core import to_float
from torch import nn

from ethand_utils.data.augment import half_size_images, half_size_masks
from ethand_utils.exceptions import EthandError
from ethand_utils.training.losses import per_hand
from ethand_utils.training.metrics import confusion, hand_miou, nanmean


class TrainingError(EthandError):
    """A training that cannot go on."""


@contextlib.contextmanager
def autocast_bf16(model: nn.Module) -> Iterator[None]:
    """Run the net in bfloat16 autocast inside the context, where the device has it; its outputs are float32.

    On a CPU its images are converted to channels-last, the layout of `learner.to_device`.
    """
    model.forward = partial(forward_bf16, model.forward)
    try:
        yield
    finally:
        del model.forward


def forward_bf16(net: Callable, *inputs: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
    """Compute a net's outputs float32 as in `autocast_bf16`."""
    device = inputs[0].device
    layout = torch.channels_last if device.type == "cpu" else torch.preserve_format
    with torch.autocast(device.type, torch.bfloat16, enabled=has_native_bf16(device)):
        return to_float(net(*(values.to(memory_format=layout) for values in inputs)))


@cache
def has_native_bf16(device: torch.device) -> bool:
    """Return whether the device has bfloat16 units: a recent GPU, or a CPU with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text() if cpu.exists() else ""
    return "amx_bf16" in flags or "avx512_bf16" in flags


class FiniteLoss(Callback):
    """Stops a training before a step whose loss is NaN or infinite, and after an epoch whose weights are.

    Both come before the epoch's checkpoint is written, so that the one of the last good epoch stays.
    """

    order = 60  # after the terms that methods add to the loss

    def after_loss(self):
        if self.training:
            require_finite(self.loss, "loss", self)

    def after_epoch(self):
        if not all(torch.isfinite(p).all() for p in self.learn.model.parameters()):
            raise TrainingError("its last step left weights that are not finite; lower the learning rate")


def require_finite(loss: torch.Tensor, name: str, callback: Callback) -> None:
    """Raise TrainingError, naming the current batch of `callback`, when a loss is NaN or infinite."""
    if not torch.isfinite(loss):
        raise TrainingError(f"the {name} is {loss.item()} in batch {callback.iter}; lower the learning rate")


class HalfSize(Callback):
    """Trains on images and masks of half the size during the first `share` of a training, over all its phases.

    A step at half the size costs about a quarter and teaches the net where hands are; details come with the full size,
    at which every validation is. `learn.half_size` tells other callbacks the size of the current batch.
    """

    order = 20  # after what labels or filters an unpaired batch

    def __init__(self, share: float, checkpointer: Callback):
        self.share, self.checkpointer = share, checkpointer

    def before_batch(self):
        self.learn.half_size = bool(self.training and self.checkpointer.progress < self.share)
        if self.half_size:
            self.learn.xb, self.learn.yb = (half_size_images(self.xb[0]),), tuple(map(_halved, self.yb))


def _halved(values: torch.Tensor) -> torch.Tensor:
    """Return masks, the hand in front, or views of images at half the size."""
    return half_size_images(values) if values.is_floating_point() else half_size_masks(values)


class CourseMIoU(Metric):
    """The course's mIoU over the validation set, as a fastai metric."""

    name = "course_miou"

    def reset(self):
        """Start a new pass."""
        self.scores = []

    def accumulate(self, learn: Learner):
        """Add a batch."""
        predicted = per_hand(learn.pred).argmax(2).cpu().numpy()
        self.scores.append(hand_miou(confusion(predicted, learn.yb[0].cpu().numpy()), predicted.shape[-1]))

    @property
    def value(self) -> float:
        """nan-mean over all hands so far."""
        return nanmean(np.concatenate(self.scores)) if self.scores else float("nan")


def epoch_means(terms: dict[str, list[torch.Tensor]]) -> dict[str, float]:
    """Return the mean of each term's numbers, one a batch; none of a term without any."""
    return {name: float(torch.stack(values).mean()) for name, values in terms.items() if values}


def weights_digest(model: nn.Module) -> str:
    """Return twelve hexadecimal digits that change with any of a net's weights."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
