"""One training on several processes: the same as on one but for rounding."""

import copy
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import trainee
from timm.layers import BatchNormAct2d
from torch import nn

from ethand_utils.exceptions import EthandError
from ethand_utils.training import callbacks, distributed, semi
from ethand_utils.training.models import load_weights


@pytest.fixture(scope="module")
def ended(dataset, pseudo_labels, tmp_path_factory):
    """Function that returns the folder of a training by its kind and number of processes, trained once."""
    folder = tmp_path_factory.mktemp("shared")

    def run(kind, processes):
        ended = folder / kind / str(processes)
        if not ended.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(callbacks, "has_native_bf16", None)  # InFloat32 replaces it
                given = (kind, ended, dataset["train"].path.parent, pseudo_labels.path, (trainee.InFloat32(),))
                trainee.run(*given, processes, bs=8)
        return ended

    return run


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["g1", "d", "g2", *semi.names()])
def test_two_processes_learn_what_one_does(kind, ended):
    alone, shared = (pd.read_csv(ended(kind, processes) / "history.csv") for processes in (1, 2))
    assert alone["images"].tolist() == shared["images"].tolist()
    assert alone["phase"].tolist() == shared["phase"].tolist()
    for name in {"train_loss", "unlabelled_loss", "mask_ratio", "mask_ratio_parts"} & {*alone}:
        np.testing.assert_allclose(shared[name][:2], alone[name][:2], rtol=1e-2 if "mask" in name else 1e-3)
    # A label is an arg-max, which rounding may turn, and Dice counts a class whole that one pixel has.
    labels = kind in semi.names() and kind != "mean_teacher"
    np.testing.assert_allclose(shared["train_loss"], alone["train_loss"], rtol=3e-2 if labels else 1e-3)
    np.testing.assert_allclose(shared["valid_loss"], alone["valid_loss"], rtol=0.1)  # by running statistics


@pytest.mark.slow
def test_twenty_steps_of_two_processes_end_with_the_net_of_one(ended):
    alone, shared = (load_weights(ended("g1", processes) / "weights.safetensors")[0] for processes in (1, 2))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(shared(images), alone(images), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "says"), [(False, r"epoch 2/5 .*epoch 1 is kept\): no more"), (True, "SIGKILL")])
def test_an_end_of_one_process_ends_them_all_and_keeps_the_last_epoch(
    killed, says, ended, dataset, pseudo_labels, tmp_path
):
    given = ("g1", tmp_path, dataset["train"].path.parent, pseudo_labels.path)
    with pytest.raises(EthandError, match=says):
        trainee.run(*given, (trainee.Fail(killed),), processes=2)
    assert pd.read_csv(tmp_path / "history.csv")["epoch"].tolist() == [1]


def test_batches_that_cannot_be_split_equally_are_refused(dataset, pseudo_labels, tmp_path):
    with pytest.raises(EthandError, match="batches of 4 cannot be shared among 3 processes"):
        trainee.run("g1", tmp_path, dataset["train"].path.parent, pseudo_labels.path, processes=3)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), BatchNormAct2d(3)])
def test_shared_batch_statistics_of_one_process_are_pytorchs(layer):
    shared, images = copy.deepcopy(layer), 3 * torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) + 1
    found, expected = [], []
    for net, outputs in ((partial(distributed._sync_batch_norm, shared), found), (layer, expected)):
        given = images.clone().requires_grad_()
        answer = net(given)
        (answer**3).sum().backward()
        outputs += [answer, given.grad]
    for of, like in ((shared, layer), (shared.eval(), layer.eval())):
        found += [*of.buffers(), *(p.grad for p in of.parameters()), distributed._sync_batch_norm(of, images)]
        expected += [*like.buffers(), *(p.grad for p in like.parameters()), like(images)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
