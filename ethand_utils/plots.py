"""Figures in one style: overlays, the report's five panels, contact sheets, curves, tables."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from ethand_utils import EthandError
from ethand_utils.files import atomic_write
from ethand_utils.labels import COLOURS, HANDS, N_CLASSES, PARTS

HAND_COLOURS = {"left": "#d1495b", "right": "#30638e"}
COLUMN_COLOURS = ("#30638e", "#b8c4d6", "#e09f3e")
MISSED, INVENTED, WRONG_PART = (240, 150, 0), (200, 30, 60), (120, 70, 200)
STYLE = {
    "figure.dpi": 110,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "savefig.bbox": "tight",
}
plt.rcParams.update(STYLE)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure, whole or not at all."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary)


def save_image(image: np.ndarray, path: str | Path) -> None:
    """Write an image uint8 [H, W, 3] as PNG, whole or not at all. Raises EthandError when `path` is no .png."""
    if Path(path).suffix.lower() != ".png":
        raise EthandError(f"{path}: expected a file name that ends in .png")
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, optimize=True)


def colour_mask(mask: np.ndarray) -> np.ndarray:
    """Masks [..., H, W] in part colours on black: uint8 [..., H, W, 3]."""
    return COLOURS[mask]


def overlay(image: np.ndarray, mask: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """An image uint8 [H, W, 3] with a mask [H, W] blended over it where it has a part."""
    blended = (1 - opacity) * image + opacity * COLOURS[mask]
    return np.where((mask > 0)[..., None], blended, image).astype(np.uint8)


def error_map(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Errors of a mask [H, W] in colour: missed, invented, wrong part; right pixels grey, right background black."""
    image = np.zeros((*truth.shape, 3), np.uint8)
    image[(predicted == truth) & (truth > 0)] = (70, 70, 70)
    image[(predicted == 0) & (truth > 0)] = MISSED
    image[(predicted > 0) & (truth == 0)] = INVENTED
    image[(predicted > 0) & (truth > 0) & (predicted != truth)] = WRONG_PART
    return image


def _panel(axes, image: np.ndarray, title: str = "") -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.axis("off")


def five_panels(image: np.ndarray, predicted: np.ndarray, truth: np.ndarray, title: str = "") -> Figure:
    """The report's Figure 1 for both hands: overlay, prediction, truth, error map, input; masks [2, H, W]."""
    figure, axes = plt.subplots(len(HANDS), 5, figsize=(10, 4.3))
    names = ("input + prediction", "prediction", "truth", "error map", "input")
    for hand, row in enumerate(axes):
        panels = (
            overlay(image, predicted[hand]),
            colour_mask(predicted[hand]),
            colour_mask(truth[hand]),
            error_map(predicted[hand], truth[hand]),
            image,
        )
        for name, axis, panel in zip(names, row, panels, strict=True):
            _panel(axis, panel, name if hand == 0 else "")
        row[0].text(-0.06, 0.5, f"{HANDS[hand]} hand", rotation=90, va="center", ha="right", transform=row[0].transAxes)
    colours = {"missed": MISSED, "invented": INVENTED, "wrong part": WRONG_PART}
    handles = [Patch(color=np.array(colour) / 255, label=name) for name, colour in colours.items()]
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle(title)
    return figure


