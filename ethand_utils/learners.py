"""fastai Learners for every training of the report; each idea is one small callback."""

import math
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner, Metric
from fastai.optimizer import OptimWrapper
from torch import nn

from ethand_utils import EthandError
from ethand_utils.files import atomic_write
from ethand_utils.losses import (
    ADVERSARIAL_SHARE,
    SEGMENTATION_SHARE,
    adversarial_loss,
    discriminator_loss,
    one_hot_maps,
    per_hand,
    probability_maps,
)
from ethand_utils.metrics import confusion, hand_miou, nanmean
from ethand_utils.models import save_weights

KEPT_SHARE = 0.5  # of an unpaired batch, the more confident (report, section 2.4)


class TrainingError(EthandError):
    """A training that cannot go on."""


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def bfloat16_pays(device: torch.device) -> bool:
    """Whether the device has bfloat16 units: a recent GPU, or a CPU with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text() if cpu.exists() else ""
    return "amx_bf16" in flags or "avx512_bf16" in flags


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """The net on its device, channels-last on a CPU, where convolutions are faster so (slower on GPUs for RegNetY)."""
    layout = torch.channels_last if device.type == "cpu" else torch.contiguous_format
    return model.to(device, memory_format=layout)


@dataclass
class Phase:
    """A part of a training: its data, number of epochs, learning rate, and the callbacks that make its method."""

    name: str
    dls: DataLoaders
    epochs: int
    lr: float
    cbs: tuple[Callback, ...] = ()


def train_phases(
    model: nn.Module,
    loss_func: nn.Module,
    phases: list[Phase],
    folder: str | Path,
    seed: int = 0,
    schedule: str = "constant",
    metrics: tuple[Metric, ...] = (),
) -> Learner:
    """Train `model` through `phases` with one Adam, and return the Learner.

    Writes `history.csv` (a row an epoch) into `folder`, and keeps `state/` there: a training that was interrupted goes
    on after its last complete epoch when called again with the same phases. `schedule` is `constant` (the report) or
    `one_cycle` over all phases together. Raises TrainingError when the loss is not finite.
    """
    progress = Progress(Path(folder), phases, {"net": model.recipe, "seed": seed, "schedule": schedule})
    learn = Learner(
        phases[0].dls,
        model,
        loss_func,
        opt_func=partial(OptimWrapper, opt=torch.optim.Adam, fused=True),
        metrics=list(metrics),
        cbs=[Precision(next(model.parameters()).device), FiniteLoss(), progress],
    )
    learn.create_opt()
    progress.load()
    with learn.no_logging():
        for position, phase in enumerate(phases):
            done = max(progress.done - progress.starts[position], 0)
            if done < phase.epochs:
                learn.dls, progress.phase = phase.dls, phase.name
                learn.fit(phase.epochs - done, cbs=[LearningRate(phase.lr, schedule, progress), *phase.cbs])
    return learn


def finish(learn: Learner, folder: str | Path, **notes) -> None:
    """Write a finished training's `weights.safetensors` with `notes`, and drop the state to resume from."""
    save_weights(learn.model, Path(folder) / "weights.safetensors", **notes)
    shutil.rmtree(Path(folder) / "state", ignore_errors=True)


def images_seen(phases: list[Phase]) -> int:
    """Images that all epochs of a training learn from; of unpaired batches the kept half."""
    total = 0
    for phase in phases:
        loader = phase.dls.train
        filters = any(isinstance(callback, KeepConfident) for callback in phase.cbs)
        total += phase.epochs * len(loader) * (kept_number(loader.bs) if filters else loader.bs)
    return total


def kept_number(bs: int) -> int:
    """Samples of an unpaired batch of `bs` that survive the filter."""
    return max(1, round(bs * KEPT_SHARE))


