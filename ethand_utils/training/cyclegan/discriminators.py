"""CycleGAN's discriminators: their adversarial loss, their own training, the replay buffer."""

import contextlib

import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from torch import nn

from ethand_utils.exceptions import require_known
from ethand_utils.training.callbacks import autocast_bf16, epoch_means, require_finite
from ethand_utils.training.cyclegan.variants import GANS
from ethand_utils.training.losses import one_hot_maps

SATURATED, GUESSING = 0.9, 0.55  # accuracies of a discriminator
PIECES = 20  # of an epoch, with a mean each in `CycleGANDiscriminators.course`


class CycleGANDiscriminators(Callback):
    """D_X, which tells real from generated images, and D_Y, the same for masks: a step after each of the generators.

    Their adversarial loss counts `weight` in the generators' loss. Their learning rate is the generators' times `rate`;
    with a `buffer` above 0 they are also trained on earlier outputs. Both are in evaluation mode in the generators'
    step, as in `Alternating`. `course` has the accuracy of each by `epoch`, a row for each twentieth of one.
    """

    def __init__(self, d_x: nn.Module, d_y: nn.Module, gan: str, weight: float, rate: float = 1.0, buffer: int = 0):
        self.nets, self.gan, self.weight, self.rate = nn.ModuleDict({"d_x": d_x, "d_y": d_y}), gan, weight, rate
        self.nets.eval().requires_grad_(False)
        self.opt_d = torch.optim.Adam(self.nets.parameters(), fused=True)
        self.buffers = {name: ReplayBuffer(buffer) for name in self.nets}
        self.course: list[dict[str, float]] = []
        self.description = f"{type(self).__name__}({d_x.recipe}, {d_y.recipe}, {gan}, {weight}, {rate}, {buffer})"

    def before_fit(self):
        self.autocast = contextlib.ExitStack()
        for net in self.nets.values():
            self.autocast.enter_context(autocast_bf16(net))

    def after_fit(self):
        self.autocast.close()

    def before_train(self):
        self.terms = {}

    def after_train(self):
        names, epoch = [f"{name}_accuracy" for name in self.nets], round(self.course[-1]["epoch"]) if self.course else 0
        accuracies = torch.stack([torch.stack(self.terms[name]) for name in names])
        pieces = torch.tensor_split(accuracies, min(PIECES, accuracies.shape[1]), dim=1)
        for number, piece in enumerate(pieces, 1):
            means = dict(zip(names, piece.mean(1).tolist(), strict=True))
            self.course.append({"epoch": epoch + number / len(pieces), **means})

    def after_loss(self):
        if not self.training:
            return
        outputs = self.nets["d_x"](self.pred["images"]), self.nets["d_y"](self.pred["maps"])
        term = sum(gan_loss(output, True, self.gan) for output in outputs)
        total = self.loss_grad + self.weight * term
        self.learn.loss_grad, self.learn.loss = total, total.detach().clone()
        self._record({"adversarial_loss": term.detach()})

    def after_step(self):
        real = {"d_x": self.xb[0], "d_y": one_hot_maps(self.xb[1])}
        fake = {"d_x": self.pred["images"].detach(), "d_y": self.pred["maps"].detach()}
        self.nets.train().requires_grad_(True)
        total = sum(self._loss(name, fake[name], real[name]) for name in self.nets)
        self.opt_d.param_groups[0]["lr"] = self.rate * self.opt.hypers[-1]["lr"]
        self.opt_d.zero_grad()
        total.backward()
        self.opt_d.step()
        self.nets.eval().requires_grad_(False)

    def _loss(self, name: str, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Compute and record the loss of one discriminator."""
        buffer = self.buffers[name]
        on_fake, on_real = self.nets[name](torch.cat([buffer(fake) if buffer.size else fake, real])).chunk(2)
        loss = (gan_loss(on_fake, False, self.gan) + gan_loss(on_real, True, self.gan)) / 2
        require_finite(loss, f"loss of {name}", self)
        right = (accuracy(on_fake, False, self.gan) + accuracy(on_real, True, self.gan)) / 2
        self._record({f"{name}_loss": loss.detach(), f"{name}_accuracy": right})
        return loss

    def _record(self, values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            self.terms.setdefault(name, []).append(value)

    def scores(self) -> dict[str, float]:
        """Return means over the epoch, for `history.csv`."""
        return epoch_means(self.terms)

    def state_dict(self) -> dict:
        """Return what an interrupted training needs to resume."""
        items = {name: buffer.items for name, buffer in self.buffers.items()}
        state = {"nets": self.nets.state_dict(), "opt": self.opt_d.state_dict()}
        return state | {"buffers": items, "course": self.course}

    def load_state_dict(self, state: dict) -> None:
        """Load what `state_dict` returned."""
        self.nets.load_state_dict(state["nets"])
        self.opt_d.load_state_dict(state["opt"])
        self.course = state["course"]
        for name, items in state["buffers"].items():
            self.buffers[name].items = items if items is None else items.to(next(self.nets.parameters()).device)


class ReplayBuffer:
    """A pool of `size` outputs of a generator: half the time D gets a new one, else an older one in exchange.

    So D does not forget what the generator did before (Shrivastava et al. 2017). Stored in half precision.
    """

    def __init__(self, size: int):
        self.size, self.items = size, None

    def __call__(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return tensors [B, …] as they are, or from the buffer, which then stores the new ones."""
        room = self.size - (0 if self.items is None else len(self.items))
        new = outputs[:room].half()
        if len(new):
            self.items = new if self.items is None else torch.cat([self.items, new])
        batch = outputs.clone()
        for i in range(len(new), len(outputs)):
            if torch.rand(()) < 0.5:
                older = int(torch.randint(len(self.items), ()))
                batch[i], self.items[older] = self.items[older].to(outputs), outputs[i].half()
        return batch


def gan_loss(outputs: torch.Tensor, real: bool, gan: str = "least_squares") -> torch.Tensor:
    """Compute the distance of D's outputs, of any shape, from the target real (or fake): scalar.

    `least_squares`: mean square distance to 1 (0), as CycleGAN has it; `bce`: binary cross-entropy of the outputs as
    logits, as the report's own D. A guessing D has 0.25, or 0.69. Raises EthandError for another `gan`.
    """
    require_known("gan", gan, GANS)
    target = torch.full_like(outputs, float(real))
    distance = F.mse_loss if gan == "least_squares" else F.binary_cross_entropy_with_logits
    return distance(outputs, target)


def accuracy(outputs: torch.Tensor, real: bool, gan: str) -> torch.Tensor:
    """Compute the share of D's outputs that are nearer to the right target than to the other."""
    middle = 0.5 if gan == "least_squares" else 0.0
    return ((outputs >= middle) == real).float().mean()


def balance(accuracy: float) -> str:
    """Return what a discriminator's accuracy says: saturated, guessing, or in balance with its generator."""
    if accuracy > SATURATED:
        return f"tells {accuracy:.0%} apart: it is saturated, and its gradient carries little information"
    if accuracy < GUESSING:
        return f"tells {accuracy:.0%} apart: it guesses, and its gradient carries no information"
    return f"tells {accuracy:.0%} apart: generator and discriminator are of like strength"
