"""Small trainings for tests that kill their process or run one in several processes."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import torch
from fastai.callback.core import Callback

from ethand_utils.data.augment import Augmentation
from ethand_utils.data.dataloaders import make_dls
from ethand_utils.data.store import Store
from ethand_utils.experiments.config import load_profile
from ethand_utils.training import callbacks, distributed, semi
from ethand_utils.training.adversarial import AgainstTruth, Alternating, DiscriminatorLoss
from ethand_utils.training.cyclegan.dataloader import make_mixed_dls
from ethand_utils.training.cyclegan.model import create_cyclegan, cycle_loss
from ethand_utils.training.cyclegan.scores import Cycles
from ethand_utils.training.cyclegan.variants import OPTIONS
from ethand_utils.training.joint import STRONG, make_joint_dls
from ethand_utils.training.learner import Phase, to_device, train_phases
from ethand_utils.training.losses import D_CHANNELS, SegmentationLoss
from ethand_utils.training.models import create_model, save_weights
from ethand_utils.training.pseudo_labels import TopHalfFilter

CPU = torch.device("cpu")
LR = 1e-2
EPOCHS = {"g1": (5,), "d": (4,), "g2": (2, 2, 2, 2), "cyclegan": (4,)}  # of each phase
EPOCHS |= dict.fromkeys(semi.names(), (5,))
BATCHES = 4  # of an epoch
# Each ends within an epoch: of g2 the first with D.
HALF_SIZE_SHARES = {"g1": 0.5, "g2": 0.3} | dict.fromkeys(semi.names(), 0.3)


torch.set_num_threads(1)


def net(seed=0, arch="baseline", channels=3):
    """A tiny net on its device, as trainings have it."""
    return to_device(create_model(arch, widths=(4, 8), in_channels=channels, seed=seed), CPU)


class Beat(Callback):
    """Writes a byte to a pipe at every batch, to report progress."""

    order = 90

    def __init__(self, pipe):
        self.pipe = pipe

    def after_batch(self):
        if self.training:
            os.write(self.pipe.fileno(), b".")


class InFloat32(Callback):
    """Keeps a training in float32 on any processor, for close comparisons."""

    def before_fit(self):
        callbacks.has_native_bf16 = lambda device: False


class Fail(Callback):
    """Ends a process of a training in its second epoch: by an error, or killed.

    After a batch, as the other process has then begun the epoch too, and so has written the checkpoint of the first.
    """

    def __init__(self, killed):
        self.killed = killed

    def after_batch(self):
        if self.training and self.epoch == 1 and distributed.rank() == 1:
            if self.killed:
                os.kill(os.getpid(), signal.SIGKILL)
            raise callbacks.TrainingError("no more")


def phases(kind, stores, labels, extra=(), model=None, bs=4):
    """Phases of G1, D, a semi-supervised method for `model`, or the two cycles of G2 with an alternating D.

    `bs` is that of the semi-supervised method, whose strong views have no noise: it depends on the number of processes.
    """
    pairs = make_dls(stores["train"], stores["val"], 4, Augmentation())
    if kind == "g1":
        return [Phase("paired", pairs, *EPOCHS[kind], LR, extra)]
    if kind in semi.names():
        method = semi.create(kind, model, {"semi_threshold": 0.07})
        images = (stores["train"], stores["unpaired_images"], stores["val"])
        joint = make_joint_dls(*images, bs, Augmentation(), views=method.views, strong=replace(STRONG, noise=0))
        return [Phase("joint", joint, *EPOCHS[kind], LR, (method, *extra))]
    if kind == "d":
        return [Phase("discriminator", pairs, *EPOCHS[kind], LR, (AgainstTruth(net(1)), *extra))]
    unpaired = make_dls(stores["unpaired_images"], stores["val"], 4, Augmentation(), pseudo=labels)
    against = Alternating(net(arch="discriminator", channels=D_CHANNELS["softmax"]), "softmax", LR / 100)
    cycle = [("unpaired", unpaired, (TopHalfFilter(), *extra)), ("paired", pairs, (against, *extra))]
    return [Phase(name, dls, n, LR, cbs) for (name, dls, cbs), n in zip(cycle * 2, EPOCHS[kind], strict=True)]


def cycle_phases(profile, stores, *discriminators, extra=()):
    """The phase of a CycleGAN with a profile's settings, and its loss."""
    dls = make_mixed_dls(stores, profile.bs, Augmentation())
    phase = Phase("cycles", dls, profile.cyclegan_epochs, profile.lr, (Cycles(), *discriminators, *extra))
    return [phase], cycle_loss(profile, (), bool(discriminators))


def run_cyclegan(folder, stores, extra):
    """Train a CycleGAN with every option but the warm start, and write the weights of both generators."""
    profile = load_profile("ci", {"cyclegan_epochs": EPOCHS["cyclegan"][0]})
    model, discriminators = create_cyclegan(profile, tuple(name for name in OPTIONS if name != "warm_start"))
    phases, loss = cycle_phases(profile, stores, discriminators, extra=extra)
    train_phases(model, loss, phases, folder, schedule="one_cycle")
    save_weights(model, Path(folder) / "weights.safetensors")


def run(kind, folder, data, labels, extra=(), processes=1, bs=4):
    """Train to the end in `folder`, or resume there, with callbacks `extra` in every phase."""
    stores = {path.name: Store(path) for path in Path(data).iterdir() if path.is_dir()}
    if kind == "cyclegan":
        return run_cyclegan(folder, stores, extra)
    model = net(arch="discriminator", channels=D_CHANNELS["softmax"]) if kind == "d" else net()
    if kind in semi.names():
        model = to_device(create_model("unet", "tu-resnet10t", widths=(8, 8), seed=0), CPU)
    loss = DiscriminatorLoss() if kind == "d" else SegmentationLoss("ce_dice")
    parts = phases(kind, stores, Store(labels), extra, model, bs)
    learn = train_phases(
        model,
        loss,
        parts,
        folder,
        schedule="one_cycle",
        processes=processes,
        half_size_share=HALF_SIZE_SHARES.get(kind, 0.0),
    )
    save_weights(learn.model, folder / "weights.safetensors", row=kind)
