"""`python -m benchmarks.recipes`: what each choice of the package's net gains in equal minutes of one core.

Each recipe differs from the first in one thing. Its net learns from the pairs of the run `release` for as many CPU
seconds as any other, one cycle of the learning rate long; `ethand_utils/analysis/recipes.csv`, which notebook 14 shows,
gains a row when it ends, and a recipe that has one is not trained again.
"""

import copy
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from torch import nn

from ethand_utils.analysis.evaluate import score_frames
from ethand_utils.analysis.recipes import RECIPES as TABLE
from ethand_utils.data.augment import (
    PHOTOMETRIC,
    Augmentation,
    half_size_images,
    half_size_masks,
    sample_params,
    transform,
)
from ethand_utils.data.store import Store
from ethand_utils.experiments.run import write_table
from ethand_utils.labels import N_CHANNELS
from ethand_utils.sources.interhand_frames import read_frames
from ethand_utils.training.callbacks import autocast_bf16
from ethand_utils.training.inference import predict
from ethand_utils.training.joint import move_average
from ethand_utils.training.learner import one_cycle, to_device
from ethand_utils.training.losses import SegmentationLoss
from ethand_utils.training.metrics import summary
from ethand_utils.training.models import count_parameters, create_model


@dataclass(frozen=True)
class Recipe:
    """A recipe: the defaults are those of the profile `release`.

    `pairs` different ones are trained on (None: all), at half the size for the share `small` of the time; `ema` is the
    decay of the averaged weights that are scored, 0 for the last ones.
    """

    encoder: str = "tu-resnet10t"
    widths: tuple[int, ...] = (96, 64, 48, 32)
    loss: str = "ce_dice"
    class_weights: str = "released"
    presence: float = 0.3
    bs: int = 32
    lr: float = 2.5e-3
    rotation: float = 15.0
    photometric: str = "strong"
    pairs: int | None = None
    small: float = 0.0
    ema: float = 0.0


RECIPES = {
    "the recipe": Recipe(),
    "no class weights": Recipe(class_weights="none"),
    "no loss of presence": Recipe(presence=0.0),
    "32 px for 60 % of the time": Recipe(small=0.6),
    "decoder: 64-32-24-16": Recipe(widths=(64, 32, 24, 16)),
    "encoder: tu-regnety_002, decoder 64-32-24-16": Recipe(encoder="tu-regnety_002", widths=(64, 32, 24, 16)),
    "loss: cross-entropy alone": Recipe(loss="ce"),
    "averaged weights (0.995)": Recipe(ema=0.995),
    "batches of 8": Recipe(bs=8),
    "4,000 different pairs": Recipe(pairs=4000),
    "light: the report's": Recipe(photometric="report"),
    "learning rate 1e-3": Recipe(lr=1e-3),
    "encoder: tu-resnet18": Recipe(encoder="tu-resnet18"),
    "loss: focal": Recipe(loss="focal", class_weights="none"),
    "no rotation": Recipe(rotation=0.0),
}


def train(recipe: Recipe, pairs: Store, seconds: float) -> tuple[nn.Module, int]:
    """Train a net for CPU `seconds` of this process; return it and the number of images it has seen."""
    model = create_model("unet", recipe.encoder, False, recipe.widths, out_channels=N_CHANNELS, seed=0)
    model = to_device(model, torch.device("cpu"))
    average = copy.deepcopy(model)
    loss_func = SegmentationLoss(recipe.loss, recipe.class_weights, masks=pairs.masks, presence=recipe.presence)
    optimiser = torch.optim.Adam(model.parameters(), fused=True)
    augmentation = Augmentation(rotation=recipe.rotation, photometric=PHOTOMETRIC[recipe.photometric])
    rng, order, step = np.random.default_rng(0), np.zeros(0, int), 0
    began = time.process_time()
    with autocast_bf16(model):
        while (share := (time.process_time() - began) / seconds) < 1:
            if len(order) < recipe.bs:
                order = rng.permutation(recipe.pairs or len(pairs))
            samples, order = np.sort(order[: recipe.bs]), order[recipe.bs :]
            batch = torch.from_numpy(pairs.images[samples]), torch.from_numpy(pairs.masks[samples])
            params = sample_params(recipe.bs, augmentation, torch.Generator().manual_seed(step))
            images, masks = transform(*batch, augmentation, params)
            if share < recipe.small:
                images, masks = half_size_images(images), half_size_masks(masks)
            optimiser.param_groups[0]["lr"] = recipe.lr * one_cycle(share)
            loss = loss_func(model(images), masks)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            step += 1
            move_average(average, model, min(recipe.ema, step / (step + 10)))
    return average, step * recipe.bs


def score(model: nn.Module, store: Store, frames: Path | None) -> dict[str, float]:
    """Return the scores of a net on a store, and its joint accuracy on real frames where there are any.

    `presence` is the share of pairs of a present and an absent hand of which the present one has the higher presence.
    """
    predicted, masks = predict(model, store.images), np.asarray(store.masks)
    scores = summary(predicted.masks, masks, np.asarray(store.front))
    columns = {name: scores[name] for name in ("course_miou", "occluded_iou", "absent_fp_rate")}
    there = (masks > 0).any((2, 3))
    columns["presence"] = float((predicted.presence[there][:, None] > predicted.presence[~there]).mean())
    if frames:
        columns["frames"] = score_frames(model, read_frames(frames), store.size)[0]["joint_accuracy"]
    return columns


def main(
    data: Annotated[Path, typer.Option(help="data set of the run `release`")] = Path("outputs/release/data"),
    minutes: Annotated[float, typer.Option(help="CPU minutes of each training")] = 3.0,
    frames: Annotated[Path | None, typer.Option(help="folder of InterHand2.6M frames to score as well")] = None,
    out: Annotated[Path, typer.Option(help="table to write, or to go on with")] = TABLE,
) -> None:
    """Train and score every recipe that the table lacks."""
    torch.set_num_threads(1)
    pairs, held_out = Store(data / "train"), Store(data / "val")
    rows = pd.read_csv(out).to_dict("records") if out.exists() else []
    done = {row["recipe"] for row in rows}
    for name in (name for name in RECIPES if name not in done):
        model, images = train(RECIPES[name], pairs, 60 * minutes)
        facts = {"recipe": name, "images": images, "parameters": count_parameters(model)}
        rows.append(facts | score(model, held_out, frames))
        write_table(out, pd.DataFrame(rows))
        print(pd.DataFrame(rows[-1:]).to_string(index=False), file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
