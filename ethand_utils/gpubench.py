"""On a GPU: what the way through the Learner costs, and what channels-last and torch.compile bring."""

import tempfile
import time
from pathlib import Path

import torch
from fastai.callback.core import Callback

from ethand_utils.augment import Augmentation
from ethand_utils.building import build_store
from ethand_utils.callbacks import bfloat16_pays
from ethand_utils.learners import Phase, best_device, place, train_phases
from ethand_utils.loaders import make_dls
from ethand_utils.losses import SegmentationLoss
from ethand_utils.models import create_model
from ethand_utils.netbench import stepper
from ethand_utils.store import Store
from ethand_utils.timing import in_turns

G2, LR = ("unetplusplus", "tu-regnety_032"), 1.5e-4  # the report's
EPOCHS, WARM_STEPS, ROUNDS = 3, 10, 20
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Clock(Callback):
    """Images/s of the latest epoch's training, without its validation."""

    order = 80

    def before_train(self):
        self.began = self.now()

    def after_train(self):
        self.images_per_s = len(self.dls.train) * self.dls.train.bs / (self.now() - self.began)

    def now(self) -> float:
        """Seconds, when the device has done all that it was told."""
        if self.dls.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def gpu_training(store: Store) -> dict[str, float]:
    """On a GPU (else nothing) the speed of G2's paired step, with the report's batch, at twice the store's size."""
    if not torch.cuda.is_available():
        return {}
    with tempfile.TemporaryDirectory() as folder:
        large = enlarged(store, Path(folder) / "large")
        return learner_and_bare(large, G2, 16, Path(folder) / "training", compiled=(False, True))


def enlarged(store: Store, out: Path) -> Store:
    """A store of the same images and masks, each pixel of them twice as wide and high."""

    def sample(i: int) -> dict:
        image, masks = store.images[i], store.masks[i]
        larger = {"images": image.repeat(2, 0).repeat(2, 1), "masks": masks.repeat(2, 1).repeat(2, 2)}
        return larger | {"row": {"id": str(i)}}

    return build_store(out, sample, len(store), 2 * store.size, ("images", "masks"), {"source": "enlarged"})


def learner_and_bare(
    store: Store, net: tuple[str, str], bs: int, folder: Path, compiled: tuple[bool, ...] = (False,)
) -> dict[str, float]:
    """Images/s of a net's training by L_segm through the Learner, and of its bare steps on a fixed batch.

    The bare steps come contiguous and channels-last, and with torch.compile where `compiled` has True;
    `learner_ratio` is to the plain ones in the layout that trainings use.
    """
    device, clock = best_device(), Clock()
    phase = Phase("paired", make_dls(store, store, bs, Augmentation(), device=device), EPOCHS, LR, (clock,))
    train_phases(place(create_model(*net, seed=0), device), SegmentationLoss().to(device), [phase], folder)
    batch, bare = phase.dls.train.one_batch(), {}
    for layout in LAYOUTS:
        for compile in compiled:
            bare[f"{layout}_compiled" if compile else layout] = _bare_speed(net, layout, compile, *batch)
    used = bare["channels_last" if device.type == "cpu" else "contiguous"]
    figures = {"learner": clock.images_per_s, **{f"bare_{name}": speed for name, speed in bare.items()}}
    return {f"g2_{name}_images_per_s": speed for name, speed in figures.items()} | {
        "g2_learner_ratio": clock.images_per_s / used
    }


def _bare_speed(net: tuple[str, str], layout: str, compile: bool, images: torch.Tensor, masks: torch.Tensor) -> float:
    device, images = images.device, images.to(memory_format=LAYOUTS[layout])
    model = create_model(*net, seed=0).to(device, memory_format=LAYOUTS[layout])
    optimiser, loss = torch.optim.Adam(model.parameters(), LR, fused=True), SegmentationLoss().to(device)
    run = torch.compile(model) if compile else model

    def forward(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16_pays(device)):
            return run(images).float()

    step = stepper(forward, loss, optimiser, images, masks)
    for _ in range(WARM_STEPS):
        step()
    return in_turns({"step": step}, len(images), ROUNDS)["step_images_per_s"]
