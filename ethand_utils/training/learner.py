"""Trainings: a fastai Learner through phases, with history, learning rate and the state to resume from."""

import base64
import contextlib
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner, Metric
from fastai.optimizer import OptimWrapper
from IPython import get_ipython
from IPython.display import HTML, display
from matplotlib.figure import Figure
from torch import nn

from ethand_utils.exceptions import EthandError
from ethand_utils.files import atomic_write
from ethand_utils.style import axis_label, in_style
from ethand_utils.training.callbacks import FiniteLoss, TrainingError, autocast_bf16
from ethand_utils.training.distributed import all_reduce_sum, parallel, rank, spawn, world_size
from ethand_utils.training.models import save_weights

LOG_EVERY, SHOW_EVERY = 10.0, 2.0  # seconds between lines of the log, and between pictures of a notebook
POINTS = 100  # of the live curve of the loss, at most
SCORES = ("course_miou", "discriminator_accuracy")  # what a training is watched by


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_device(model: nn.Module, device: torch.device) -> nn.Module:
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

    @property
    def description(self) -> str:
        """What must be the same for an interrupted training to go on."""
        callbacks = [vars(callback).get("description", type(callback).__name__) for callback in self.cbs]
        return repr([self.name, self.epochs, self.lr, callbacks, self.dls.train.description])


def train_phases(
    model: nn.Module,
    loss_func: nn.Module,
    phases: list[Phase],
    folder: str | Path,
    seed: int = 0,
    schedule: str = "constant",
    metrics: tuple[Metric | Callable, ...] = (),
    processes: int = 1,
    tensorboard: bool = False,
) -> Learner:
    """Train `model` through `phases` with one Adam, and return the Learner.

    Writes `history.csv` (a row an epoch) into `folder`, and keeps `state/` there: a training that was interrupted goes
    on after its last complete epoch when called again with the same phases. `schedule` is `constant` (the report) or
    `one_cycle` over all phases together. With several `processes`, on a GPU each, every batch is shared among them and
    the result is that of one but for rounding. How far it is can be followed in `train.log`, in a notebook's view, and
    with `tensorboard` in events below `tensorboard/`. Raises TrainingError when the loss is not finite, FileError when
    the disk is full; the state of the last epoch that ended well stays.
    """
    progress = Checkpointer(Path(folder), model, phases, [loss_func, schedule], seed)
    learn = Learner(
        phases[0].dls,
        parallel(model),
        loss_func,
        opt_func=partial(OptimWrapper, opt=torch.optim.Adam, fused=True),
        metrics=list(metrics),
        cbs=[FiniteLoss(), progress, *progress_callbacks(progress, tensorboard)],
    )
    learn.remove_cb(ProgressCallback)  # a bar that `watching` replaces
    learn.create_opt()
    progress.load()
    if processes > 1 and progress.done < progress.total:
        device = next(model.parameters()).device
        spawn(
            *(train_phases, processes, device),
            *(model, loss_func, phases, folder, seed, schedule, metrics, 1, tensorboard),
        )
        progress.load()
    with learn.no_logging(), autocast_bf16(model):
        for position, phase in enumerate(phases):
            done = max(progress.done - progress.starts[position], 0)
            if done < phase.epochs:
                learn.dls, progress.phase = phase.dls, phase.name
                learn.dls.train.shard(rank(), world_size())
                try:
                    learn.fit(phase.epochs - done, cbs=[LearningRate(phase.lr, schedule, progress), *phase.cbs])
                except EthandError as error:  # fastai puts a line of its own before what a callback raises
                    raise type(error)(f"{progress.at}: {str(error).splitlines()[-1].strip()}") from error
    return learn


def save_final_weights(learn: Learner, folder: str | Path, **notes) -> None:
    """Write a finished training's `weights.safetensors` with `notes`; its state goes when `save_result` has it all."""
    save_weights(learn.model, Path(folder) / "weights.safetensors", **notes)


