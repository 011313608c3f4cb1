"""What makes a training special, each a few lines: precision, the pseudo-label filter, D, the score."""

import contextlib
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback, CancelBatchException
from fastai.learner import Learner, Metric
from fastai.torch_core import to_float
from torch import nn

from ethand_utils import EthandError
from ethand_utils.distributed import least, parallel
from ethand_utils.losses import (
    ADVERSARIAL_SHARE,
    SEGMENTATION_SHARE,
    adversarial_loss,
    discriminator_loss,
    per_hand,
    prediction_maps,
    truth_maps,
)
from ethand_utils.metrics import confusion, hand_miou, nanmean

KEPT_SHARE = 0.5  # of an unpaired batch, the more confident (report, section 2.4)
LEAST_KEPT = 2  # samples of a batch that batch normalisation can work with
D_WON, D_GUESSES = 0.1, 1.3  # of L_D; guessing gives 2 log 2 = 1.39


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
    """While this lasts, the net runs in bfloat16 autocast where that pays and gives float32, all that it gives.

    On a CPU its images are laid out channels-last, as `place` has put the net.
    """
    device, plain = next(model.parameters()).device, model.forward
    layout = torch.channels_last if device.type == "cpu" else torch.preserve_format

    def forward(*inputs: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16_pays(device)):
            return to_float(plain(*(values.to(memory_format=layout) for values in inputs)))

    model.forward = forward
    try:
        yield
    finally:
        del model.forward


class FiniteLoss(Callback):
    """Stops a training whose loss is NaN or infinite before a step is taken, or whose weights are after an epoch.

    Both come before the epoch's state is written, so that the one of the last good epoch stays.
    """

    order = 60  # after the terms that methods add to the loss

    def after_loss(self):
        if self.training:
            require_finite(self.loss, "loss", self)

    def after_epoch(self):
        if not all(torch.isfinite(p).all() for p in self.learn.model.parameters()):
            raise TrainingError("its last step left weights that are not finite; lower the learning rate")


def require_finite(loss: torch.Tensor, name: str, at: Callback) -> None:
    """Raise TrainingError, naming the batch that callback `at` is in, when a loss is NaN or infinite."""
    if not torch.isfinite(loss):
        raise TrainingError(f"the {name} is {loss.item()} in batch {at.iter}; lower the learning rate")