class Progress(Callback):
    """Counts epochs over all phases, seeds each of them, writes `history.csv` and the state to resume from.

    Sample order, augmentation and dropout depend on the seed and the epoch alone, so that a resumed training sees what
    an uninterrupted one would.
    """

    order = 70  # after fastai's Recorder and every method's callback

    def __init__(self, folder: Path, phases: list[Phase], settings: dict):
        self.folder, self.seed, self.phase = folder, settings["seed"], phases[0].name
        self.total = sum(phase.epochs for phase in phases)
        self.starts = [sum(phase.epochs for phase in phases[:i]) for i in range(len(phases))]
        self.plan = repr([settings, [(phase.name, phase.epochs, phase.lr) for phase in phases]])
        self.label = "/".join(folder.parts[-3:])
        self.rows: list[dict] = []
        self.began = time.time()

    @property
    def done(self) -> int:
        """Complete epochs, over all phases."""
        return len(self.rows)

    @property
    def state_file(self) -> Path:
        """Where the state to resume from is kept."""
        return self.folder / "state" / "last.pt"

    def load(self) -> None:
        """Take up an interrupted training of the same plan; another one's state is left behind."""
        if not self.state_file.exists():
            return
        state = torch.load(self.state_file, map_location="cpu", weights_only=True)
        if state["plan"] == self.plan:
            self.learn.model.load_state_dict(state["model"])
            self.learn.opt.load_state_dict(state["opt"])
            self.rows = state["rows"]
            print(f"{self.label}: goes on after epoch {self.done} of {self.total}", flush=True)

    def before_train(self):
        torch.manual_seed(self.seed * 1_000_003 + self.done)
        self.dls.train.epoch = self.done - 1

    def after_epoch(self):
        names = ["train_loss", "valid_loss", *(metric.name for metric in self.learn.metrics)]
        scores = dict(zip(names, (float(value) for value in self.recorder.final_record), strict=True))
        row = {"epoch": self.done + 1, "phase": self.phase, **scores}
        row |= {"lr": float(self.opt.hypers[-1]["lr"]), "seconds": time.time() - self.began}
        self.rows.append(row)
        self._write()
        left = (time.time() - self.began) / (self.learn.epoch + 1) * (self.total - self.done)
        told = " ".join(f"{name} {value:.3f}" for name, value in scores.items())
        print(f"{self.label} {self.phase} epoch {self.done}/{self.total}: {told}, {left:.0f} s left", flush=True)

    def _write(self) -> None:
        state = {"plan": self.plan, "rows": self.rows}
        state |= {"model": self.learn.model.state_dict(), "opt": self.learn.opt.state_dict()}
        with atomic_write(self.state_file) as temporary:
            torch.save(state, temporary)
        with atomic_write(self.folder / "history.csv") as temporary:
            pd.DataFrame(self.rows).to_csv(temporary, index=False)


class LearningRate(Callback):
    """Sets the rate of every batch: `constant`, or `one_cycle` over the whole training."""

    def __init__(self, lr: float, schedule: str, progress: Progress):
        if schedule not in ("constant", "one_cycle"):
            raise TrainingError(f"lr_schedule {schedule!r}: expected constant or one_cycle")
        self.lr, self.schedule, self.progress = lr, schedule, progress

    def before_batch(self):
        if self.training:
            share = (self.progress.done + self.iter / self.n_iter) / self.progress.total
            self.opt.set_hypers(lr=self.lr * (1 if self.schedule == "constant" else one_cycle(share)))


def one_cycle(share: float, up: float = 0.25, start: float = 0.04) -> float:
    """Factor of the learning rate when `share` of the training is done: from `start` up to 1, then down to about 0."""
    if share < up:
        return start + (1 - start) * (1 - math.cos(math.pi * share / up)) / 2
    return max((1 + math.cos(math.pi * (share - up) / (1 - up))) / 2, 1e-3)


class Precision(Callback):
    """Forward pass in bfloat16 autocast where that pays, channels-last where `place` has put the net so."""

    order = 20  # after callbacks that change the batch

    def __init__(self, device: torch.device):
        self.device, self.enabled = device, bfloat16_pays(device)

    def before_batch(self):
        if self.device.type == "cpu":
            self.learn.xb = tuple(x.contiguous(memory_format=torch.channels_last) for x in self.xb)
        self.context = torch.autocast(self.device.type, torch.bfloat16, enabled=self.enabled)
        self.context.__enter__()

    def after_pred(self):
        self.context.__exit__(None, None, None)
        self.learn.pred = self.pred.float()


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
    """Paired training against D: loss = 0.9 L_segm + 0.1 BCE(D(softmax of the logits), 1), with its gradient to G2."""

    def __init__(self, discriminator: nn.Module):
        self.discriminator = discriminator.eval().requires_grad_(False)

    def after_loss(self):
        if self.training:
            judged = self.discriminator(probability_maps(self.pred))
            total = SEGMENTATION_SHARE * self.loss_grad + ADVERSARIAL_SHARE * adversarial_loss(judged)
            self.learn.loss_grad, self.learn.loss = total, total.detach().clone()


class AgainstTruth(Callback):
    """Turns (images, masks) into D's batch: G1's probability maps of the images, then the masks' one-hot maps."""

    order = 10

    def __init__(self, g1: nn.Module):
        self.g1 = g1.eval().requires_grad_(False)

    @torch.no_grad()
    def before_batch(self):
        fake = probability_maps(self.g1(self.xb[0]).float())
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
