"""Watching a training: a log file that one can follow from anywhere, and a bar with live curves in a notebook."""

import base64
import contextlib
import io
import time
from datetime import datetime

import matplotlib.pyplot as plt
import numpy as np
from fastai.callback.core import Callback
from IPython import get_ipython
from IPython.display import HTML, display
from matplotlib.figure import Figure

from ethand_utils.callbacks import TrainingError
from ethand_utils.distributed import rank
from ethand_utils.style import axis_label, in_style

LOG_EVERY, SHOW_EVERY = 10.0, 2.0  # seconds between lines of the log, and between pictures of a notebook
POINTS = 100  # of the live curve of the loss, at most
SCORES = ("course_miou", "discriminator_accuracy")  # what a training is watched by


def watching(progress: Callback, tensorboard: bool) -> list[Callback]:
    """The callbacks by which a training can be followed; `progress` is its `learners.Progress`.

    Raises TrainingError when TensorBoard is asked for and not installed.
    """
    if rank() != 0:
        return []
    if not tensorboard:
        return [Watch(progress)]
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

    return [Watch(progress), Events(progress.folder / "tensorboard", trace_model=False, log_preds=False)]


class Watch(Callback):
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
