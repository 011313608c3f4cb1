"""Trainings in processes of their own, for tests that kill them or let several share one."""

import os
from functools import partial
from pathlib import Path

import torch
from fastai.callback.core import Callback

from ethand_utils import callbacks
from ethand_utils.augment import Augmentation
from ethand_utils.callbacks import AgainstTruth, Alternating, DiscriminatorLoss, KeepConfident
from ethand_utils.learners import Phase, finish, place, train_phases
from ethand_utils.loaders import make_dls
from ethand_utils.losses import D_CHANNELS, SegmentationLoss
from ethand_utils.models import create_model
from ethand_utils.store import Store

CPU = torch.device("cpu")
LR = 1e-2
EPOCHS = {"g1": (4,), "d": (4,), "g2": (2, 2, 2, 2)}  # of each phase
BATCHES = 4  # of an epoch


def net(seed=0, arch="baseline", channels=3):
    """A tiny net, placed as trainings place it."""
    return place(create_model(arch, widths=(4, 8), in_channels=channels, seed=seed), CPU)


class Beat(Callback):
    """Writes a byte to a pipe at every batch, so that the other end knows how far a training is."""

    order = 90

    def __init__(self, pipe):
        self.pipe = pipe

    def after_batch(self):
        if self.training:
            os.write(self.pipe.fileno(), b".")


def phases(kind, stores, labels, extra=()):
    """Phases of G1, D, or the two cycles of G2 with a D that goes on training."""
    pairs = make_dls(stores["train"], stores["val"], 4, Augmentation())
    if kind == "g1":
        return [Phase("paired", pairs, *EPOCHS[kind], LR, extra)]
    if kind == "d":
        return [Phase("discriminator", pairs, *EPOCHS[kind], LR, (AgainstTruth(net(1)), *extra))]
    unpaired = make_dls(stores["unpaired_images"], stores["val"], 4, Augmentation(), pseudo=labels)
    against = Alternating(net(arch="discriminator", channels=D_CHANNELS["softmax"]), "softmax", LR)
    cycle = [("unpaired", unpaired, (KeepConfident(), *extra)), ("paired", pairs, (against, *extra))]
    return [Phase(name, dls, n, LR, cbs) for (name, dls, cbs), n in zip(cycle * 2, EPOCHS[kind], strict=True)]


def run(kind, folder, data, labels, pipe=None, processes=1):
    """Train to the end in `folder`, or from where it stopped."""
    torch.set_num_threads(1)
    stores = {path.name: Store(path) for path in Path(data).iterdir() if path.is_dir()}
    model = net(arch="discriminator", channels=D_CHANNELS["softmax"]) if kind == "d" else net()
    loss = DiscriminatorLoss() if kind == "d" else SegmentationLoss("ce_dice")
    parts = phases(kind, stores, Store(labels), (Beat(pipe),) if pipe else ())
    learn = train_phases(model, loss, parts, folder, schedule="one_cycle", processes=processes)
    finish(learn, folder, row=kind)
