"""CycleGAN's discriminators: what they say to the generators, and how they learn themselves."""

import contextlib

import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from torch import nn

from ethand_utils.training.callbacks import autocast_bf16, require_finite
from ethand_utils.training.cyclegan.variants import GANS
from ethand_utils.training.losses import one_hot_maps

SATURATED, GUESSING = 0.9, 0.55  # shares of right verdicts
PIECES = 20  # of an epoch, of which `Opponents.course` has a mean each


def gan_loss(verdicts: torch.Tensor, real: bool, gan: str = "least_squares") -> torch.Tensor:
    """How far D's verdicts, of any shape, are from calling all real (or all made): scalar.

    `least_squares`: mean square distance to 1 (0), as CycleGAN has it; `bce`: of the verdicts as logits, as the
    report's own D. A D that cannot tell comes to 0.25, or 0.69.
    """
    if gan not in GANS:
        raise ValueError(f"gan {gan!r}: expected one of {', '.join(GANS)}")
    wanted = torch.full_like(verdicts, float(real))
    distance = F.mse_loss if gan == "least_squares" else F.binary_cross_entropy_with_logits
    return distance(verdicts, wanted)


def accuracy(verdicts: torch.Tensor, real: bool, gan: str) -> torch.Tensor:
    """Share of D's verdicts that are nearer to the truth than to its opposite."""
    middle = 0.5 if gan == "least_squares" else 0.0
    return ((verdicts >= middle) == real).float().mean()


def balance(accuracy: float) -> str:
    """What a discriminator's share of right verdicts says of the game: won, lost, or neither."""
    if accuracy > SATURATED:
        return f"tells {accuracy:.0%} apart: it has won, and its verdict teaches little but that"
    if accuracy < GUESSING:
        return f"tells {accuracy:.0%} apart: it guesses, and teaches nothing"
    return f"tells {accuracy:.0%} apart: generator and discriminator are of like strength"


class ReplayBuffer:
    """A pool of `size` things a generator made: half the time D is given a new one, else an older one in exchange.

    So D does not forget what the generator has done before (Shrivastava et al. 2017). Kept in half precision.
    """

    def __init__(self, size: int):
        self.size, self.kept = size, None

    def __call__(self, made: torch.Tensor) -> torch.Tensor:
        """Tensors [B, …] as they are, or from the buffer, where the new ones go then."""
        room = self.size - (0 if self.kept is None else len(self.kept))
        new = made[:room].half()
        if len(new):
            self.kept = new if self.kept is None else torch.cat([self.kept, new])
        given = made.clone()
        for place in range(len(new), len(made)):
            if torch.rand(()) < 0.5:
                older = int(torch.randint(len(self.kept), ()))
                given[place], self.kept[older] = self.kept[older].to(made), made[place].half()
        return given


class CycleGANDiscriminators(Callback):
    """D_X, which tells real images from made ones, and D_Y, the same of masks: a step after each of the generators.

    Their verdicts come to the generators' loss with `weight`. Their rate is the generators' times `rate`; with `buffer`
    they learn from things made earlier, too. Both are in evaluation mode while they judge, as in `Alternating`.
    `course` tells how many of each one's verdicts were right, by `epoch`, a row for each twentieth of one.
    """

    def __init__(self, d_x: nn.Module, d_y: nn.Module, gan: str, weight: float, rate: float = 1.0, buffer: int = 0):
        self.nets, self.gan, self.weight, self.rate = nn.ModuleDict({"d_x": d_x, "d_y": d_y}), gan, weight, rate
        self.nets.eval().requires_grad_(False)
        self.opt_d = torch.optim.Adam(self.nets.parameters(), fused=True)
        self.buffers = {name: ReplayBuffer(buffer) for name in self.nets}
        self.course: list[dict[str, float]] = []
        self.description = f"Opponents({d_x.recipe}, {d_y.recipe}, {gan}, {weight}, {rate}, {buffer})"

    def before_fit(self):
        self.fast = contextlib.ExitStack()
        for net in self.nets.values():
            self.fast.enter_context(autocast_bf16(net))

    def after_fit(self):
        self.fast.close()

    def before_train(self):
        self.terms = {}

    def after_train(self):
        names, epoch = [f"{name}_accuracy" for name in self.nets], round(self.course[-1]["epoch"]) if self.course else 0
        told = torch.stack([torch.stack(self.terms[name]) for name in names])
        pieces = torch.tensor_split(told, min(PIECES, told.shape[1]), dim=1)
        for number, piece in enumerate(pieces, 1):
            means = dict(zip(names, piece.mean(1).tolist(), strict=True))
            self.course.append({"epoch": epoch + number / len(pieces), **means})

    def after_loss(self):
        if not self.training:
            return
        verdicts = {"d_x": self.nets["d_x"](self.pred["images"]), "d_y": self.nets["d_y"](self.pred["maps"])}
        term = sum(gan_loss(said, True, self.gan) for said in verdicts.values())
        total = self.loss_grad + self.weight * term
        self.learn.loss_grad, self.learn.loss = total, total.detach().clone()
        self._note({"adversarial_loss": term.detach()})

    def after_step(self):
        real = {"d_x": self.xb[0], "d_y": one_hot_maps(self.xb[1])}
        made = {"d_x": self.pred["images"].detach(), "d_y": self.pred["maps"].detach()}
        self.nets.train().requires_grad_(True)
        total = 0
        for name, net in self.nets.items():
            shown = self.buffers[name](made[name]) if self.buffers[name].size else made[name]
            on_made, on_real = net(torch.cat([shown, real[name]])).chunk(2)
            loss = (gan_loss(on_made, False, self.gan) + gan_loss(on_real, True, self.gan)) / 2
            require_finite(loss, f"loss of {name}", self)
            share_right = (accuracy(on_made, False, self.gan) + accuracy(on_real, True, self.gan)) / 2
            self._note({f"{name}_loss": loss.detach(), f"{name}_accuracy": share_right})
            total = total + loss
        self.opt_d.param_groups[0]["lr"] = self.rate * self.opt.hypers[-1]["lr"]
        self.opt_d.zero_grad()
        total.backward()
        self.opt_d.step()
        self.nets.eval().requires_grad_(False)

    def _note(self, values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            self.terms.setdefault(name, []).append(value)

    def scores(self) -> dict[str, float]:
        """Means over the epoch, for `history.csv`."""
        return {name: float(torch.stack(values).mean()) for name, values in self.terms.items()}

    def state_dict(self) -> dict:
        """What an interrupted training needs to go on."""
        kept = {name: buffer.kept for name, buffer in self.buffers.items()}
        state = {"nets": self.nets.state_dict(), "opt": self.opt_d.state_dict()}
        return state | {"buffers": kept, "course": self.course}

    def load_state_dict(self, state: dict) -> None:
        """Take up what `state_dict` gave."""
        self.nets.load_state_dict(state["nets"])
        self.opt_d.load_state_dict(state["opt"])
        self.course = state["course"]
        for name, kept in state["buffers"].items():
            self.buffers[name].kept = kept if kept is None else kept.to(next(self.nets.parameters()).device)
