"""G2's step on pairs: through the Learner with its loader, beside bare steps on one batch in memory and a plain step.

All have the report's net, L_segm, a frozen D, and Adam. What the Learner adds to bare steps is the loader, the
callbacks and the history. The plain step is what the authors' released code does: samples one by one, float32.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.plain import PlainDataset, PlainLoss
from ethand_utils.data.augment import Augmentation
from ethand_utils.data.dataloaders import StoreLoader
from ethand_utils.data.store import Store
from ethand_utils.data.store_builder import StorePlan, build_store
from ethand_utils.labels import N_CHANNELS
from ethand_utils.training.adversarial import Adversarial
from ethand_utils.training.callbacks import autocast_bf16, forward_bf16
from ethand_utils.training.learner import Phase, best_device, to_device, train_phases
from ethand_utils.training.losses import (
    ADVERSARIAL_SHARE,
    D_CHANNELS,
    SEGMENTATION_SHARE,
    SegmentationLoss,
    adversarial_loss,
    prediction_maps,
)
from ethand_utils.training.models import create_model

G2, LR, D_INPUT = ("unetplusplus", "tu-regnety_032"), 1.5e-4, "straight_through"  # net and rate are the report's
BATCH_SIZES = {"cpu": (16,), "cuda": (16, 64, 256)}
BATCHES = {"cpu": 6, "cuda": 20}  # of an epoch
ROUNDS = 3  # each an epoch for its speed and one for its waiting, after one that warms up
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def steps(store: Store) -> dict[str, float]:
    """Time G2's paired step at twice the store's size, at each of BATCH_SIZES; on a GPU compiled as well."""
    device, figures = best_device(), {}
    with tempfile.TemporaryDirectory() as folder:
        for bs in BATCH_SIZES[device.type]:
            pairs = enlarged(store, Path(folder) / f"pairs{bs}", bs * BATCHES[device.type])
            for compiled in (False, True) if device.type == "cuda" else (False,):
                name = f"bs{bs}{'_compiled' if compiled else ''}"
                timed = paired_step(pairs, G2, bs, Path(folder) / name, compiled)
                figures |= {f"{name}_{key}": value for key, value in timed.items()}
    return figures


def enlarged(store: Store, out: Path, count: int) -> Store:
    """Build a store of `count` of the same images and masks, again and again, each pixel twice as wide and high."""

    def sample(i: int) -> dict:
        image, masks = store.images[i % len(store)], store.masks[i % len(store)]
        larger = {"images": image.repeat(2, 0).repeat(2, 1), "masks": masks.repeat(2, 1).repeat(2, 2)}
        return larger | {"row": {"id": str(i)}}

    return build_store(out, StorePlan(sample, count, 2 * store.size, ("images", "masks"), {"source": "enlarged"}))


def paired_step(
    store: Store, net: tuple[str, str], bs: int, folder: Path, compiled: bool = False, rounds: int = ROUNDS
) -> dict[str, float]:
    """Time a net's training on pairs against a frozen D, and bare and plain steps of the same after each of its epochs.

    Returns the median images/s of the training, of bare steps, on a GPU in both layouts, and of plain steps; the
    training's ratio to bare steps in its layout and to plain ones; and `loader_wait_share`, the time that a device
    without work waits for the loader.
    """
    device = best_device()
    loader = TimedLoader(store, bs, Augmentation(), device=device)
    dls = DataLoaders(loader, StoreLoader(store, len(store), device=device), device=device)
    own = "channels_last" if device.type == "cpu" else "contiguous"
    with contextlib.ExitStack() as stack:
        batch = loader.one_batch()
        others = {
            f"bare_{layout}": stack.enter_context(bare_step(net, layout, compiled, *batch))
            for layout in (LAYOUTS if device.type == "cuda" else (own,))
        }
        beside = Beside(loader, others | {"plain": plain_step(net, store, bs, device)})
        phase = Phase("paired", dls, 1 + 2 * rounds, LR, (Adversarial(_discriminator(device), D_INPUT), beside))
        model = to_device(create_model(*net, seed=0), device)
        train_phases(model, SegmentationLoss().to(device), [phase], folder, compiled=compiled)
    speed = {name: len(loader) * bs / float(np.median(times)) for name, times in beside.seconds.items()}
    return {f"{name}_images_per_s": value for name, value in speed.items()} | {
        "bare_ratio": speed["learner"] / speed[f"bare_{own}"],
        "plain_ratio": speed["learner"] / speed["plain"],
        "loader_wait_share": float(np.median(beside.waits)),
    }


def _discriminator(device: torch.device, adversarial_input: str = D_INPUT) -> nn.Module:
    return to_device(create_model("discriminator", in_channels=D_CHANNELS[adversarial_input], seed=0), device)


class TimedLoader(StoreLoader):
    """A loader that in a `timed` pass lets the device finish before each batch, and sums the seconds each batch takes.

    No step is then left to run while a batch is made: all of these seconds are lost to training.
    """

    timed, waited = False, 0.0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield the batches of a pass."""
        batches, self.waited = super().__iter__(), 0.0
        while True:
            began = now(self.device) if self.timed else 0.0
            batch = next(batches, None)
            self.waited += now(self.device) - began if self.timed else 0.0
            if batch is None:
                return
            yield batch


