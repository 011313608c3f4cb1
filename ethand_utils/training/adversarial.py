"""Adversarial training: D against the ground truth, and its term in the loss of G2 (report, section 2.4)."""

import torch
from fastai.callback.core import Callback
from torch import nn

from ethand_utils.training.callbacks import epoch_means, forward_bf16, require_finite, weights_digest
from ethand_utils.training.distributed import parallel
from ethand_utils.training.losses import (
    ADVERSARIAL_SHARE,
    SEGMENTATION_SHARE,
    adversarial_loss,
    discriminator_loss,
    prediction_maps,
    target_maps,
)

SATURATED, GUESSING = 0.1, 1.3  # values of L_D; a guessing D has 2 log 2 = 1.39


class Adversarial(Callback):
    """Training on pairs against a frozen D: loss = 0.9 L_segm + 0.1 BCE(D(prediction), 1), with its gradient to G2.

    `adversarial_input` is what D gets of the prediction, as in `losses.prediction_maps`; with `argmax` no gradient
    comes back, and the term does no more than scale L_segm. D is in evaluation mode: its output for a mask does not
    depend on the other masks of the batch, and its running statistics stay as they are. Batches of half the size have
    L_segm alone: D has never seen hands of that size.
    """

    def __init__(self, discriminator: nn.Module, adversarial_input: str = "softmax"):
        self.discriminator = discriminator.eval().requires_grad_(False)
        self.adversarial_input = adversarial_input
        self.description = f"{type(self).__name__}({adversarial_input}, {weights_digest(discriminator)})"

    def before_train(self):
        self.terms = {"adversarial_loss": []}

    def after_loss(self):
        if self.training and not self.at_half_size:
            on_fake = forward_bf16(self.discriminator, prediction_maps(self.pred, self.adversarial_input))
            term = adversarial_loss(on_fake)
            total = SEGMENTATION_SHARE * self.loss_grad + ADVERSARIAL_SHARE * term
            self.learn.loss_grad, self.learn.loss = total, total.detach().clone()
            self.terms["adversarial_loss"].append(term.detach())

    def scores(self) -> dict[str, float]:
        """Return means over the epoch, for `history.csv`; none of an epoch at half the size."""
        return epoch_means(self.terms)


class Alternating(Adversarial):
    """Adversarial training in which D learns too: after each step of G2, one of D's own Adam (rate `lr`).

    D's step is on the same batch, in training mode, with predictions and ground truth as one batch, as when it was
    first trained, so that its running statistics stay those of both. Its state is saved and resumed with the training.
    """

    def __init__(self, discriminator: nn.Module, adversarial_input: str = "softmax", lr: float = 1.5e-4):
        super().__init__(discriminator, adversarial_input)
        self.opt_d = torch.optim.Adam(discriminator.parameters(), lr, fused=True)
        self.parallel_d = None  # D in its own step; created once the processes of the training exist
        self.description += f" lr {lr}"

    def before_fit(self):
        if self.parallel_d is None:
            self.parallel_d = parallel(self.discriminator.requires_grad_(True))
            self.discriminator.requires_grad_(False)

    def before_train(self):
        super().before_train()
        self.terms["d_loss"] = []

    def after_step(self):
        if self.at_half_size:
            return
        fake = prediction_maps(self.pred.detach(), self.adversarial_input)
        maps = torch.cat([fake, target_maps(self.yb[0], self.adversarial_input)])
        self.parallel_d.train().requires_grad_(True)
        loss = discriminator_loss(*forward_bf16(self.parallel_d, maps).chunk(2))
        require_finite(loss, "loss of D", self)
        self.opt_d.zero_grad()
        loss.backward()
        self.opt_d.step()
        self.discriminator.eval().requires_grad_(False)
        self.terms["d_loss"].append(loss.detach())

    def state_dict(self) -> dict:
        """Return what an interrupted training needs to resume."""
        return {"model": self.discriminator.state_dict(), "opt": self.opt_d.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Load what `state_dict` returned."""
        self.discriminator.load_state_dict(state["model"])
        self.discriminator.eval().requires_grad_(False)  # an interruption may come within D's step
        self.opt_d.load_state_dict(state["opt"])


def adversarial_text(segmentation: str) -> str:
    """Return the formula of the loss with the adversarial term, from that of the segmentation loss."""
    return f"{SEGMENTATION_SHARE} ({segmentation}) + {ADVERSARIAL_SHARE} BCE(D(prediction), 1)"


class AgainstTruth(Callback):
    """Turns (images, masks) into D's batch: G1's predictions of the images, then the ground truth, both as D's maps."""

    order = 10

    def __init__(self, g1: nn.Module, adversarial_input: str = "softmax"):
        self.g1 = g1.eval().requires_grad_(False)
        self.adversarial_input = adversarial_input
        self.description = f"AgainstTruth({adversarial_input}, {weights_digest(g1)})"

    @torch.no_grad()
    def before_batch(self):
        fake = prediction_maps(self.g1(self.xb[0]).float(), self.adversarial_input)
        self.learn.xb = (torch.cat([fake, target_maps(self.yb[0], self.adversarial_input)]),)


class DiscriminatorLoss(nn.Module):
    """L_D of a batch of AgainstTruth: predictions in its first half, ground truth in its second."""

    def forward(self, outputs: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Compute the scalar loss; `masks` are in the batch already."""
        return discriminator_loss(*outputs.chunk(2))


def discriminator_accuracy(outputs: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Compute the share of D's outputs (logits) that are right, over predictions and ground truth."""
    fake, real = outputs.chunk(2)
    return torch.cat([fake < 0, real >= 0]).float().mean()


def discriminator_state(loss: float) -> str:
    """Return what L_D says of D: saturated (near 0), guessing (near 0.69 a term), or neither."""
    if loss < SATURATED:
        return "is saturated: its gradient carries little information; lower lr_d or d_epochs"
    if loss > GUESSING:
        return "guesses; raise lr_d or d_epochs"
    return "is in the useful range"
