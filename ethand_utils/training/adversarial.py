"""Adversarial training: D against the ground truth, and its term in the loss of G2."""

import torch
from fastai.callback.core import Callback
from torch import nn

from ethand_utils.training.callbacks import require_finite, weights_digest
from ethand_utils.training.distributed import parallel
from ethand_utils.training.losses import (
    ADVERSARIAL_SHARE,
    SEGMENTATION_SHARE,
    adversarial_loss,
    discriminator_loss,
    prediction_maps,
    target_maps,
)

D_WON, D_GUESSES = 0.1, 1.3  # of L_D; guessing gives 2 log 2 = 1.39


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
        maps = torch.cat([prediction_maps(self.pred.detach(), seen), target_maps(self.yb[0], seen)])
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
        self.learn.xb = (torch.cat([fake, target_maps(self.yb[0], self.adversarial_input)]),)


class DiscriminatorLoss(nn.Module):
    """L_D of a batch made by AgainstTruth: predictions in its first half, truth in its second."""

    def forward(self, judged: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Scalar loss; `masks` have done their part in the batch."""
        return discriminator_loss(*judged.chunk(2))


def discriminator_accuracy(judged: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Share of D's verdicts that are right, predictions and truth alike."""
    fake, real = judged.chunk(2)
    return torch.cat([fake < 0, real >= 0]).float().mean()


def discriminator_state(loss: float) -> str:
    """What L_D says of D: that it has won (near 0), says next to nothing (near 0.69 a term), or neither."""
    if loss < D_WON:
        return "has won: its gradient teaches little; lower lr_d or d_epochs"
    if loss > D_GUESSES:
        return "says next to nothing; raise lr_d or d_epochs"
    return "is in the useful range"
