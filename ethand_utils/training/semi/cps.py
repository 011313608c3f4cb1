"""Cross pseudo supervision (Chen et al. 2021) with CutMix, as TorchSemiSeg has it."""

import copy

import torch
from torch import nn

from ethand_utils.training.callbacks import autocast_bf16, weights_digest
from ethand_utils.training.distributed import parallel
from ethand_utils.training.joint import JointTraining, SemiSettings, mix
from ethand_utils.training.losses import cross_entropy, per_hand


class CrossPseudoSupervision(JointTraining):
    """Two nets with decoders of their own; each learns the labels that the other gives to mixed images.

    Labels are those of whole images, in training mode, mixed as the images are. Where the source differs: its boxes are
    three, of a quarter to a half of the image in all (here FixMatch's), and its nets see pairs and unlabelled images as
    batches of their own (here as one). The first net is scored.
    """

    views, formula, scored = 0, "L + L of net 2 + w CE of each other's labels", "student"

    def __init__(self, model: nn.Module, settings: SemiSettings):
        super().__init__(model, settings)
        self.second = with_new_decoder(model)
        self.second_opt = torch.optim.Adam(self.second.parameters(), fused=True)
        self.parallel_second = None  # `second`, for several processes; made in `before_fit`, in the one that trains

    @property
    def nets(self) -> dict[str, nn.Module]:
        """Both nets."""
        return {"student": self.student, "second": self.second}

    def before_fit(self):
        self.parallel_second = parallel(self.second)

    def student_images(self, images: torch.Tensor, weak: torch.Tensor) -> torch.Tensor:
        """Return labelled images and mixed unlabelled ones, and keep the labels of both nets."""
        boxes = self.draw_boxes(weak)
        with torch.no_grad():
            logits = self.model(weak), self.second_logits(weak)
        self.labels, self.labels_of_second = (mix(per_hand(values).argmax(2), boxes) for values in logits)
        return torch.cat([images, mix(weak, boxes)])

    def second_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return the second net's logits float [B, 34, H, W]."""
        with autocast_bf16(self.second):
            return self.parallel_second.train()(images)

    def unlabelled_loss(self) -> torch.Tensor:
        """Compute cross-entropy of each net's predictions and the other's labels."""
        self.second_pred, count = self.second_logits(self.xb[0]), len(self.yb[0])
        own = cross_entropy(self.unlabelled, self.labels_of_second, self.loss_func.weights)
        return own + cross_entropy(self.second_pred[count:], self.labels, self.loss_func.weights)

    def combined_loss(self, labelled: torch.Tensor, unlabelled: torch.Tensor) -> torch.Tensor:
        """Return the sum of both nets' losses on pairs and that on unlabelled images."""
        return labelled + self.loss_func(self.second_pred[: len(self.yb[0])], *self.yb) + unlabelled

    def after_step(self):
        self.second_opt.param_groups[0]["lr"] = self.opt.hypers[-1]["lr"]
        self.second_opt.step()
        self.second_opt.zero_grad()

    def state_dict(self) -> dict:
        """Return what an interrupted training needs to resume."""
        return {"second": self.second.state_dict(), "opt": self.second_opt.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Load what `state_dict` returned."""
        self.second.load_state_dict(state["second"])
        self.second_opt.load_state_dict(state["opt"])
        self.second_opt.zero_grad()


def with_new_decoder(model: nn.Module) -> nn.Module:
    """Return a copy of a net whose weights outside its encoder are initialised anew, by a seed from its weights."""
    second = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(weights_digest(model), 16))
        for name, layer in second.named_modules():
            if not name.startswith("encoder") and hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    return second


METHOD = CrossPseudoSupervision
