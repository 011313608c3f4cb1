"""Trainings whose steps are compiled are those of the same net; a stand-in for the compiler counts what it compiles."""

import copy

import pandas as pd
import pytest
import torch
import trainee
from outage import FailAt, Outage
from torch import nn

from ethand_utils.data.augment import Augmentation
from ethand_utils.data.dataloaders import make_dls
from ethand_utils.training import callbacks, semi
from ethand_utils.training.adversarial import Adversarial
from ethand_utils.training.callbacks import autocast_bf16, compiled_steps
from ethand_utils.training.joint import make_joint_dls
from ethand_utils.training.learner import Phase, train_phases
from ethand_utils.training.losses import D_CHANNELS, SegmentationLoss
from ethand_utils.training.models import create_model


@pytest.fixture
def graphs(monkeypatch):
    """The shapes of images in the graphs that are compiled; nets compute in float32, for close comparisons."""
    shapes = []

    def compile(graph, inputs):
        shapes.extend(
            tuple(values.shape) for values in inputs if values.ndim == 4 and values.shape[1] == 3 < values.shape[2]
        )
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(callbacks, "COMPILE", {"backend": compile})
    monkeypatch.setattr(callbacks, "has_native_bf16", lambda device: False)
    yield shapes
    torch.compiler.reset()


def trained(stores, folder, compiled, fails=None):
    """The net of a training on pairs against D, half of it at half the size."""
    pairs = make_dls(stores["train"], stores["val"], 4, Augmentation())
    d = trainee.net(arch="discriminator", channels=D_CHANNELS["softmax"])
    phase = Phase("paired", pairs, 4, 1e-3, (Adversarial(d), fails or FailAt()))
    how = {"half_size_share": 0.5, "compiled": compiled}
    return train_phases(trainee.net(), SegmentationLoss(), [phase], folder, **how).model


def test_a_compiled_training_ends_with_the_same_net_under_the_same_names(graphs, dataset, tmp_path):
    ends = [trained(dataset, tmp_path / str(compiled), compiled).state_dict() for compiled in (False, True)]
    assert list(ends[0]) == list(ends[1])
    for one, other in zip(*(end.values() for end in ends), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert graphs == [(4, 3, 16, 16), (4, 3, 32, 32)]  # once each, and no validation
    assert "adversarial_loss" in pd.read_csv(tmp_path / "True/history.csv")


@pytest.mark.usefixtures("graphs")
def test_a_compiled_training_that_is_interrupted_resumes(dataset, tmp_path):
    whole = trained(dataset, tmp_path / "whole", True)
    with pytest.raises(Outage):
        trained(dataset, tmp_path / "parts", True, FailAt(2, 1))
    again = trained(dataset, tmp_path / "parts", True)
    for one, other in zip(again.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_only_the_first_shapes_are_compiled_and_nothing_without_gradients(graphs, monkeypatch):
    monkeypatch.setattr(callbacks, "MAX_SHAPES", 2)
    net, plain = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3)
    plain.load_state_dict(net.state_dict())
    forward = compiled_steps(net)
    images = [torch.randn(2, 3, side, side) for side in (8, 9, 8, 10, 11)]
    with torch.no_grad():
        forward(images[3])
    assert graphs == []
    for one in images:
        torch.testing.assert_close(forward(one), plain(one))
    assert graphs == [(2, 3, 8, 8), (2, 3, 9, 9)]
    net.eval()
    forward(images[0])
    assert len(graphs) == 2


@pytest.mark.usefixtures("graphs")
def test_a_net_is_its_own_again_after_the_training(dataset):
    net = trainee.net()
    names = list(net.state_dict())
    with autocast_bf16(net, compiled=True):
        net(torch.randn(2, 3, 16, 16))
        assert list(net.state_dict()) == names
    assert "forward" not in vars(net)
    assert list(copy.deepcopy(net).state_dict()) == names


@pytest.mark.parametrize(("method", "compiled"), [("fixmatch", True), ("unimatch_v2", False)])
def test_a_method_that_hooks_into_the_net_is_not_compiled(method, compiled, graphs, dataset, tmp_path):
    net = create_model("unet", "tu-resnet10t", widths=(8, 8), seed=0)
    callback = semi.create(method, net, {"semi_threshold": 0.1})
    stores = (dataset["train"], dataset["unpaired_images"], dataset["val"])
    joint = make_joint_dls(*stores, 8, Augmentation(), views=callback.views)
    phase = Phase("joint", joint, 1, 1e-3, (callback,))
    train_phases(net, SegmentationLoss(), [phase], tmp_path, compiled=True)
    assert bool(graphs) == compiled
