"""What makes a training special, each a few lines: precision, the pseudo-label filter, D, the score."""

import contextlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner, Metric
from torch import nn

from ethand_utils import EthandError
from ethand_utils.losses import (
    ADVERSARIAL_SHARE,
    SEGMENTATION_SHARE,
    adversarial_loss,
    discriminator_loss,
    one_hot_maps,
    per_hand,
    prediction_maps,
)
from ethand_utils.metrics import confusion, hand_miou, nanmean

KEPT_SHARE = 0.5  # of an unpaired batch, the more confident (report, section 2.4)


class TrainingError(EthandError):
    """A training that cannot go on."""


@cache
def bfloat16_pays(device: torch.device) -> bool:
    """Whether the device has bfloat16 units: a recent GPU, or a CPU with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text() if cpu.exists() else ""
    return "amx_bf16" in flags or "avx512_bf16" in flags


@contextlib.contextmanager
def fast_forward(model: nn.Module) -> Iterator[None]:
    """While this lasts, the net runs in bfloat16 autocast where that pays and gives float32 logits.

    On a CPU its images are laid out channels-last, as `place` has put the net.
    """
    device, plain = next(model.parameters()).device, model.forward
    layout = torch.channels_last if device.type == "cpu" else torch.preserve_format

    def forward(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16_pays(device)):
            return plain(images.to(memory_format=layout)).float()

    model.forward = forward
    try:
        yield
    finally:
        del model.forward


class FiniteLoss(Callback):
    """Stops a training whose loss is NaN or infinite."""

    def after_loss(self):
        if self.training and not torch.isfinite(self.loss):
            raise TrainingError(
                f"the loss is {self.loss.item()} in batch {self.iter} of epoch {self.epoch + 1}; "
                "lower the learning rate"
            )


class KeepConfident(Callback):
    """Drops the less confident half of an unpaired batch (images, pseudo-labels, confidence) before the net sees it."""

    order = 10

    def before_batch(self):
        if self.training:
            masks, confidence = self.yb
            kept = confidence.topk(kept_number(len(confidence))).indices.sort().values
            self.learn.xb, self.learn.yb = (self.xb[0][kept],), (masks[kept],)


class Adversarial(Callback):
    """Paired training against D: loss = 0.9 L_segm + 0.1 BCE(D(prediction), 1), with its gradient to G2.

    `adversarial_input` says what D sees of the prediction, as in `losses.prediction_maps`.
    """

    def __init__(self, discriminator: nn.Module, adversarial_input: str = "softmax"):
        self.discriminator = discriminator.eval().requires_grad_(False)
        self.adversarial_input = adversarial_input

    def after_loss(self):
        if self.training:
            judged = self.discriminator(prediction_maps(self.pred, self.adversarial_input))
            total = SEGMENTATION_SHARE * self.loss_grad + ADVERSARIAL_SHARE * adversarial_loss(judged)
            self.learn.loss_grad, self.learn.loss = total, total.detach().clone()


class AgainstTruth(Callback):
    """Turns (images, masks) into D's batch: G1's predictions of the images, then the masks' one-hot maps."""

    order = 10

    def __init__(self, g1: nn.Module, adversarial_input: str = "softmax"):
        self.g1 = g1.eval().requires_grad_(False)
        self.adversarial_input = adversarial_input

    @torch.no_grad()
    def before_batch(self):
        fake = prediction_maps(self.g1(self.xb[0]).float(), self.adversarial_input)
        self.learn.xb = (torch.cat([fake, one_hot_maps(self.yb[0])]),)


class DiscriminatorLoss(nn.Module):
    """L_D of a batch made by AgainstTruth: predictions in its first half, truth in its second."""

    def forward(self, judged: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Scalar loss; `masks` have done their part in the batch."""
        return discriminator_loss(*judged.chunk(2))


def discriminator_accuracy(judged: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Share of D's verdicts that are right, predictions and truth alike."""
    fake, real = judged.chunk(2)
    return torch.cat([fake < 0, real >= 0]).float().mean()


class CourseMIoU(Metric):
    """The course's mIoU over the validation set, as a fastai metric."""

    name = "course_miou"

    def reset(self):
        """Start a new pass."""
        self.scores = []

    def accumulate(self, learn: Learner):
        """Add a batch."""
        predicted = per_hand(learn.pred).argmax(2).cpu().numpy()
        self.scores.append(hand_miou(confusion(predicted, learn.y.cpu().numpy()), predicted.shape[-1]))

    @property
    def value(self) -> float:
        """nan-mean over all hands so far."""
        return nanmean(np.concatenate(self.scores)) if self.scores else float("nan")


def kept_number(bs: int) -> int:
    """Samples of an unpaired batch of `bs` that survive the filter."""
    return max(1, round(bs * KEPT_SHARE))