def weights_digest(model: nn.Module) -> str:
    """Twelve letters that change with any of a net's weights."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


class KeepConfident(Callback):
    """Drops the less confident half of an unpaired batch (images, pseudo-labels, confidence) before the net sees it."""

    order = 10

    def before_batch(self):
        if self.training:
            masks, confidence = self.yb
            kept = confidence.topk(kept_number(len(confidence))).indices.sort().values
            self.learn.xb, self.learn.yb = (self.xb[0][kept],), (masks[kept],)


class KeepAbove(Callback):
    """Drops the samples of an unpaired batch of which G1's confidence is below `threshold`.

    A batch that keeps fewer than two is passed over; an epoch in which all are raises TrainingError.
    """

    order = 10

    def __init__(self, threshold: float):
        self.threshold, self.description = threshold, f"KeepAbove({threshold})"

    def before_train(self):
        self.passed = 0

    def before_batch(self):
        if not self.training:
            return
        masks, confidence = self.yb
        kept = confidence >= self.threshold
        if least(int(kept.sum())) < LEAST_KEPT:
            self.learn.yb = ()  # so that nobody counts the batch
            raise CancelBatchException
        self.passed += 1
        self.learn.xb, self.learn.yb = (self.xb[0][kept],), (masks[kept],)

    def after_train(self):
        if not self.passed:
            raise TrainingError(f"no pseudo-labels with a confidence of {self.threshold:g}; lower pseudo_threshold")


class Adversarial(Callback):
    """Paired training against D: loss = 0.9 L_segm + 0.1 BCE(D(prediction), 1), with its gradient to G2.

    `adversarial_input` says what D sees of the prediction, as in `losses.prediction_maps`; with `argmax` no gradient
    comes back, and the term does no more than scale L_segm. D is in evaluation mode: its verdict on a mask does not
    depend on the other masks of the batch, and its running statistics stay as they are.
    """

    def __init__(self, discriminator: nn.Module, adversarial_input: str = "softmax"):
        self.discriminator = discriminator.eval().requires_grad_(False)
        self.adversarial_input = adversarial_input
        self.description = f"{type(self).__name__}({adversarial_input}, {weights_digest(discriminator)})"

    def before_train(self):
        self.terms = {"adversarial_loss": []}

    def after_loss(self):
        if self.training:
            judged = self.discriminator(prediction_maps(self.pred, self.adversarial_input))
            term = adversarial_loss(judged)
            total = SEGMENTATION_SHARE * self.loss_grad + ADVERSARIAL_SHARE * term
            self.learn.loss_grad, self.learn.loss = total, total.detach().clone()
            self.terms["adversarial_loss"].append(term.detach())

    def scores(self) -> dict[str, float]:
        """Means over the epoch, for `history.csv`."""
        return {name: float(torch.stack(values).mean()) for name, values in self.terms.items()}


class Alternating(Adversarial):
    """Adversarial, with D trained on: after each step of G2, one of D's own Adam (rate `lr`) on the same batch.

    In its step D is in training mode and sees predictions and truth as one batch, as when it was first trained, so
    that its running statistics stay those of both. Its state is saved and resumed with the training's.
    """

    def __init__(self, discriminator: nn.Module, adversarial_input: str = "softmax", lr: float = 1.5e-4):
        super().__init__(discriminator, adversarial_input)
        self.opt_d = torch.optim.Adam(discriminator.parameters(), lr, fused=True)
        self.trained = None  # D as it trains, once the processes of the training are known
        self.description += f" lr {lr}"

    def before_fit(self):
        if self.trained is None:
            self.trained = parallel(self.discriminator.requires_grad_(True))
            self.discriminator.requires_grad_(False)

    def before_train(self):
        super().before_train()
        self.terms["d_loss"] = []

    def after_step(self):
        d, seen = self.trained, self.adversarial_input
        maps = torch.cat([prediction_maps(self.pred.detach(), seen), truth_maps(self.yb[0], seen)])
        d.train().requires_grad_(True)
        loss = discriminator_loss(*d(maps).chunk(2))
        require_finite(loss, "loss of D", self)
        self.opt_d.zero_grad()
        loss.backward()
        self.opt_d.step()
        self.discriminator.eval().requires_grad_(False)
        self.terms["d_loss"].append(loss.detach())

    def state_dict(self) -> dict:
        """What an interrupted training needs to go on."""
        return {"model": self.discriminator.state_dict(), "opt": self.opt_d.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Take up what `state_dict` gave."""
        self.discriminator.load_state_dict(state["model"])
        self.opt_d.load_state_dict(state["opt"])


class AgainstTruth(Callback):
    """Turns (images, masks) into D's batch: G1's predictions of the images, then the truth, both as D sees them."""

    order = 10

    def __init__(self, g1: nn.Module, adversarial_input: str = "softmax"):
        self.g1 = g1.eval().requires_grad_(False)
        self.adversarial_input = adversarial_input
        self.description = f"AgainstTruth({adversarial_input}, {weights_digest(g1)})"

    @torch.no_grad()
    def before_batch(self):
        fake = prediction_maps(self.g1(self.xb[0]).float(), self.adversarial_input)
        self.learn.xb = (torch.cat([fake, truth_maps(self.yb[0], self.adversarial_input)]),)


class DiscriminatorLoss(nn.Module):
    """L_D of a batch made by AgainstTruth: predictions in its first half, truth in its second."""

    def forward(self, judged: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Scalar loss; `masks` have done their part in the batch."""
        return discriminator_loss(*judged.chunk(2))


def discriminator_accuracy(judged: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Share of D's verdicts that are right, predictions and truth alike."""
    fake, real = judged.chunk(2)
    return torch.cat([fake < 0, real >= 0]).float().mean()


def verdict_on(loss: float) -> str:
    """What L_D says of D: that it has won (near 0), says next to nothing (near 0.69 a term), or neither."""
    if loss < D_WON:
        return "has won: its gradient teaches little; lower lr_d or d_epochs"
    if loss > D_GUESSES:
        return "says next to nothing; raise lr_d or d_epochs"
    return "is in the useful range"


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