class Checkpointer(Callback):
    """Counts epochs over all phases, seeds each of them, writes `history.csv` and the state to resume from.

    Sample order, augmentation and dropout depend on the seed and the epoch alone, so that a resumed training sees what
    an uninterrupted one would.
    """

    order = 70  # after fastai's Recorder and every method's callback

    def __init__(self, folder: Path, model: nn.Module, phases: list[Phase], settings: list, seed: int):
        self.folder, self.model, self.seed, self.phase = folder, model, seed, phases[0].name
        self.total = sum(phase.epochs for phase in phases)
        self.batches = [len(phase.dls.train) for phase in phases for _ in range(phase.epochs)]
        self.starts = [sum(phase.epochs for phase in phases[:i]) for i in range(len(phases))]
        self.plan = repr([[model.recipe, *settings], seed, [phase.description for phase in phases]])
        callbacks = {id(callback): callback for phase in phases for callback in phase.cbs}.values()
        self.stateful = [callback for callback in callbacks if hasattr(type(callback), "state_dict")]
        self.label = "/".join(folder.parts[-3:])
        self.rows: list[dict] = []
        self.began = time.time()

    @property
    def done(self) -> int:
        """Complete epochs, over all phases."""
        return len(self.rows)

    @property
    def at(self) -> str:
        """Where the training is, and which state there is to go on from."""
        kept = f"the state of epoch {self.done} is kept" if self.done else "there is no earlier state"
        return f"{self.head} ({kept})"

    @property
    def head(self) -> str:
        """The epoch in which the training is, over all phases."""
        return f"{self.label} {self.phase} epoch {self.done + 1}/{self.total}"

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
            self.model.load_state_dict(state["model"])
            self.learn.opt.load_state_dict(state["opt"])
            for callback, kept in zip(self.stateful, state["callbacks"], strict=True):
                callback.load_state_dict(kept)
            self.rows = state["rows"]
            self._write_history()  # the interruption may have come just before it
            self.began = time.time() - self.rows[-1]["seconds"]
            if self.done < self.total:
                self._tell(f"{self.label}: goes on after epoch {self.done} of {self.total}")

    def before_fit(self):
        self.learn.train_iter = sum(self.batches[: self.done])  # fastai counts from 0 in every phase

    def before_train(self):
        torch.manual_seed(self.seed * 1_000_003 + self.done)
        self.dls.train.epoch = self.done - 1
        self.losses, self.images = [], 0

    def after_step(self):
        self.losses.append(self.loss.detach())
        self.images += len(self.yb[0])

    def after_epoch(self):
        names = ["train_loss", "valid_loss", *(metric.name for metric in self.learn.metrics)]
        scores = dict(zip(names, (float(value) for value in self.recorder.final_record), strict=True))
        scores["train_loss"] = float(torch.stack(self.losses).mean())  # fastai's is a running mean that lags behind
        for callback in self.learn.cbs:
            scores |= callback.scores() if hasattr(type(callback), "scores") else {}
        images = int(all_reduce_sum(torch.tensor(self.images, device=self.losses[0].device)))
        row = {"epoch": self.done + 1, "phase": self.phase, **scores, "images": images}
        row |= {"lr": float(self.opt.hypers[-1]["lr"]), "seconds": time.time() - self.began}
        left = row["seconds"] / row["epoch"] * (self.total - row["epoch"])
        told = " ".join(f"{name} {value:.3f}" for name, value in scores.items())
        self.told = f"{self.head}: {told}, {left:.0f} s left"
        self._write([*self.rows, row])
        self.rows.append(row)
        self._write_history()
        self._tell(self.told)

    def _tell(self, line: str) -> None:
        if rank() == 0:
            print(line, flush=True)

    def _write(self, rows: list[dict]) -> None:
        if rank() != 0:
            return
        state = {"plan": self.plan, "rows": rows, "callbacks": [callback.state_dict() for callback in self.stateful]}
        state |= {"model": self.model.state_dict(), "opt": self.learn.opt.state_dict()}
        content = io.BytesIO()
        torch.save(state, content)
        with atomic_write(self.state_file) as temporary:  # written by Python, whose errors `atomic_write` knows
            temporary.write_bytes(content.getbuffer())

    def _write_history(self) -> None:
        if rank() == 0:
            with atomic_write(self.folder / "history.csv") as temporary:
                pd.DataFrame(self.rows).to_csv(temporary, index=False)


class LearningRate(Callback):
    """Sets the rate of every batch: `constant`, or `one_cycle` over the whole training."""

    def __init__(self, lr: float, schedule: str, progress: Checkpointer):
        if schedule not in ("constant", "one_cycle"):
            raise TrainingError(f"lr_schedule {schedule!r}: expected constant or one_cycle")
        self.lr, self.schedule, self.progress = lr, schedule, progress

    def before_batch(self):
        if self.training:
            share = (self.progress.done + self.iter / self.n_iter) / self.progress.total
            self.opt.set_hypers(lr=self.lr * lr_factor(self.schedule, share))


def lr_factor(schedule: str, share: float) -> float:
    """Factor of the learning rate when `share` of the training is done, by a profile's `lr_schedule`."""
    return 1 if schedule == "constant" else one_cycle(share)


