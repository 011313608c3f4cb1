"""Nothing in a training's batch waits for a device that works through a queue, as a GPU does; here a CPU stands for it.

What a GPU would have to be waited for is known by name: reading a number, and whatever has a size that depends on one.
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import trainee
from fastai.callback.core import Callback
from torch.overrides import TorchFunctionMode

from ethand_utils.data.augment import Augmentation
from ethand_utils.data.dataloaders import make_dls
from ethand_utils.training import callbacks, learner, losses, semi
from ethand_utils.training.callbacks import CourseMIoU, FiniteLoss, TrainingError, confusion_on_device
from ethand_utils.training.learner import Phase, train_phases
from ethand_utils.training.losses import SegmentationLoss, dense_sums, indexed_sums
from ethand_utils.training.metrics import confusion

READS = {"item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "__contains__"}
SIZES = {"nonzero", "bincount", "masked_select", "unique", "argwhere"}


class Waits(TorchFunctionMode):
    """Notes what would wait for a GPU, while `noting`."""

    def __init__(self):
        super().__init__()
        self.noting, self.names = False, set()

    def __torch_function__(self, function, types, arguments=(), options=None):
        name = getattr(function, "__name__", "")
        by_mask = name in ("__getitem__", "__setitem__") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for index in (arguments[1] if isinstance(arguments[1], tuple) else arguments[1:2])
        )
        if self.noting and (name in READS | SIZES or by_mask):
            self.names.add(name)
        return function(*arguments, **(options or {}))


class Begin(Callback):
    """Notes from the beginning of each batch on."""

    order = -100

    def __init__(self, waits):
        self.waits = waits

    def before_batch(self):
        self.waits.noting = True


class End(Callback):
    """Notes no more after the end of each batch."""

    order = 100

    def __init__(self, waits):
        self.waits = waits

    def after_batch(self):
        self.waits.noting = False


@pytest.fixture
def queue(monkeypatch):
    """The CPU counts as a device that works through a queue."""
    for module in (losses, callbacks):
        monkeypatch.setattr(module, "runs_ahead", lambda device: True)


def waits_of(kind, stores, labels, folder, monkeypatch):
    """What the batches of a training wait for, validation's too."""
    monkeypatch.setattr(learner, "LOG_EVERY", 1e9)  # its line every ten seconds may wait
    waits, model = Waits(), trainee.net()
    parts = trainee.phases(kind, stores, labels, (Begin(waits), End(waits)), model)
    with waits:
        train_phases(model, SegmentationLoss(), parts, folder, metrics=(CourseMIoU(),))
    assert not waits.noting
    return waits.names


@pytest.mark.usefixtures("queue")
# UniMatch V2 draws its features' masks on the CPU, and needs a net with an encoder.
@pytest.mark.parametrize("kind", ["g1", "g2", *sorted(set(semi.names()) - {"unimatch_v2"})])
def test_no_batch_waits(kind, dataset, pseudo_labels, tmp_path, monkeypatch):
    assert waits_of(kind, dataset, pseudo_labels, tmp_path, monkeypatch) == set()


def test_a_cpu_is_waited_for(dataset, pseudo_labels, tmp_path, monkeypatch):
    assert {"__bool__", "bincount", "numpy"} <= waits_of("g1", dataset, pseudo_labels, tmp_path, monkeypatch)


def test_a_training_that_never_waits_is_the_same_but_for_rounding(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "has_native_bf16", lambda device: False)
    histories = {}
    for queued in (False, True):
        for module in (losses, callbacks):
            monkeypatch.setattr(module, "runs_ahead", lambda device, queued=queued: queued)
        pairs = make_dls(dataset["train"], dataset["val"], 4, Augmentation())
        phases = [Phase("paired", pairs, 2, 1e-3)]
        train_phases(trainee.net(), SegmentationLoss(), phases, tmp_path / str(queued), metrics=(CourseMIoU(),))
        histories[queued] = pd.read_csv(tmp_path / str(queued) / "history.csv")
    for column in ("train_loss", "valid_loss", "course_miou"):
        np.testing.assert_allclose(histories[True][column], histories[False][column], rtol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_sums_over_true_classes_are_the_same_by_index_and_dense(masked):
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(17, (3, 8, 8, 2), generator=generator)
    valid = torch.rand(3, 8, 8, 2, generator=generator) < 0.5 if masked else None
    results = []
    for sums in (indexed_sums, dense_sums):
        logits = torch.randn(3, 8, 8, 2, 17, generator=torch.Generator().manual_seed(1)).requires_grad_()
        probability = logits.softmax(-1) * (valid.unsqueeze(-1) if masked else 1)
        shared, present = sums(probability.gather(-1, truth.unsqueeze(-1)).squeeze(-1), truth, valid)
        results.append((shared, present, torch.autograd.grad((shared**2).sum(), logits)[0]))
    assert torch.equal(results[0][1], results[1][1])
    for by_index, dense in zip(*results, strict=True):
        torch.testing.assert_close(by_index, dense)


def test_confusion_on_a_device_is_that_of_the_metrics(dataset):
    truth = torch.from_numpy(np.array(dataset["val"].masks)).long()
    predicted = truth.roll(2, -1)
    counts = confusion_on_device(predicted, truth).numpy()
    np.testing.assert_array_equal(counts, confusion(predicted.numpy(), truth.numpy()))


class Broken(SegmentationLoss):
    """A loss that is NaN once: in a batch counted over all of a training's and its validations'."""

    def __init__(self, call):
        super().__init__()
        self.left = call

    def forward(self, logits, masks):
        self.left -= 1
        return super().forward(logits, masks) * (float("nan") if self.left == 0 else 1)

    def __repr__(self):
        return "Broken"


@pytest.mark.usefixtures("queue")
@pytest.mark.parametrize("every", [1, 2, 100])
def test_a_loss_read_later_is_named_by_its_batch_and_its_epoch_is_not_kept(every, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "READ_EVERY", every)
    pairs = make_dls(dataset["train"], dataset["val"], 4, Augmentation())
    with pytest.raises(TrainingError, match=r"epoch 2/2 \(the state of epoch 1 is kept\): the loss is nan in batch 1;"):
        train_phases(trainee.net(), Broken(4 + 1 + 2), [Phase("paired", pairs, 2, 1e-3)], tmp_path)
    assert len(pd.read_csv(tmp_path / "history.csv")) == 1


@pytest.mark.usefixtures("queue")
def test_losses_of_callbacks_are_read_later_too_in_their_order():
    finite = FiniteLoss()
    finite.before_train()
    of_d = SimpleNamespace(learn=SimpleNamespace(finite_loss=finite), iter=5)
    callbacks.require_finite(torch.tensor(1.0), "loss", of_d)
    callbacks.require_finite(torch.tensor(float("inf")), "loss of D", of_d)
    callbacks.require_finite(torch.tensor(float("nan")), "loss", of_d)
    with pytest.raises(TrainingError, match="the loss of D is inf in batch 5"):
        finite.read()
