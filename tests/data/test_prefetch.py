"""Batches made ahead: they are those made in turn, and no thread outlives its loader."""

import threading

import pytest
import torch

from ethand_utils.data.augment import PHOTOMETRIC, Augmentation
from ethand_utils.data.dataloaders import StoreLoader
from ethand_utils.data.prefetch import prefetched, send
from ethand_utils.training.cyclegan.dataloader import make_mixed_dls
from ethand_utils.training.joint import make_joint_dls

CPU = torch.device("cpu")
STRONG = Augmentation(scale=0.3, rotation=45, rotation_p=1, intensity=0.3, photometric=PHOTOMETRIC["strong"])


def loaders(stores, kind):
    """Two equal loaders, the second of which makes its batches ahead."""
    make = {
        "training": lambda: StoreLoader(stores["train"], 4, STRONG, seed=3),
        "validation": lambda: StoreLoader(stores["val"], 3),
        "joint": lambda: (
            make_joint_dls(stores["train"], stores["unpaired_images"], stores["val"], 8, STRONG, views=2).train
        ),
        "mixed": lambda: make_mixed_dls(stores, 8, STRONG).train,
    }[kind]
    in_turn, ahead = make(), make()
    ahead.prefetch = True
    return in_turn, ahead


@pytest.mark.parametrize("kind", ["training", "validation", "joint", "mixed"])
def test_batches_made_ahead_are_those_made_in_turn(kind, dataset):
    in_turn, ahead = loaders(dataset, kind)
    for _ in range(2):  # epochs
        pairs = list(zip(in_turn, ahead, strict=True))
        assert len(pairs) == len(in_turn) > 1
        for one, other in pairs:
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_next_batch_is_made_while_one_is_in_use():
    second = threading.Event()

    def batches():
        yield (torch.zeros(1),)
        second.set()
        yield (torch.ones(1),)

    ahead = prefetched(batches(), CPU)
    next(ahead)
    assert second.wait(30)  # without another being asked for
    assert [batch[0].item() for batch in ahead] == [1]


def test_only_one_batch_is_made_ahead():
    numbers = []
    ahead = prefetched((numbers.append(k) or (torch.tensor(k),) for k in range(9)), CPU)
    for k in range(3):
        assert next(ahead)[0] == k
    ahead.close()
    assert numbers == [0, 1, 2, 3]


def test_an_error_in_making_a_batch_comes_after_those_before_it():
    def batches():
        yield (torch.zeros(1),)
        raise OSError("the disk is gone")

    ahead = prefetched(batches(), CPU)
    next(ahead)
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)
    assert list(ahead) == []


@pytest.mark.parametrize("ends", ["whole", "early", "unasked", "error"])
def test_no_thread_outlives_a_pass(ends, dataset):
    before = set(threading.enumerate())
    _, loader = loaders(dataset, "training")
    if ends == "whole":
        list(loader)
    elif ends == "early":
        loader.one_batch()
    elif ends == "unasked":
        iter(loader)
    else:
        loader.masks = loader.masks[:2]  # too few
        with pytest.raises(IndexError):
            list(loader)
    assert set(threading.enumerate()) <= before


def test_a_pass_that_is_held_after_an_error_leaves_no_thread_waiting(dataset):
    before = set(threading.enumerate())
    _, loader = loaders(dataset, "training")
    held = iter(loader)  # as by the traceback that a notebook keeps
    next(held)
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive()


def test_batches_are_made_ahead_on_gpus_alone(dataset):
    store = dataset["train"]
    assert StoreLoader(store, 4, STRONG, device="cuda").prefetch
    assert not StoreLoader(store, 4, STRONG).prefetch


def test_what_stays_on_the_cpu_is_not_copied():
    values = torch.arange(3)
    assert send(values, CPU) is values