def tiles(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Images uint8 [n, H, W, 3] pixel by pixel in a grid, `gap` px of grey between them: uint8 [rows, columns, 3]."""
    count, height, width = images.shape[:3]
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 128, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def contact_sheet(images: np.ndarray, masks: np.ndarray | None = None, columns: int = 8, titles=None) -> Figure:
    """Images uint8 [n, H, W, 3] in a grid; with masks [n, 2, H, W], each followed by left's and right's overlay."""
    panels, width = [], 1 if masks is None else 3
    for i, image in enumerate(images):
        shown = [image] if masks is None else [image, *(overlay(image, mask) for mask in masks[i])]
        panels.append(np.concatenate(shown, axis=1))
    columns = max(1, min(columns // width, len(panels)))
    rows, between = -(-len(panels) // columns), 0.04 if titles is None else 0.2
    grid = dict(left=0, right=1, top=0.97, bottom=0, wspace=0.04 / width, hspace=between)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.35 * columns * width, 1.35 * rows * (1 + between)), squeeze=False, gridspec_kw=grid
    )
    for axis in axes.flat:
        axis.axis("off")
    for i, panel in enumerate(panels):
        _panel(axes.flat[i], panel, titles[i] if titles is not None else "")
    return figure


def legend_of_parts() -> Figure:
    """The colour of every part by name."""
    figure, axes = plt.subplots(figsize=(10, 0.9))
    handles = [Patch(color=COLOURS[i] / 255, label=PARTS[i]) for i in range(1, N_CLASSES)]
    axes.legend(handles=handles, loc="center", ncols=6, frameon=False, fontsize=9)
    axes.axis("off")
    return figure


def curves(history: pd.DataFrame, columns: tuple[str, ...] = ("train_loss", "valid_loss", "course_miou")) -> Figure:
    """A training's `history.csv`: losses together, every other column beside them, its phases shaded."""
    losses = [c for c in columns if c.endswith("loss")]
    groups = [losses, *([c] for c in columns if c not in losses)]
    figure, axes = plt.subplots(1, len(groups), figsize=(4.2 * len(groups), 3), squeeze=False)
    blocks = (history["phase"] != history["phase"].shift()).cumsum()
    for axis, group in zip(axes[0], groups, strict=True):
        for column in group:
            axis.plot(history["epoch"], history[column], marker="o", markersize=3, label=column)
        for number, (_, block) in enumerate(history.groupby(blocks)):
            first, last = block["epoch"].iloc[0] - 0.5, block["epoch"].iloc[-1] + 0.5
            axis.axvspan(first, last, color="0.5", alpha=0.10 if number % 2 else 0.03, lw=0)
            axis.text((first + last) / 2, 1.0, block["phase"].iloc[0], fontsize=8, ha="center", va="bottom",
                      transform=axis.get_xaxis_transform())  # fmt: skip
        axis.set_xlabel("epoch")
        axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def bars(values: pd.Series | pd.DataFrame, title: str, colours=None, xlabel: str = "") -> Figure:
    """Horizontal bars of a named series, first on top; of a table, each column's beside the others'."""
    table = values.to_frame() if isinstance(values, pd.Series) else values
    groups, thickness = table.shape[1], 0.8 / table.shape[1]
    figure, axes = plt.subplots(figsize=(7, (0.16 + 0.1 * groups) * len(table) + 0.8))
    for i, column in enumerate(table):
        at = np.arange(len(table)) + (i - (groups - 1) / 2) * thickness
        colour = colours if colours is not None else COLUMN_COLOURS[i % len(COLUMN_COLOURS)]
        axes.barh(at, table[column].to_numpy(float), thickness, color=colour, label=column)
    axes.set_yticks(range(len(table)), table.index, fontsize=9)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_title(title, loc="left")
    axes.set_xlabel(xlabel)
    if groups > 1:
        axes.legend(frameon=False, fontsize=8)
    return figure


def part_bars(values: np.ndarray, title: str, xlabel: str = "") -> Figure:
    """A value [17] for every part 1…16 in its colour."""
    return bars(pd.Series(values[1:], index=PARTS[1:]), title, COLOURS[1:] / 255, xlabel)


def histograms(columns: dict[str, np.ndarray], xlabel: str, title: str = "", bins=20, mark=None) -> Figure:
    """Histograms of several samples over one axis, NaN left out, each as a share of its sample; a line at `mark`."""
    figure, axes = plt.subplots(figsize=(6, 3))
    known = {name: np.asarray(values)[~np.isnan(values)] for name, values in columns.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(known.values())), bins=bins)
    palette = [HAND_COLOURS.get(name) for name in known]
    for (name, values), colour in zip(known.items(), palette, strict=True):
        weights = np.full(len(values), 1 / max(len(values), 1))
        axes.hist(values, edges, weights=weights, alpha=0.55, label=name, color=colour)
    if mark is not None:
        axes.axvline(mark, color="0.25", ls="--", lw=1)
    axes.set(xlabel=xlabel, ylabel="share", title=title)
    axes.legend(frameon=False)
    return figure


