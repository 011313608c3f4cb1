"""Progress of a training: its log, the view of a notebook, TensorBoard."""

import sys

import matplotlib.pyplot as plt
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ethand_utils.data.augment import Augmentation
from ethand_utils.data.dataloaders import make_dls
from ethand_utils.training import learner
from ethand_utils.training.callbacks import CourseMIoU, TrainingError
from ethand_utils.training.learner import Phase, train_phases
from ethand_utils.training.losses import SegmentationLoss
from ethand_utils.training.models import create_model

LR = 1e-2


@pytest.fixture
def train(dataset, tmp_path):
    """Function that trains a tiny net for two phases of two epochs of four batches."""

    def run(**how):
        dls = make_dls(dataset["train"], dataset["val"], 4, Augmentation())
        phases = [Phase(name, dls, 2, LR) for name in ("one", "two")]
        model = create_model("baseline", widths=(4, 8), seed=0)
        return train_phases(model, SegmentationLoss(), phases, tmp_path, metrics=(CourseMIoU(),), **how)

    return run


class View:
    """The handle that IPython's display returns."""

    def __init__(self):
        self.shown = []

    def update(self, page):
        self.shown.append(page.data)


@pytest.fixture
def view(monkeypatch):
    """A notebook's view that is updated at every batch."""
    view = View()
    monkeypatch.setattr(learner, "get_ipython", lambda: object())
    monkeypatch.setattr(learner, "display", lambda page, display_id: view)
    monkeypatch.setattr(learner, "SHOW_EVERY", -1.0)
    return view


def test_the_log_has_a_line_a_batch_and_an_epoch(train, tmp_path, monkeypatch):
    monkeypatch.setattr(learner, "LOG_EVERY", -1.0)
    train()
    lines = [line.split(" ", 2)[2] for line in (tmp_path / "train.log").read_text().splitlines()]
    assert len(lines) == 4 * (4 + 1)
    assert all(f"{'one' if i < 10 else 'two'} epoch {i // 5 + 1}/4" in line for i, line in enumerate(lines))
    assert [line.split("batch ")[1].split(":")[0] for line in lines[:4]] == ["1/4", "2/4", "3/4", "4/4"]
    assert all(("course_miou" in line) == (i % 5 == 4) for i, line in enumerate(lines))
    assert all(line.endswith(" s left") for line in lines)


def test_the_log_is_quiet_between_epochs_that_are_short(train, tmp_path):
    train()
    assert len((tmp_path / "train.log").read_text().splitlines()) == 4


def test_a_notebook_shows_a_bar_and_curves_until_the_end(train, view):
    train()
    assert len(view.shown) == 16 + 1
    assert ['value="0.250"' in view.shown[0], 'value="4.000"' in view.shown[15]] == [True, True]
    assert all("<progress" in page and "data:image/png" in page for page in view.shown[:-1])
    assert view.shown[-1] == ""


def test_a_training_that_fails_leaves_its_view(train, view, monkeypatch):
    monkeypatch.setattr(learner.ProgressLog, "log", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train()
    assert "<progress" in view.shown[-1]


def test_the_live_loss_has_few_points_however_many_batches():
    losses = [(i / 1000, 1.0) for i in range(5000)]
    before = plt.get_fignums()
    (axis,) = learner.live_curves(losses, []).axes
    assert plt.get_fignums() == before  # a notebook's backend would keep it
    assert len(axis.lines[0].get_xdata()) == learner.POINTS


def test_tensorboard_counts_steps_over_phases(train, tmp_path):
    train(tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted({event.step for event in events.Scalars("train_loss")}) == list(range(1, 17))
    assert [event.step for event in events.Scalars("course_miou")] == [4, 8, 12, 16]


def test_tensorboard_that_is_not_installed_is_an_error(train, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastai.callback.tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(TrainingError, match="pip install tensorboard"):
        train(tensorboard=True)
