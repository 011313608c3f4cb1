"""Draw the pictures of the pages, from rendered hands and from a benchmark's table: `python docs/pictures.py`."""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ethand_utils.analysis.image_plots import FRONT_COLOURS, colour_mask, overlays, save_figure, strips
from ethand_utils.data.store import Store
from ethand_utils.labels import COLOURS, FINGERS, HANDS, LEFT, PALM, PARTS, RIGHT, min_pixels
from ethand_utils.rendering.options import RenderOptions
from ethand_utils.sources.rendered import render_dataset
from ethand_utils.style import MARKERS, in_style
from ethand_utils.training.inference import Inference, predict
from ethand_utils.training.metrics import class_iou, confusion, hand_miou
from ethand_utils.training.models import load_weights

DOCS = Path(__file__).parent
SIZE, COUNT, SEED = 128, 48, 7
LEAST_OVERLAP = 0.15  # share of a hand's pixels that lie behind the other hand, in the pictures of two hands


def main() -> None:
    """Render some hands, and write every picture beside this file."""
    with tempfile.TemporaryDirectory() as work:
        options = RenderOptions("front", single_share=0.2)
        store = render_dataset(work, 1, 1, COUNT, 1, size=SIZE, seed=SEED, workers=2, options=options)["test"]
        save_figure(task_figure(store, crossing(store)[:3]), DOCS / "task.png")
        save_figure(parts_figure(store, largest(store)), DOCS / "parts.png")
        small = render_dataset(f"{work}/64", 1, 1, COUNT, 1, size=64, seed=SEED, workers=2, options=options)["test"]
        save_figure(metric_figure(small), DOCS / "metric.png")
    save_figure(curve_figure(pd.read_csv(DOCS.parent / "benchmarks/curve.csv")), DOCS / "curve.png")


def crossing(store: Store) -> np.ndarray:
    """Return the samples in which much of one hand lies behind the other, those with most first."""
    both = (store.masks > 0).all(1).sum((1, 2))
    smaller = (store.masks > 0).sum((2, 3)).min(1)
    share = np.where(smaller > 0, both / np.maximum(smaller, 1), 0)
    return np.flatnonzero(share > LEAST_OVERLAP)[np.argsort(-both[share > LEAST_OVERLAP], kind="stable")]


def largest(store: Store) -> tuple[int, int]:
    """Return the sample and the hand whose smallest part is largest."""
    pixels = np.stack([(store.masks == part).sum((2, 3)) for part in range(1, len(PARTS))]).min(0)
    return np.unravel_index(pixels.argmax(), pixels.shape)


def task_figure(store: Store, samples: np.ndarray):
    """Draw images, both amodal masks, and which hand is in front."""
    images, masks = store.images[samples], store.masks[samples]
    columns = {"image": images}
    for hand in (LEFT, RIGHT):
        columns[f"{HANDS[hand]} hand, over it"] = overlays(images, masks[:, hand])
        columns[f"{HANDS[hand]} hand, mask"] = colour_mask(masks[:, hand])
    columns["hand in front, left red"] = FRONT_COLOURS[store.front[samples]]
    return strips(columns, per_row=1)


@in_style
def parts_figure(store: Store, which: tuple[int, int]):
    """Draw a hand in the colours of its parts, with their ids, and the names beside it."""
    sample, hand = which
    mask = store.masks[sample, hand]
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.5), width_ratios=(1, 1.3))
    axes[0].imshow(np.where((mask > 0)[..., None], COLOURS[mask], 255).astype(np.uint8), interpolation="nearest")
    rows, columns = np.nonzero(mask)
    axes[0].set(xlim=(columns.min() - 3, columns.max() + 3), ylim=(rows.max() + 3, rows.min() - 3))
    for part in range(1, len(PARTS)):
        points = np.argwhere(mask == part)
        if len(points):
            y, x = points[np.linalg.norm(points - points.mean(0), axis=1).argmin()]
            axes[0].text(x, y, part, ha="center", va="center", fontsize=11)
    for row, (name, parts) in enumerate([("palm", (PALM,)), *FINGERS.items()]):
        axes[1].text(0, -row, name, va="center")
        for column, part in enumerate(parts, start=1):
            label, box = f"{part} {PARTS[part].split()[-1]}", {"facecolor": COLOURS[part] / 255, "edgecolor": "none"}
            axes[1].text(1.1 * column - 0.3, -row, label, va="center", fontsize=11, bbox=box | {"pad": 4})
    axes[1].set(xlim=(0, 4.1), ylim=(-5.6, 0.6))
    for axis in axes:
        axis.axis("off")
    return figure


@in_style
def metric_figure(store: Store):
    """Draw ground truth and prediction of a hand, and the IoU of every part that counts, by the net of the package."""
    model, notes = load_weights(None)
    predicted = predict(model, np.array(store.images), Inference.of(notes)).masks
    counts = confusion(predicted, store.masks)
    scores = hand_miou(counts, store.size)
    sample, hand = np.unravel_index(np.nanargmin(np.abs(scores - 0.5)), scores.shape)
    figure = plt.figure(figsize=(11, 5.5))
    axes = [figure.add_axes((0.2 * panel, 0.3, 0.19, 0.38)) for panel in range(3)]
    axes.append(figure.add_axes((0.78, 0.1, 0.21, 0.8)))
    mask, other = store.masks[sample, hand], predicted[sample, hand]
    panels = {"image": store.images[sample], "ground truth": COLOURS[mask], "prediction": COLOURS[other]}
    for axis, (name, panel) in zip(axes, panels.items(), strict=False):
        axis.imshow(panel, interpolation="nearest")
        axis.set_title(name)
        axis.axis("off")
    iou, enough = class_iou(counts)[sample, hand], counts[sample, hand].sum(-1) >= min_pixels(store.size)
    parts = [part for part in (PALM, *(p for finger in FINGERS.values() for p in finger)) if enough[part]]
    axes[3].barh([PARTS[part] for part in parts], iou[parts], color=COLOURS[parts] / 255)
    axes[3].axvline(scores[sample, hand], color="black")
    axes[3].set_title(f"IoU by part; mean {scores[sample, hand]:.2f}")
    axes[3].set(xlim=(0, 1))
    axes[3].invert_yaxis()
    return figure


@in_style
def curve_figure(table: pd.DataFrame):
    """Draw what G1 has learned by each recipe of `benchmarks.curve` that was trained for several numbers of minutes."""
    figure, axes = plt.subplots(figsize=(7, 3.6))
    several = table[table.duplicated("recipe", keep=False)].sort_values("minutes")
    for (name, rows), marker in zip(several.groupby("recipe"), MARKERS, strict=False):
        axes.plot(rows["minutes"], rows["course_miou"], f"{marker}-", label=name)
    axes.set(xscale="log", xlabel="minutes of one core, training G1 of tiny", ylabel="course mIoU, 500 test renders")
    minutes = several["minutes"].unique()
    axes.set_xticks(minutes, [f"{number:g}" for number in minutes])
    axes.minorticks_off()
    axes.legend()
    return figure


if __name__ == "__main__":
    main()
