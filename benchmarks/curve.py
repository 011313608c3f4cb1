"""`python -m benchmarks.curve [RECIPE ...]`: what G1 of the profile `tiny` has learned after a few minutes of one core.

The recipe of the profile stands beside the one before it, and beside others. Each training is one cycle of the
learning rate long, so a recipe is trained anew for every number of minutes; `benchmarks/curve.csv` gains a row when it
ends, and what has one is not trained again.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer

from benchmarks.recipes import Recipe, train
from ethand_utils.data.augment import Augmentation
from ethand_utils.data.store import Store
from ethand_utils.exceptions import require_known
from ethand_utils.experiments.config import Profile, load_profile
from ethand_utils.experiments.run import write_table
from ethand_utils.training.inference import predict
from ethand_utils.training.metrics import course_miou

TABLE = Path(__file__).with_suffix(".csv")
MINUTES = (1.0, 3.0, 10.0)
WARM_SECONDS = 0.5  # of a training that is thrown away: the first batches compile kernels


def g1_recipe(p: Profile) -> Recipe:
    """Return the recipe by which a profile trains G1, with its `half_size_share` of the epochs taken as one of time."""
    return Recipe(
        encoder=p.g1_encoder,
        widths=tuple(p.g1_widths),
        loss="ce",
        class_weights=p.class_weights,
        presence=0.0,
        bs=p.bs,
        lr=p.lr,
        rotation=Augmentation().rotation,
        photometric=p.photometric,
        small=p.half_size_share,
    )


def recipes() -> dict[str, Recipe]:
    """Return the recipe that `tiny` had, changes to it, and the one that `tiny` has, which makes all that gain."""
    tiny = g1_recipe(load_profile("tiny"))
    before = replace(tiny, encoder="tu-regnety_002", bs=8, lr=3e-3, small=0.0)
    half = replace(before, small=0.6)
    return {
        "before": before,
        "tiny": tiny,
        "32 px for 60 % of the time": half,
        "32 px for 80 % of the time": replace(before, small=0.8),
        "32 px for 60 %, batches of 16, learning rate 4e-3": replace(half, bs=16, lr=4e-3),
        "32 px for 60 %, learning rate 5e-3": replace(half, lr=5e-3),
        "32 px for 60 %, encoder tu-resnet10t": replace(half, encoder="tu-resnet10t"),
    }


def measure(recipe: Recipe, pairs: Store, held_out: Store, minutes: float) -> dict[str, float]:
    """Train for CPU `minutes` of this process; return the images seen and the course mIoU on a store."""
    train(recipe, pairs, WARM_SECONDS)
    model, images = train(recipe, pairs, 60 * minutes)
    masks = predict(model.eval(), held_out.images).masks
    return {"minutes": minutes, "images": images, "course_miou": course_miou(masks, np.asarray(held_out.masks))}


def main(
    recipe: Annotated[list[str] | None, typer.Argument(help=f"{'; '.join(recipes())} (default: all)")] = None,
    data: Annotated[Path, typer.Option(help="data set of a run of `tiny`")] = Path("outputs/tiny/data"),
    minutes: Annotated[list[float] | None, typer.Option(help="CPU minutes of a training; default: 1, 3, 10")] = None,
    out: Annotated[Path, typer.Option(help="table to write, or to go on with")] = TABLE,
) -> None:
    """Train and score recipes for every number of minutes that the table lacks."""
    chosen = recipes()
    for name in recipe or ():
        require_known("recipe", name, chosen, typer.BadParameter)
    torch.set_num_threads(1)
    pairs, held_out = Store(data / "train"), Store(data / "test")
    rows = pd.read_csv(out).to_dict("records") if out.exists() else []
    done = {(row["recipe"], row["minutes"]) for row in rows}
    for number in minutes or MINUTES:
        for name in recipe or chosen:
            if (name, number) not in done:
                rows.append({"recipe": name, **measure(chosen[name], pairs, held_out, number)})
                write_table(out, pd.DataFrame(rows))
                print(pd.DataFrame(rows[-1:]).to_string(index=False), file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