def now(device: torch.device) -> float:
    """Return the time in seconds after a device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Beside(Callback):
    """Times the training part of each epoch, in turns for its speed and for its waiting, and other steps after it."""

    order = 80

    def __init__(self, loader: TimedLoader, others: dict[str, Callable[[], None]]):
        self.loader, self.others = loader, others
        self.seconds: dict[str, list[float]] = {name: [] for name in ("learner", *others)}
        self.waits: list[float] = []

    def before_train(self):
        self.loader.timed = self.epoch > 0 and self.epoch % 2 == 0
        self.began = now(self.loader.device)

    def after_train(self):
        seconds = now(self.loader.device) - self.began
        if self.loader.timed:
            self.waits.append(self.loader.waited / seconds)
            return
        timed = {"learner": seconds} | {name: self._time(step) for name, step in self.others.items()}
        for name, value in timed.items() if self.epoch else ():
            self.seconds[name].append(value)

    def _time(self, step: Callable[[], None]) -> float:
        """Return the seconds of as many steps as an epoch has."""
        began = now(self.loader.device)
        for _ in range(self.n_iter):
            step()
        return now(self.loader.device) - began


@contextlib.contextmanager
def bare_step(
    net: tuple[str, str], layout: str, compiled: bool, images: torch.Tensor, masks: torch.Tensor
) -> Iterator[Callable[[], None]]:
    """Return a function that takes a step on a fixed batch, in the precision that trainings use."""
    device, images = images.device, images.to(memory_format=LAYOUTS[layout])
    model = create_model(*net, seed=0).to(device, memory_format=LAYOUTS[layout]).train()
    d = _discriminator(device).eval().requires_grad_(False)
    optimiser, loss = torch.optim.Adam(model.parameters(), LR, fused=True), SegmentationLoss().to(device)

    def step() -> None:
        optimiser.zero_grad()
        logits = model(images)
        term = adversarial_loss(forward_bf16(d, prediction_maps(logits, D_INPUT)))
        (SEGMENTATION_SHARE * loss(logits, masks) + ADVERSARIAL_SHARE * term).backward()
        optimiser.step()

    with autocast_bf16(model, compiled):
        yield step


def plain_step(net: tuple[str, str], store: Store, bs: int, device: torch.device) -> Callable[[], None]:
    """Return a function that takes a step as the authors' released code does.

    It loads and augments samples one by one, in this process, computes in float32 with smp's losses, and gives D the
    ids of the arg-max, through which no gradient comes back.
    """
    model = smp.create_model(*net, None, classes=N_CHANNELS)
    model.load_state_dict(create_model(*net, seed=0).state_dict())
    d, loss = _discriminator(device, "argmax").eval(), PlainLoss().to(device)
    optimiser = torch.optim.Adam(model.to(device).train().parameters(), LR)
    batches = _endless(DataLoader(PlainDataset(store), bs, shuffle=True, drop_last=True))

    def step() -> None:
        images, masks = (values.to(device) for values in next(batches))
        optimiser.zero_grad()
        logits = model(images)
        with torch.no_grad():
            term = adversarial_loss(d(prediction_maps(logits, "argmax")))
        (SEGMENTATION_SHARE * loss(logits, masks) + ADVERSARIAL_SHARE * term).backward()
        optimiser.step()

    return step


def _endless(loader: DataLoader) -> Iterator[list[torch.Tensor]]:
    """Yield the batches of one pass after the other."""
    while True:
        yield from loader