def one_cycle(share: float, up: float = 0.25, start: float = 0.04) -> float:
    """Factor of the learning rate when `share` of the training is done: from `start` up to 1, then down to about 0."""
    if share < up:
        return start + (1 - start) * (1 - math.cos(math.pi * share / up)) / 2
    return max((1 + math.cos(math.pi * (share - up) / (1 - up))) / 2, 1e-3)


def progress_callbacks(progress: Callback, tensorboard: bool) -> list[Callback]:
    """The callbacks by which a training can be followed; `progress` is its `learners.Progress`.

    Raises TrainingError when TensorBoard is asked for and not installed.
    """
    if rank() != 0:
        return []
    if not tensorboard:
        return [ProgressLog(progress)]
    try:
        from fastai.callback.tensorboard import TensorBoardCallback
    except ModuleNotFoundError as error:
        raise TrainingError(f"tensorboard: true, but {error.name} is missing; `pip install tensorboard`") from None

    class Events(TensorBoardCallback):
        """fastai's, but of the optimiser's settings only the rate: the others never change, and some are no numbers."""

        def after_batch(self):
            if self.training:
                self.writer.add_scalar("train_loss", self.smooth_loss, self.train_iter)
                self.writer.add_scalar("lr", self.opt.hypers[-1]["lr"], self.train_iter)

    return [ProgressLog(progress), Events(progress.folder / "tensorboard", trace_model=False, log_preds=False)]


class ProgressLog(Callback):
    """Tells how far a training is, between its epochs too.

    `train.log` in the training's folder gains a line every ten seconds and one at the end of each epoch. In a
    notebook a bar, with the loss and the scores so far, is drawn anew every other second; it goes away in the end,
    when `history.csv` has it all.
    """

    order = 75  # after progress, which counts epochs

    def __init__(self, progress: Callback):
        self.progress, self.view = progress, None
        self.losses: list[tuple[float, float]] = []  # epochs done, loss
        self.logged = self.shown = time.time()

    def before_fit(self):
        if self.view is None and get_ipython() is not None:
            self.view = display(HTML(""), display_id=True)

    def after_batch(self):
        if not self.training or not len(self.yb):
            return
        now, epochs = time.time(), self.progress.done + (self.iter + 1) / self.n_iter
        if now - self.logged > LOG_EVERY or (self.view and now - self.shown > SHOW_EVERY):
            self.losses.append((epochs, self.loss.item()))
            seconds = (now - self.progress.began) * (self.progress.total / epochs - 1)
            said = (
                f"{self.progress.head} batch {self.iter + 1}/{self.n_iter}: loss {self.loss:.3f}, {seconds:.0f} s left"
            )
            if now - self.logged > LOG_EVERY:
                self.log(said)
            if self.view:
                self.show(epochs, said)

    def after_epoch(self):
        self.log(self.progress.told)

    def after_fit(self):
        if self.view and self.progress.done == self.progress.total:
            self.view.update(HTML(""))

    def log(self, line: str) -> None:
        """Add a line to the log, if that can be: what matters is the state, which has a say when the disk is full."""
        self.logged = time.time()
        with contextlib.suppress(OSError), open(self.progress.folder / "train.log", "a") as file:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")

    def show(self, epochs: float, line: str) -> None:
        """Draw the view of a notebook anew."""
        self.shown, picture = time.time(), io.BytesIO()
        figure = live_curves(self.losses, self.progress.rows)
        figure.savefig(picture, format="png")
        plt.close(figure)
        bar = f'<progress max="{self.progress.total}" value="{epochs:.3f}" style="width:20em"></progress> {line}'
        image = base64.b64encode(picture.getvalue()).decode()
        self.view.update(HTML(f'<div>{bar}</div><img alt="curves so far" src="data:image/png;base64,{image}">'))


@in_style
def live_curves(losses: list[tuple[float, float]], rows: list[dict]) -> Figure:
    """Losses by epochs done, means of as many as make POINTS, and beside them the score of every complete epoch."""
    scores = [name for name in (rows[-1] if rows else {}) if name in SCORES]
    figure, axes = plt.subplots(1, 1 + len(scores), figsize=(5.2 * (1 + len(scores)), 2.8), squeeze=False)
    groups = np.array_split(np.array(losses), min(len(losses), POINTS))
    axes[0, 0].plot(*np.array([group.mean(0) for group in groups]).T, marker="")
    axes[0, 0].set(xlabel="epoch", ylabel=axis_label("train_loss"))
    for axis, name in zip(axes[0, 1:], scores, strict=True):
        axis.plot([row["epoch"] for row in rows], [row[name] for row in rows], marker="o")
        axis.set(xlabel="epoch", ylabel=axis_label(name), ylim=(0, None))
    figure.tight_layout()
    return figure
