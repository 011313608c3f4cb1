"""Trainings: a fastai Learner through phases, with history, learning rate, checkpoints and a progress log."""

import base64
import contextlib
import copy
import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

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

from ethand_utils.exceptions import EthandError, require_known
from ethand_utils.files import atomic_write, first_line
from ethand_utils.locks import hold_named
from ethand_utils.style import axis_label, in_style
from ethand_utils.training.callbacks import (
    FiniteLoss,
    HalfSize,
    MeanLoss,
    SmoothLoss,
    TrainingError,
    autocast_bf16,
    weights_digest,
)
from ethand_utils.training.distributed import all_reduce_sum, parallel, rank, spawn, world_size
from ethand_utils.training.models import RELEASED, WeightsError, load_weights

SCHEDULES = ("constant", "one_cycle")
LOG_EVERY, SHOW_EVERY = 10.0, 2.0  # seconds between lines of the log, and between updates of a notebook's view
POINTS = 100  # of the live loss curve, at most
LIVE_SCORES = ("course_miou", "discriminator_accuracy")  # scores with a live curve


@dataclass
class Phase:
    """A phase of a training: its data, number of epochs, learning rate, and the callbacks of its method."""

    name: str
    dls: DataLoaders
    epochs: int
    lr: float
    cbs: tuple[Callback, ...] = ()

    @property
    def description(self) -> str:
        """What must be the same for an interrupted training to resume."""
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
    half_size_share: float = 0.0,
    compiled: bool = False,
) -> Learner:
    """Train `model` through `phases` with one Adam, and return the Learner.

    Writes `history.csv` (a row an epoch) into `folder`, and checkpoints into `state/` there: an interrupted training
    resumes after its last complete epoch when called again with the same phases. `schedule` is `constant` (the report)
    or `one_cycle` over all phases together, of which the first `half_size_share` is trained at half the size (see
    `HalfSize`). With several `processes`, on a GPU each, every batch is split among them and the result is that of one
    but for rounding. With `compiled`, in one process, the net's steps are compiled (`callbacks.compiled_steps`).
    Progress is in `train.log`, in a notebook's view, and with `tensorboard` in events below `tensorboard/`. Raises
    TrainingError when the loss is not finite, FileError when the disk is full; the checkpoint of
    the last good epoch stays. Raises BusyError while another process, of this host or another, trains in `folder`.
    """
    with contextlib.nullcontext() if rank() else hold_named(Path(folder) / lock_name(), "a training"):
        return _train(
            model, loss_func, phases, folder, seed, schedule, metrics, processes, tensorboard, half_size_share, compiled
        )


def lock_name() -> str:
    """Return the name of a training's lock file.

    Of several processes, the first, which writes, holds one of its own: for a moment it may outlive the process that
    started it, whose lock is free by then.
    """
    return ".train.lock" if world_size() == 1 else ".train_rank0.lock"


def _train(
    model: nn.Module,
    loss_func: nn.Module,
    phases: list[Phase],
    folder: str | Path,
    seed: int,
    schedule: str,
    metrics: tuple[Metric | Callable, ...],
    processes: int,
    tensorboard: bool,
    half_size_share: float,
    compiled: bool,
) -> Learner:
    """Train as `train_phases` does, in a folder that is held."""
    settings = [loss_func, schedule, *([f"half size {half_size_share}"] if half_size_share else [])]
    checkpointer = Checkpointer(Path(folder), model, phases, settings, seed)
    learn = Learner(
        phases[0].dls,
        parallel(model),
        loss_func,
        opt_func=partial(OptimWrapper, opt=torch.optim.Adam, fused=True),
        metrics=list(metrics),
        cbs=[
            FiniteLoss(),
            HalfSize(half_size_share, checkpointer),
            checkpointer,
            *progress_callbacks(checkpointer, tensorboard),
        ],
    )
    learn.remove_cb(ProgressCallback)  # ProgressLog replaces its bar
    learn.recorder.loss, learn.recorder.smooth_loss = MeanLoss(), SmoothLoss()
    learn.create_opt()
    checkpointer.load()
    if processes > 1 and checkpointer.done < checkpointer.total:
        device = next(model.parameters()).device
        spawn(
            *(train_phases, processes, device),
            *(model, loss_func, phases, folder, seed, schedule, metrics, 1, tensorboard, half_size_share),
        )
        checkpointer.load()
    callbacks = [callback for phase in phases for callback in phase.cbs]
    compiled = compiled and world_size() == 1 and all(getattr(type(one), "compiles", True) for one in callbacks)
    with learn.no_logging(), autocast_bf16(model, compiled), checkpointer.first_state():
        for start, phase in zip(checkpointer.starts, phases, strict=True):
            _fit(learn, phase, phase.epochs - max(checkpointer.done - start, 0), schedule, checkpointer)
    return learn