def beside(many: pd.DataFrame, few: pd.DataFrame, labels: dict[str, str], names: tuple[str, str]) -> Figure:
    """For each column of `labels` a histogram of table `many` with every value of table `few` as a tick above it."""
    figure, panels = plt.subplots(-(-len(labels) // 2), 2, figsize=(9, 2.2 * -(-len(labels) // 2)), squeeze=False)
    for axes, (column, label) in zip(panels.flat, labels.items(), strict=False):
        values = few[column].dropna() if column in few else []
        axes.hist(many[column].dropna(), 20, color=HAND_COLOURS["right"], alpha=0.55, label=names[0])
        axes.plot(values, np.full(len(values), 0.93), "|", ms=14, mew=1.5, color=HAND_COLOURS["left"], label=names[1],
                  transform=axes.get_xaxis_transform())  # fmt: skip
        axes.margins(y=0.25)  # room for the ticks
        axes.set(xlabel=label, yticks=[])
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    figure.legend(*axes.get_legend_handles_labels(), loc="upper center", ncols=2, frameon=False)
    return figure


def score_table(table: pd.DataFrame) -> Figure:
    """Table 1 as a figure: the report's score and ours for every row."""
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(table) + 1))
    y = np.arange(len(table))
    axes.barh(y - 0.2, table["reported"], 0.38, label="report (InterHand2.6M)", color="#b8c4d6")
    axes.barh(y + 0.2, table["ours"], 0.38, label="this run", color="#30638e")
    for at, score in zip(y, table["ours"], strict=True):
        axes.text(score + 0.005, at + 0.2, f"{score:.3f}", va="center", fontsize=9)
    axes.set_yticks(y, table["model"])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("course mIoU")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=8)
    return figure


def binned_means(x: np.ndarray, y: np.ndarray, xlabel: str, ylabel: str, bins: int = 10) -> Figure:
    """The mean of `y` over equally filled bins of `x`, over the single points; NaN left out."""
    known = ~np.isnan(y)
    order = np.argsort(x[known])
    figure, axes = plt.subplots(figsize=(6, 3.4))
    axes.scatter(x[known], y[known], s=4, alpha=0.2, color="0.5", lw=0)
    groups = [group for group in np.array_split(order, bins) if len(group)]
    means = [(x[known][group].mean(), y[known][group].mean()) for group in groups]
    if means:
        axes.plot(*zip(*means, strict=True), marker="o", color="#30638e")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure


def curves_together(histories: dict[str, pd.DataFrame], column: str) -> Figure:
    """One column of several trainings' histories by epoch."""
    figure, axes = plt.subplots(figsize=(8, 3.6))
    for name, history in histories.items():
        axes.plot(history["epoch"], history[column], marker="o", markersize=3, label=name)
    axes.set(xlabel="epoch", ylabel=column)
    axes.legend(frameon=False, fontsize=8)
    return figure


def heatmap(table: pd.DataFrame, title: str) -> Figure:
    """A table of shares 0…1 as colours with their values."""
    figure, axes = plt.subplots(figsize=(0.62 * table.shape[1] + 1.5, 0.42 * len(table) + 1.2))
    axes.imshow(table, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color="w" if value > 0.6 else "k")
    axes.set_xticks(range(table.shape[1]), table.columns, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(table)), table.index, fontsize=8)
    axes.grid(visible=False)
    axes.set_title(title, loc="left")
    return figure


def photo_with_masks(photo: np.ndarray, masks: np.ndarray, title: str = "", opacity: float = 0.6) -> Figure:
    """A photo uint8 [H, W, 3] and each hand's mask [2, H, W] over it."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 10 / 3 * photo.shape[0] / photo.shape[1] + 0.4))
    for name, axis, mask in zip(("photo", *HANDS), axes, (np.zeros_like(masks[0]), *masks), strict=True):
        _panel(axis, overlay(photo, mask, opacity), name)
    figure.suptitle(title)
    return figure
