"""A finished run without any training: results, predictions and histories of every row, of masks damaged at random."""

import shutil

import numpy as np
import pandas as pd

from ethand_utils.analysis.cyclegan_table import MEASURES
from ethand_utils.analysis.image_plots import legend_of_parts, save_figure
from ethand_utils.data.datasets import describe
from ethand_utils.data.store_builder import StorePlan, build_store
from ethand_utils.experiments.config import load_profile
from ethand_utils.experiments.methods import table_methods
from ethand_utils.experiments.run import Run, save_result
from ethand_utils.experiments.workflow import stages
from ethand_utils.labels import PARTS
from ethand_utils.training.cyclegan.variants import cycle_training
from ethand_utils.training.metrics import sample_scores, summary

NAMES = [method.name for method in table_methods()]


def damaged(truth, share, seed):
    """Return masks with a share of the pixels changed to a random class."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(truth.shape) < share, rng.integers(len(PARTS), size=truth.shape), truth).astype(np.uint8)


def add_row(folder, row, store, share, split="test", seed=0):
    """Write the result, predictions and history of a training of a row, or of G1."""
    truth, front = np.asarray(store.masks), None if store.front is None else np.asarray(store.front)
    name, training = ("g1", "g1") if row == "g1" else (f"{row}_seed{seed}", f"g2/{row}/seed{seed}")
    masks, place = damaged(truth, share, [["g1", *NAMES].index(row), seed]), folder / "predictions" / name
    confidence, rows = np.linspace(0.2, 0.9, len(store)).astype(np.float32), store.index.to_dict("records")
    made = {"masks": masks, "confidence": confidence}
    meta = {"source": "predictions", "data": split}
    build_store(
        place,
        StorePlan(
            lambda i: {name: made[name][i] for name in made} | {"row": rows[i]},
            len(store),
            store.size,
            tuple(made),
            meta,
        ),
    )
    scores = pd.DataFrame({"id": store.index["id"], "confidence": confidence, **sample_scores(masks, truth, front)})
    scores.to_parquet(place / "metrics.parquet", index=False)
    facts = {"epochs": 2, "pairs": 16, "images_seen": 96, "seconds": 75.0, "parameters": 1234, "device": "cpu"}
    facts |= {"images_per_s": 50.0, "scored_on": split, "scored_samples": len(store)}
    save_result(folder / training, row=row, seed=seed, **summary(masks, truth, front), **facts)
    add_history(folder / training)


def add_history(folder):
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"epoch": [1, 2], "phase": ["unpaired", "paired"], "train_loss": [3, 2.0], "valid_loss": [3, 2.5]}
    pd.DataFrame(columns | {"course_miou": [0.1, 0.2]}).to_csv(folder / "history.csv", index=False)


def make_run(folder, stores, split="test"):
    """Write the files of a finished run; the later the row, the better."""
    shutil.copytree(stores[split].path, folder / "data" / split)
    for number, row in enumerate(NAMES):
        add_row(folder, row, stores[split], 0.6 - 0.1 * number, split)
    add_row(folder, "g1", stores[split], 0.5, split)
    for number, row in enumerate(load_profile("ci").cyclegan):
        scores = {name: 0.5 + 0.1 * number for name in (*MEASURES, "front_real")}
        save_result(folder / cycle_training(row, 0), row=row, seed=0, images_seen=96, **scores)
    table = pd.DataFrame([{"store": name, **describe(store)} for name, store in stores.items()])
    table.to_csv(folder / "data_summary.csv", index=False)
    judged = {"correlation": 0.4, "precision": 0.6, "miou_all": 0.3, "miou_kept": 0.4, "miou_dropped": 0.2}
    save_result(folder / "pseudo", images=16, kept_share=0.5, **judged)
    save_figure(legend_of_parts(), folder / "figures/pseudo_labels.png")
    save_figure(legend_of_parts(), folder / "figures/explore.png")
    (folder / "html").mkdir()
    for stage in stages(load_profile("ci")):
        (folder / "html" / f"{stage.name}.html").write_text("")
    return Run(folder, load_profile("ci"))