def _fit(learn: Learner, phase: Phase, epochs: int, schedule: str, checkpointer: "Checkpointer") -> None:
    """Train for the remaining epochs of a phase; an error says in which epoch it was raised."""
    if epochs <= 0:
        return
    learn.dls, checkpointer.phase = phase.dls, phase.name
    learn.dls.train.shard(rank(), world_size())
    try:
        learn.fit(epochs, cbs=[LearningRate(phase.lr, schedule, checkpointer), *phase.cbs])
    except EthandError as error:  # fastai puts a line of its own before what a callback raises
        raise type(error)(f"{checkpointer.status}: {str(error).splitlines()[-1].strip()}") from error


def best_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_device(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a net to its device, channels-last on a CPU, where that is faster (on GPUs it is slower for RegNetY)."""
    layout = torch.channels_last if device.type == "cpu" else torch.contiguous_format
    return model.to(device, memory_format=layout)


@torch.no_grad()
def start_from(model: nn.Module, weights: str | Path | None) -> None:
    """Give a net the weights of a file of `save_weights`: `released` is the package's own, None leaves it as it is.

    The nets' recipes may differ in the number of outputs alone; outputs that the file lacks keep their own weights.
    Raises WeightsError when the file cannot be read or is of another net.
    """
    if weights is None:
        return
    path = RELEASED if weights == "released" else Path(weights)
    start, _ = load_weights(path)
    for key, value in model.recipe.items():
        if key != "out_channels" and start.recipe[key] != value:
            raise WeightsError(f"{path}: a net with {key} {start.recipe[key]}; expected {value}, as the settings say")
    for own, values in zip(model.state_dict().values(), start.state_dict().values(), strict=True):
        common = (slice(min(len(own), len(values))),) if own.ndim else ()
        own[common] = values[common].to(own)
    model.start = weights_digest(start)


class Checkpointer(Callback):
    """Counts epochs over all phases, seeds each of them, writes `history.csv` and the checkpoint.

    Sample order, augmentation and dropout depend on the seed and the epoch alone, so that a resumed training equals an
    uninterrupted one.
    """

    order = 70  # after fastai's Recorder and every method's callback

    def __init__(self, folder: Path, model: nn.Module, phases: list[Phase], settings: list, seed: int):
        self.folder, self.model, self.seed, self.phase = folder, model, seed, phases[0].name
        self.total = sum(phase.epochs for phase in phases)
        self.batches = [len(phase.dls.train) for phase in phases for _ in range(phase.epochs)]
        self.starts = [sum(phase.epochs for phase in phases[:i]) for i in range(len(phases))]
        start = [model.start] if hasattr(model, "start") else []  # other weights than random ones
        self.plan = repr([[model.recipe, *start, *settings], seed, [phase.description for phase in phases]])
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
    def progress(self) -> float:
        """The share of all phases that is done when the current batch begins."""
        return (self.done + self.iter / self.n_iter) / self.total

    @property
    def current(self) -> str:
        """The training, its phase and its current epoch, over all phases."""
        return f"{self.label} {self.phase} epoch {self.done + 1}/{self.total}"

    @property
    def status(self) -> str:
        """The current epoch, and the checkpoint to resume from."""
        checkpoint = f"the state of epoch {self.done} is kept" if self.done else "there is no earlier state"
        return f"{self.current} ({checkpoint})"

    @property
    def checkpoint(self) -> Path:
        """The file to resume from."""
        return self.folder / "state" / "last.pt"

    def load(self) -> None:
        """Load the checkpoint of an interrupted training of the same plan; that of another plan is ignored.

        Raises TrainingError for a file that is no checkpoint.
        """
        if not self.checkpoint.exists():
            return
        state = self._read_checkpoint()
        if state["plan"] == self.plan:
            self._restore(state["model"], state["callbacks"])
            self.learn.opt.load_state_dict(state["opt"])
            self.rows = state["rows"]
            self._write_history()  # the interruption may have come just before it
            self.began = time.time() - self.rows[-1]["seconds"]
            if self.done < self.total:
                self._print(f"{self.label}: goes on after epoch {self.done} of {self.total}")

    @contextlib.contextmanager
    def first_state(self) -> Iterator[None]:
        """Give net and callbacks their first state back where a training is interrupted before its first checkpoint.

        Whoever trains the same objects again, as a cell of a notebook does, then begins where this training began.
        """
        first = None if self.done else copy.deepcopy((self.model.state_dict(), self._callback_states()))
        try:
            yield
        except BaseException:  # a keyboard interrupt, too
            if not self.done:
                self._restore(*first)
            raise

    def _callback_states(self) -> list[dict]:
        return [callback.state_dict() for callback in self.stateful]

    def _restore(self, model: dict, callbacks: list[dict]) -> None:
        self.model.load_state_dict(model)
        self.model.zero_grad()  # an interruption may leave gradients
        for callback, state in zip(self.stateful, callbacks, strict=True):
            callback.load_state_dict(state)

    def _read_checkpoint(self) -> dict:
        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # PyTorch raises what zip files, pickles and storages do
            reason = first_line(error)[:100]
        else:
            if isinstance(state, dict) and "plan" in state:
                return state
            reason = "of something else"
        raise TrainingError(
            f"{self.checkpoint}: not a checkpoint of a training ({reason}); put the right one back, or move it "
            "elsewhere to train from the beginning"
        )

    def before_fit(self):
        self.learn.train_iter = sum(self.batches[: self.done])  # fastai counts from 0 in every phase

    def before_train(self):
        torch.manual_seed(self.seed * 1_000_003 + self.done)
        self.dls.train.epoch = self.done - 1
        self.losses, self.images = [], 0

    def after_step(self):
        self.losses.append(self.loss.detach())
        self.images += len(self.yb[0]) * self.dls.train.images_per_mask

    def after_epoch(self):
        scores = self._scores()
        images = int(all_reduce_sum(torch.tensor(self.images, device=self.losses[0].device)))
        row = {"epoch": self.done + 1, "phase": self.phase, **scores, "images": images}
        row |= {"lr": float(self.opt.hypers[-1]["lr"]), "seconds": time.time() - self.began}
        left = row["seconds"] / row["epoch"] * (self.total - row["epoch"])
        self.line = " ".join([f"{self.current}:", *(f"{name} {value:.3f}" for name, value in scores.items())])
        self.line += f", {left:.0f} s left"
        self._write_checkpoint([*self.rows, row])
        self.rows.append(row)
        self._write_history()
        self._print(self.line)

    def _scores(self) -> dict[str, float]:
        """Return the epoch's losses, metrics and the callbacks' scores."""
        names = ["train_loss", "valid_loss", *(metric.name for metric in self.learn.metrics)]
        scores = dict(zip(names, (float(value) for value in self.recorder.final_record), strict=True))
        scores["train_loss"] = float(torch.stack(self.losses).mean())  # fastai's is a running mean that lags behind
        for callback in self.learn.cbs:
            scores |= callback.scores() if hasattr(type(callback), "scores") else {}
        return scores

    def _write_checkpoint(self, rows: list[dict]) -> None:
        if rank() != 0:
            return
        state = {"plan": self.plan, "rows": rows, "callbacks": self._callback_states()}
        state |= {"model": self.model.state_dict(), "opt": self.learn.opt.state_dict()}
        content = io.BytesIO()
        torch.save(state, content)
        with atomic_write(self.checkpoint) as temporary:  # written by Python, whose errors `atomic_write` knows
            temporary.write_bytes(content.getbuffer())

    def _write_history(self) -> None:
        if rank() == 0:
            with atomic_write(self.folder / "history.csv") as temporary:
                pd.DataFrame(self.rows).to_csv(temporary, index=False)

    def _print(self, line: str) -> None:
        if rank() == 0:
            print(line, flush=True)


class LearningRate(Callback):
    """Sets the learning rate of every batch: one of SCHEDULES over the whole training."""

    def __init__(self, lr: float, schedule: str, checkpointer: Checkpointer):
        require_known("lr_schedule", schedule, SCHEDULES, TrainingError)
        self.lr, self.schedule, self.checkpointer = lr, schedule, checkpointer

    def before_batch(self):
        if self.training:
            self.opt.set_hypers(lr=self.lr * lr_factor(self.schedule, self.checkpointer.progress))


def lr_factor(schedule: str, share: float) -> float:
    """Return the factor of the learning rate when `share` of the training is done, for one of SCHEDULES."""
    return 1 if schedule == "constant" else one_cycle(share)


def one_cycle(share: float, up: float = 0.25, start: float = 0.04) -> float:
    """Return the factor when `share` of the training is done: from `start` up to 1 at `up`, then down to about 0."""
    if share < up:
        return start + (1 - start) * (1 - math.cos(math.pi * share / up)) / 2
    return max((1 + math.cos(math.pi * (share - up) / (1 - up))) / 2, 1e-3)


def progress_callbacks(checkpointer: Checkpointer, tensorboard: bool) -> list[Callback]:
    """Return the callbacks that report a training's progress: the log, and TensorBoard's if asked for.

    Raises TrainingError when TensorBoard is not installed.
    """
    if rank() != 0:
        return []
    if not tensorboard:
        return [ProgressLog(checkpointer)]
    try:
        from fastai.callback.tensorboard import TensorBoardCallback
    except ModuleNotFoundError as error:
        raise TrainingError(f"tensorboard: true, but {error.name} is missing; `pip install tensorboard`") from None

    class Events(TensorBoardCallback):
        """fastai's without the optimiser's settings but the rate: the others never change, some are no numbers."""

        def after_batch(self):
            if self.training:
                self.writer.add_scalar("train_loss", self.smooth_loss, self.train_iter)
                self.writer.add_scalar("lr", self.opt.hypers[-1]["lr"], self.train_iter)

    events = Events(checkpointer.folder / "tensorboard", trace_model=False, log_preds=False)
    return [ProgressLog(checkpointer), events]


class ProgressLog(Callback):
    """Reports the progress of a training, between its epochs too.

    `train.log` in the training's folder gains a line every ten seconds and one at the end of each epoch. A notebook
    shows a bar with curves of the loss and the scores, updated every other second and removed at the end, when
    `history.csv` is complete.
    """

    order = 75  # after Checkpointer, which counts epochs

    def __init__(self, checkpointer: Checkpointer):
        self.checkpointer, self.view = checkpointer, None
        self.losses: list[tuple[float, float]] = []  # epochs done, loss
        self.logged = self.shown = time.time()

    def before_fit(self):
        if self.view is None and get_ipython() is not None:
            self.view = display(HTML(""), display_id=True)

    def after_batch(self):
        if not self.training or not len(self.yb):
            return
        now, epochs = time.time(), self.checkpointer.done + (self.iter + 1) / self.n_iter
        if now - self.logged > LOG_EVERY or (self.view and now - self.shown > SHOW_EVERY):
            self.losses.append((epochs, self.loss.item()))
            left = (now - self.checkpointer.began) * (self.checkpointer.total / epochs - 1)
            line = f"{self.checkpointer.current} batch {self.iter + 1}/{self.n_iter}: loss {self.loss:.3f}"
            line += f", {left:.0f} s left"
            if now - self.logged > LOG_EVERY:
                self.log(line)
            if self.view:
                self.show(epochs, line)

    def after_epoch(self):
        self.log(self.checkpointer.line)

    def after_fit(self):
        if self.view and self.checkpointer.done == self.checkpointer.total:
            self.view.update(HTML(""))

    def log(self, line: str) -> None:
        """Add a line to the log. Its errors are ignored; the checkpoint writer reports a full disk."""
        self.logged = time.time()
        with contextlib.suppress(OSError), open(self.checkpointer.folder / "train.log", "a") as file:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")

    def show(self, epochs: float, line: str) -> None:
        """Update the view of a notebook."""
        self.shown, content = time.time(), io.BytesIO()
        figure = live_curves(self.losses, self.checkpointer.rows)
        figure.savefig(content, format="png")
        total = self.checkpointer.total
        bar = f'<progress max="{total}" value="{epochs:.3f}" style="width:20em"></progress> {line}'
        image = base64.b64encode(content.getvalue()).decode()
        self.view.update(HTML(f'<div>{bar}</div><img alt="curves so far" src="data:image/png;base64,{image}">'))


@in_style
def live_curves(losses: list[tuple[float, float]], rows: list[dict]) -> Figure:
    """Plot losses by epochs done, averaged to at most POINTS, and beside them the scores of every complete epoch."""
    scores = [name for name in (rows[-1] if rows else {}) if name in LIVE_SCORES]
    # Not pyplot's: a notebook's backend keeps those until their cell ends, closed or not, which fills the memory.
    figure = Figure(figsize=(5.2 * (1 + len(scores)), 2.8))
    axes = figure.subplots(1, 1 + len(scores), squeeze=False)
    groups = np.array_split(np.array(losses), min(len(losses), POINTS))
    axes[0, 0].plot(*np.array([group.mean(0) for group in groups]).T, marker="")
    axes[0, 0].set(xlabel="epoch", ylabel=axis_label("train_loss"))
    for axis, name in zip(axes[0, 1:], scores, strict=True):
        axis.plot([row["epoch"] for row in rows], [row[name] for row in rows], marker="o")
        axis.set(xlabel="epoch", ylabel=axis_label(name), ylim=(0, None))
    figure.tight_layout()
    return figure
